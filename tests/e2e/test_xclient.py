"""XCLIENT as swaks says it, and XFORWARD as a real Postfix does."""

import pwd
import re
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.support import debian, mail
from tests.support.daemon import free_port, until
from tests.support.postfix import Postfix

CONFIG = """
table proxies {{ 127.0.0.1 }}
smtp xclient from <proxies>
smtp xforward from <proxies>
smtp limit max-conn-per-client 2
listen on 127.0.0.1 port {port}
action "local" maildir "{box}/m"
match from src 203.0.113.9 for domain elsewhere.example action "local"
match from auth for domain elsewhere.example action "local"
match from any for local action "local"
"""


def swaks(port: int, to: str, *options: str) -> subprocess.CompletedProcess[str]:
    tool = debian.tool("swaks", "usr/bin/swaks")
    return subprocess.run(
        ["perl", tool.path, "--server", f"127.0.0.1:{port}", "--from", "a@client.example", "--to", to, "--helo",
         "client.example", "--timeout", "20", *options],
        env=dict(tool.env), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_swaks_is_whom_it_says(start: Start, box: Path, user: str, port: int, recipient: pwd.struct_passwd) -> None:
    daemon = start(CONFIG.format(box=box, port=port))
    to, relayed = (f"{recipient.pw_name}@{domain}" for domain in ("localhost", "elsewhere.example"))
    done = swaks(port, to, "--xclient-addr", "203.0.113.7", "--xclient-name", "mx.other.example",
                 "--header", "X-Test: xclient")
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: mail.names_in(mail.maildir(box / "m")) == {"xclient": 1}, "the message")
    [text] = mail.maildir(box / "m")
    assert b"from client.example (mx.other.example [203.0.113.7])" in text
    daemon.until_logged("smtp connected address=203.0.113.7 host=mx.other.example")
    # the rules ask about the address and the login that were said
    for options, refused in (
            (("--xclient-addr", "203.0.113.7"), True), (("--xclient-addr", "203.0.113.9"), False),
            (("--xclient-login", "joe"), False), (("--xclient-login", "joe", "--xclient-addr", "203.0.113.7"), False)):
        done = swaks(port, relayed, "--quit-after", "RCPT", "--xclient-name", "x.example", *options)
        assert ("550 Invalid recipient" in done.stdout) is refused, (options, done.stdout)


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_limits_are_those_of_the_client(start: Start, box: Path, user: str, port: int,
                                        recipient: pwd.struct_passwd) -> None:
    start(CONFIG.format(box=box, port=port))
    clients = [smtplib.SMTP("127.0.0.1", port, timeout=20)]
    for _ in range(2):
        # Each makes room for the next: the proxy's own address is not counted any more.
        assert clients[-1].docmd("XCLIENT", "ADDR=203.0.113.8 NAME=x.example")[0] == 220
        clients.append(smtplib.SMTP("127.0.0.1", port, timeout=20))
    code, text = clients[-1].docmd("XCLIENT", "ADDR=203.0.113.8 NAME=x.example")
    assert (code, text) == (421, b"4.7.0 Too many connections from your address or network")
    clients[0].quit()
    for client in clients[2:]:
        client.close()

    def admitted() -> bool:
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            return client.docmd("XCLIENT", "ADDR=203.0.113.8 NAME=x.example")[0] == 220

    until(admitted, "room for one more")
    clients[1].close()


@pytest.mark.root
@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_postfix_forwards(start: Start, box: Path, where: Path, user: str, port: int,
                          recipient: pwd.struct_passwd) -> None:
    """Its after-queue client and its before-queue proxy."""
    daemon = start(CONFIG.format(box=box, port=port))
    to = f"{recipient.pw_name}@localhost"
    for name, settings in (
            ("relay", {"relayhost": f"[127.0.0.1]:{port}", "smtp_send_xforward_command": "yes"}),
            ("proxy", {"smtpd_proxy_filter": f"127.0.0.1:{port}"})):
        with Postfix(where / name, free_port(), settings) as postfix:
            with smtplib.SMTP("127.0.0.1", postfix.port, timeout=20, source_address=("127.0.0.3", 0)) as client:
                client.ehlo("six.example")
                client.sendmail("a@client.example", [to], mail.letter(name))
            until(lambda name=name: name in mail.names_in(mail.maildir(box / "m")), name, 60.0)  # type: ignore[misc]
    forwarded = re.findall(r"smtp xforward msgid=[0-9a-f]{8} name=(\S+) addr=(\S+) port=\d+ proto=ESMTP helo=(\S+) "
                           r"ident=(\S+) source=(\S+)", daemon.log)
    assert [(address, helo) for _, address, helo, _, _ in forwarded] == [("127.0.0.3", "six.example")] * 2
    assert re.fullmatch("[0-9A-Za-z]+", forwarded[0][3])
