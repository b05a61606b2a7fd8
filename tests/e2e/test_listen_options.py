"""Options of listeners, each seen from the client's side."""

import os
import pwd
import smtplib
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from tests.e2e.conftest import Start
from tests.support.certificates import pem_of, write_pair
from tests.support.daemon import free_port

NAMES = """
table names {{ "127.0.0.1" = one.example, "127.0.0.2" = two.example, "127.0.0.4" = "not a name" }}
listen on 0.0.0.0 port {port} hostname own.example hostnames <names>
match from any for any reject
"""
TLS = """
pki mx.example cert "{where}/cert.pem" key "{where}/key.pem"
ca clients cert "{where}/ca.pem"
listen on 127.0.0.1 port {some} smtps pki mx.example ciphers "ECDHE-ECDSA-AES128-GCM-SHA256" protocols "TLSv1.2"
listen on 127.0.0.1 port {verify} smtps verify pki mx.example ca clients
match from any for any reject
"""


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_hostnames_depend_on_the_address_the_client_connected_to(start: Start, port: int) -> None:
    daemon = start(NAMES.format(port=port))
    for address, name in (("127.0.0.1", "one"), ("127.0.0.2", "two"), ("127.0.0.3", "own"), ("127.0.0.4", "own")):
        with socket.create_connection((address, port), timeout=20) as client:
            assert client.recv(1000).startswith(f"220 {name}.example ESMTP ".encode())
            client.sendall(b"EHLO x.example\r\n")
            assert client.recv(1000).startswith(f"250-{name}.example Hello ".encode())
    daemon.until_logged("warn: lka: table names: not a name is no host name")


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_ciphers_protocols_and_certificates_of_clients(
        start: Start, box: Path, user: str, recipient: pwd.struct_passwd) -> None:
    authority = trustme.CA()
    uid = recipient.pw_uid if user else -1
    write_pair(box, pem_of(authority, "mx.example"), uid)
    authority.cert_pem.write_to_path(box / "ca.pem")
    (box / "ca.pem").chmod(0o644)
    if user:
        os.chown(box / "ca.pem", uid, -1)
    ports = {"some": free_port(), "verify": free_port()}
    start(TLS.format(where=box, **ports))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.check_hostname = False
    with smtplib.SMTP_SSL("127.0.0.1", ports["some"], timeout=20, context=context) as client:
        assert isinstance(client.sock, ssl.SSLSocket)
        agreed = client.sock.cipher()
        assert agreed is not None
        assert agreed[:2] == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2")
    with pytest.raises((ssl.SSLError, OSError)):
        smtplib.SMTP_SSL("127.0.0.1", ports["verify"], timeout=20, context=context)
    authority.issue_cert("client.example").configure_cert(context)
    with smtplib.SMTP_SSL("127.0.0.1", ports["verify"], timeout=20, context=context) as client:
        assert client.noop()[0] == 250
