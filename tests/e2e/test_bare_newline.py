"""Bare line ends on the way through the whole daemon: refused, or normalized, and never the end of a message."""

import pwd
import socket
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import until

CONFIG = """
smtp bare-newline {what}
listen on 127.0.0.1 port {port}
action "local" maildir "{box}/m"
match from any for local action "local"
"""
TEXT = (b"Subject: x\nX-Test: bare\r\n\r\none\n.\r\nMAIL FROM:<evil@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\n"
        b"Subject: smuggled\rX-Test: smuggled\r\n\r\ntwo\0\r\n.\nthree")


def say(port: int, to: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"EHLO x.example\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<%s>\r\nDATA\r\n%s\r\n.\r\nQUIT\r\n"
                       % (to, TEXT % to))
        heard = b""
        while data := client.recv(65536):
            heard += data
    return heard


@pytest.mark.parametrize("user", ["user"], indirect=True)
@pytest.mark.parametrize("what", ["reject", "normalize"])
def test_bare_newline(start: Start, box: Path, user: str, port: int, recipient: pwd.struct_passwd, what: str) -> None:
    start(CONFIG.format(what=what, box=box, port=port))
    to = f"{recipient.pw_name}@localhost".encode()
    *_, reply, bye = say(port, to).splitlines()
    assert bye == b"221 2.0.0 Bye"
    if what == "reject":
        assert reply == b"550 5.5.2 Syntax error: Bare CR or LF in message"
        return
    assert b"accepted for delivery" in reply
    until(lambda: mail.maildir(box / "m"), "the message")
    [text] = mail.maildir(box / "m")
    assert b"\nSubject: x\nX-Test: bare\n" in text
    # The last dot began a line, because CRLF was before it; what is behind it does not matter.
    assert text.endswith(b"\n\none\n.\nMAIL FROM:<evil@example.net>\nRCPT TO:<%s>\nDATA\n"
                         b"Subject: smuggled\nX-Test: smuggled\n\ntwo\n\nthree\n" % to)
