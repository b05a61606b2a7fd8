"""TLS of the real daemon: certificates that are replaced while it runs."""

import contextlib
import datetime
import pwd
import smtplib
import ssl
from pathlib import Path

import trustme

from tests.e2e.conftest import Start
from tests.support.certificates import pem_of, write_pair
from tests.support.daemon import Daemon, until

CONFIG = """
pki mx.example cert "{where}/cert.pem" key "{where}/key.pem"
listen on 127.0.0.1 port {port} tls-require pki mx.example
match from any for any reject
"""


def hello(port: int, authority: trustme.CA) -> smtplib.SMTP | None:
    """A connection that speaks TLS with a server this authority vouches for."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    client = smtplib.SMTP("127.0.0.1", port, timeout=20)
    client._host = "mx.example"        # type: ignore[attr-defined]  # the name to verify
    try:
        client.starttls(context=context)
    except ssl.SSLCertVerificationError:
        client.close()
        return None
    return client


def status(daemon: Daemon) -> str:
    return daemon.smtpctl("show", "status").stdout.decode()


def test_a_certificate_is_replaced_while_sessions_go_on(
        start: Start, port: int, box: Path, user: str, recipient: pwd.struct_passwd) -> None:
    old, new = trustme.CA(), trustme.CA()
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3, hours=1)
    uid = -1 if not user else recipient.pw_uid
    write_pair(box, pem_of(old, "mx.example", until=soon), uid)
    daemon = start(CONFIG.format(where=box, port=port))
    daemon.until_logged(r"warn: smtp: pki mx\.example: the certificate expires on \d{4}-\d\d-\d\d, in 3 days")
    assert "\ncertificate of pki mx.example expires on " in status(daemon)
    client = hello(port, old)
    assert client is not None

    (box / "cert.pem").write_bytes(pem_of(new, "mx.example")[0])     # not the key's
    daemon.until_logged(r"warn: smtp: pki mx\.example: the certificate and the key do not belong together; ", 20)
    other = hello(port, old)
    assert other is not None
    other.quit()

    write_pair(box, pem_of(new, "mx.example"), uid)
    daemon.until_logged(r"info: smtp: pki mx\.example: the new certificate is in use, valid until ", 20)
    with contextlib.closing(until(lambda: hello(port, new), "the new certificate")):
        assert hello(port, old) is None
        assert client.noop()[0] == 250
    assert "certificate" not in status(daemon)
    client.quit()
