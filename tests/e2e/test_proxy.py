"""Behind a real HAProxy: the client is who HAProxy says it is, in both versions of its protocol, also under TLS."""

import os
import pwd
import smtplib
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.e2e.conftest import Start
from tests.support import debian
from tests.support.certificates import pem_of, write_pair
from tests.support.daemon import free_port, until

CONFIG = """
pki mx.example cert "{where}/cert.pem" key "{where}/key.pem"
table proxies {{ {proxies} }}
listen on 127.0.0.1 port {both} proxy from <proxies>
listen on 127.0.0.1 port {two} proxy-v2
listen on 127.0.0.1 port {tls} smtps pki mx.example proxy from <proxies>
match from any for any reject
"""
HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 20s
    timeout server 20s
listen v1
    bind 127.0.0.1:{a}
    server s 127.0.0.1:{both} send-proxy
listen v2
    bind 127.0.0.1:{b}
    server s 127.0.0.1:{two} send-proxy-v2 check check-send-proxy inter 200ms
listen tls
    bind 127.0.0.1:{c}
    server s 127.0.0.1:{tls} send-proxy-v2
"""


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_haproxy(start: Start, where: Path, box: Path, user: str, recipient: pwd.struct_passwd) -> None:
    haproxy = debian.tool("haproxy", "usr/sbin/haproxy")
    ports = {name: free_port() for name in ("both", "two", "tls", "a", "b", "c")}
    authority = trustme.CA()
    write_pair(box, pem_of(authority, "mx.example"), recipient.pw_uid if user else -1)
    daemon = start(CONFIG.format(where=box, proxies='"127.0.0.1"', **ports))
    file = where / "haproxy.cfg"
    file.write_text(HAPROXY.format(**ports))
    proxy = subprocess.Popen([haproxy.path, "-db", "-f", str(file)], env=haproxy.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def up() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", ports["a"])) == 0

        until(up, "HAProxy")
        for address, port in (("127.0.0.5", ports["a"]), ("127.0.0.6", ports["b"])):
            with smtplib.SMTP("127.0.0.1", port, timeout=20, source_address=(address, 0)) as client:
                assert client.ehlo("x.example")[1].find(f"[{address}]".encode()) > 0
            daemon.until_logged(rf"smtp connected address={address} host=")
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        context.check_hostname = False
        with smtplib.SMTP_SSL("127.0.0.1", ports["c"], timeout=20, source_address=("127.0.0.7", 0),
                              context=context) as client:
            assert client.ehlo("x.example")[1].find(b"[127.0.0.7]") > 0
    finally:
        proxy.terminate()
        proxy.wait(20)


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_who_is_no_proxy(start: Start, box: Path, user: str, recipient: pwd.struct_passwd) -> None:
    ports = {name: free_port() for name in ("both", "two", "tls")}
    write_pair(box, pem_of(trustme.CA(), "mx.example"), recipient.pw_uid if user else -1)
    daemon = start(CONFIG.format(where=box, proxies='"192.0.2.0/24"', **ports))
    with socket.create_connection(("127.0.0.1", ports["both"]), timeout=20) as client:
        client.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 1234 25\r\nEHLO x\r\n")
        assert client.recv(1000).startswith(b"554 5.7.1 ")
    daemon.until_logged(r'proxy [0-9a-f]{16} event=closed address=127\.0\.0\.1 reason="not a trusted proxy"')
    with socket.create_connection(("127.0.0.1", ports["two"]), timeout=20) as client:
        client.sendall(b"EHLO x\r\n")
        assert client.recv(1000) == b""
    daemon.until_logged(r'event=closed address=127\.0\.0\.1 reason="protocol error \(invalid signature\)"')
    assert os.path.exists(f"/proc/{daemon.pid}")
