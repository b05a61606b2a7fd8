"""Slow and hostile clients of the real daemon: what they do costs them, and nobody else."""

import base64
import contextlib
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pysmtpd.base.procs import Proc
from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.certificates import pem_of, write_pair
from tests.support.daemon import free_port, memory, until

CONFIG = """
pki here cert "{box}/cert.pem" key "{box}/key.pem"
listen on 127.0.0.1 port {port} tls pki here
listen on 127.0.0.1 port {tls} smtps pki here
action "local" maildir "{box}/m"
match from any for local action "local"
"""
SLOW = 60
GROWTH_MAX = 60 * 1024 * 1024      # octets
pytestmark = pytest.mark.parametrize("user", ["user"], indirect=True)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(box: Path, authority: trustme.CA) -> int:
    """A port for smtps; the certificate is written."""
    write_pair(box, pem_of(authority, "mx.example"), box.stat().st_uid)
    return free_port()


@contextlib.contextmanager
def many(port: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections, each of which said something."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(SLOW)]
        for sock in socks:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(first)
        yield socks


def serves(port: int, recipient: str, name: str) -> None:
    """Somebody else is served as if nothing was."""
    before = time.monotonic()
    mail.send(port, f"{recipient}@localhost", name)
    assert time.monotonic() - before < 10


def test_octet_by_octet(start: Start, port: int, tls: int, box: Path) -> None:
    """A message of one client; of many others only as much as came."""
    recipient = box.owner()
    daemon = start(CONFIG.format(port=port, tls=tls, box=box))
    dialogue = (b"EHLO slow.example\r\nMAIL FROM:<a@slow.example>\r\nRCPT TO:<%s@localhost>\r\nDATA\r\n"
                b"Subject: slow\r\nMessage-ID: <slow@slow.example>\r\n\r\nhello\r\n.\r\nQUIT\r\n" % recipient.encode())
    with many(port) as socks:
        for at in range(len(dialogue)):
            for sock in socks[: SLOW if at < 100 else 1]:
                sock.sendall(dialogue[at : at + 1])
            if at in (50, 130):
                serves(port, recipient, f"other-{at}")
        heard = b""
        while piece := socks[0].recv(4096):
            heard += piece
        assert [line[:3] for line in heard.splitlines() if line[3:4] == b" "] == [
            b"220", b"250", b"250", b"250", b"354", b"250", b"221"]
    until(lambda: len(mail.maildir(box / "m")) == 3, "three messages")
    assert "bug" not in daemon.log


def test_who_never_reads_costs_nobody_else(start: Start, port: int, tls: int, box: Path) -> None:
    """A window of zero: its replies pile up to a bound, then it is not read either."""
    daemon = start(CONFIG.format(port=port, tls=tls, box=box))
    smtp = daemon.pids()[Proc.SMTP]
    before = memory(smtp, "VmRSS")
    with many(port, b"EHLO deaf.example\r\n") as socks:
        for sock in socks:
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                for _ in range(200):
                    sock.send(b"HELP\r\n" * 1000)
        serves(port, box.owner(), "while-deaf")
        assert memory(smtp, "VmRSS") - before < GROWTH_MAX
    until(lambda: len(mail.maildir(box / "m")) == 1, "the message")


@pytest.mark.parametrize("first", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
def test_handshakes_that_never_end_hold_up_nobody(
        start: Start, port: int, tls: int, box: Path, authority: trustme.CA, first: bytes) -> None:
    start(CONFIG.format(port=port, tls=tls, box=box))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with many(tls, first):
        serves(port, box.owner(), "while-shaking")
        with socket.create_connection(("127.0.0.1", tls), timeout=20) as sock, \
                context.wrap_socket(sock, server_hostname="mx.example") as client:
            assert client.recv(1000).startswith(b"220 ")


@pytest.mark.parametrize(("said", "reason"), [
    (b"EHLO plain.example\r\n", r"\S.*"), (b"GET / HTTP/1.0\r\n\r\n", "http request"),
    (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", r"\S.*"), (b"", "unexpected end"),
])
def test_what_is_no_handshake_is_told_with_its_address(
        start: Start, port: int, tls: int, box: Path, said: bytes, reason: str) -> None:
    daemon = start(CONFIG.format(port=port, tls=tls, box=box))
    with socket.create_connection(("127.0.0.1", tls), timeout=20) as sock:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1000)
    found = daemon.until_logged(rf'^(\w{{16}}) smtp tls-failed address=127\.0\.0\.1 reason="{reason}"$')
    daemon.until_logged(rf"^{found[1]} smtp disconnected reason=tls-accept-failed$")


def test_a_handshake_octet_by_octet(start: Start, port: int, tls: int, box: Path, authority: trustme.CA) -> None:
    start(CONFIG.format(port=port, tls=tls, box=box))
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="mx.example")
    heard = b""
    with socket.create_connection(("127.0.0.1", tls), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while not heard:
            try:
                heard = client.read(1000)
            except ssl.SSLWantReadError:
                for octet in outgoing.read():
                    sock.sendall(bytes([octet]))
                incoming.write(sock.recv(65536))
    assert heard.startswith(b"220 ")


LOGIN = """
pki here cert "{box}/cert.pem" key "{box}/key.pem"
table friends file:{friends}
table creds {{ joe = "{{PLAIN}}secret" }}
smtp limit auth-fail 2/h exempt <friends>
listen on 127.0.0.1 port {port} tls pki here auth <creds>
match from auth for any reject
"""


def attempt(port: int, source: str, authority: trustme.CA, password: str) -> int:
    """The code that one login gets."""
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    context.check_hostname = False
    with smtplib.SMTP("127.0.0.1", port, timeout=30, source_address=(source, 0)) as client:
        client.starttls(context=context)
        client.ehlo()
        with contextlib.suppress(smtplib.SMTPServerDisconnected):
            return client.docmd("AUTH", "PLAIN " + base64.b64encode(f"\0joe\0{password}".encode()).decode())[0]
    return 0


def test_who_guesses_passwords_is_barred_with_its_address_unless_exempt(
        start: Start, port: int, tls: int, box: Path, where: Path, authority: trustme.CA) -> None:
    friends = where / "friends"
    friends.write_text("127.0.1.0/24\n")
    friends.chmod(0o644)
    daemon = start(LOGIN.format(port=port, box=box, friends=friends))
    assert attempt(port, "127.0.0.1", authority, "secret") == 235
    assert [attempt(port, "127.0.0.1", authority, "wrong") for _ in range(2)] == [535, 535]
    assert attempt(port, "127.0.0.1", authority, "secret") == 421
    assert [attempt(port, "127.0.1.9", authority, "wrong") for _ in range(3)] == [535] * 3
    assert attempt(port, "127.0.1.9", authority, "secret") == 235
    daemon.until_logged(r"^\w{16} smtp auth-failed address=127\.0\.0\.1 user=joe mechanism=PLAIN$")
    daemon.until_logged(r"^\w{16} smtp limited address=127\.0\.0\.1 limit=auth-fail$")
    assert "wrong" not in daemon.log
