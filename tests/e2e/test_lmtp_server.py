"""``listen ... lmtp``: Python's client of LMTP hands over to it, and Postfix's."""

import pwd
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.support import debian, mail
from tests.support.daemon import until

CONFIG = """
listen on 127.0.0.1 port {lmtp} lmtp tag LMTP
action "local" maildir "{box}/m"
match tag LMTP from any for local action "local"
"""


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_lmtp(start: Start, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
    daemon = start(CONFIG.format(lmtp=port, box=box))
    rcpt = f"{recipient.pw_name}@localhost"
    with smtplib.LMTP("127.0.0.1", port, timeout=20) as client:
        assert client.ehlo("x.example")[0] == 250          # LHLO, as LMTP says it
        assert client.docmd("MAIL FROM:<a@b.example>")[0] == 250
        for one in (rcpt, "nobody.at.all@elsewhere.example", rcpt):
            assert client.docmd(f"RCPT TO:<{one}>")[0] == (250 if one == rcpt else 550)
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: two\r\n\r\n.\r\n")
        assert [client.getreply()[0] for _ in range(2)] == [250, 250]
        assert client.noop()[0] == 250
    daemon.until_logged(r"smtp message msgid=\w{8} size=\d+ nrcpt=2 proto=LMTP")
    arrived = until(lambda: mail.maildir(box / "m"), "a delivery", 30)
    assert b"with LMTP id " in arrived[0]


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_postfix_speaks_lmtp_with_it(start: Start, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
    source = debian.tool("postfix", "usr/sbin/smtp-source")
    start(CONFIG.format(lmtp=port, box=box))
    subprocess.run(
        [source.path, "-L", "-m", "4", "-s", "2", "-l", "2000", "-f", "a@b.example",
         "-t", f"{recipient.pw_name}@{socket.gethostname()}", f"inet:127.0.0.1:{port}"],
        env=source.env, check=True, timeout=60)
    until(lambda: len(mail.maildir(box / "m")) == 4, "4 deliveries", 30)
