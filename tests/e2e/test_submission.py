"""Mail comes in: by real clients over TCP, and from programs through the control socket."""

import os
import pwd
import smtplib
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import IS_ROOT, Start
from tests.support import debian, mail
from tests.support.daemon import Daemon, free_port, run_smtpctl, until


@pytest.fixture
def daemon(start: Start, port: int, box: Path) -> Daemon:
    v6 = free_port("::1")
    return start(
        f'listen on 127.0.0.1 port {port}\nlisten on ::1 port {v6}\n'
        f'action "local" maildir "{box}/m"\nmatch from any for local action "local"\nmatch for any reject\n')


def arrived(box: Path, name: str) -> bytes:
    """The message with this name, once it is there."""
    def look() -> bytes | None:
        return next((text for text in mail.maildir(box / "m") if mail.names_in([text])[name]), None)

    return until(look, f"{name} in {box}")


def test_smtplib(daemon: Daemon, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
    mail.send(port, f"{recipient.pw_name}@localhost", "one")
    text = arrived(box, "one")
    assert text.startswith(b"Return-Path: <sender@load.example>\nDelivered-To: ")
    assert b"\r" not in text
    assert text.partition(b"\n\n")[2] == mail.letter("one").replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    assert all(header in text for header in (b"\nDate: ", b"\nMessage-ID: <", b"\nX-Test: one\n"))
    daemon.until_logged(rf"smtp envelope evpid=[0-9a-f]{{16}} from=<sender@load.example> to=<{recipient.pw_name}@")
    daemon.until_logged(rf"mda delivery evpid=[0-9a-f]{{16}} .* user={recipient.pw_name} delay=\ds result=Ok ")


def test_ipv6(daemon: Daemon, box: Path, recipient: pwd.struct_passwd) -> None:
    port = int(daemon.config.read_text(encoding="utf-8").split("::1 port ")[1].split("\n")[0])
    mail.send(port, f"{recipient.pw_name}@localhost", "six", address="::1")
    assert b"::1]" in arrived(box, "six")


def test_swaks(daemon: Daemon, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
    tool = debian.tool("swaks", "usr/bin/swaks")
    done = subprocess.run(
        ["perl", tool.path, "--server", f"127.0.0.1:{port}", "--from", "swaks@client.example", "--to",
         f"{recipient.pw_name}@localhost", "--helo", "client.example",
         "--pipeline", "--header", "X-Test: swaks", "--timeout", "20"],
        env=dict(tool.env), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"Return-Path: <swaks@client.example>" in arrived(box, "swaks")


def test_an_unknown_recipient_is_refused_at_once(daemon: Daemon, port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.ehlo("here")
        client.mail("a@b.example")
        code, text = client.rcpt("no-such-user@localhost")
    assert code == 550 and b"no-such-user@localhost" in text


def test_a_foreign_domain_is_refused(daemon: Daemon, port: int) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
        mail.send(port, "a@elsewhere.example", "relay")
    assert {code for code, _ in caught.value.recipients.values()} == {550}


def test_two_recipients_and_two_messages_on_one_connection(
        daemon: Daemon, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
    to = [f"{recipient.pw_name}@localhost", f"{recipient.pw_name}+more@localhost"]
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.sendmail(mail.SENDER, to, mail.letter("both"))
        client.sendmail(mail.SENDER, to[:1], mail.letter("next"))
    until(lambda: mail.names_in(mail.maildir(box / "m")) == {"both": 2, "next": 1}, "three deliveries")


def test_sendmail_by_the_daemons_own_user(
        daemon: Daemon, box: Path, recipient: pwd.struct_passwd, user: str) -> None:
    run_smtpctl("sendmail", ["-i", recipient.pw_name], data=b"Subject: x\nX-Test: own\n\n.\nmore\n", user=user,
                environ={"PATH": os.environ["PATH"], "PYSMTPD_STATE_DIR": str(daemon.state)})
    text = arrived(box, "own")
    assert text.endswith(b"\n\n.\nmore\n")
    assert all(header in text.lower() for header in (b"\nfrom: ", b"\ndate: ", b"\nmessage-id: <"))


def test_addresses_of_any_script_in_any_locale(start: Start, port: int, box: Path, recipient: pwd.struct_passwd,
                                               user: str) -> None:
    """By sendmail, through the queue that mailq shows, into a mailbox."""
    daemon = start(f"""listen on 127.0.0.1 port {port}
table people {{ "@" = "{recipient.pw_name}" }}
action "in" maildir "{box}/m" virtual <people>
action "out" relay host smtp://127.0.0.1:{free_port()}
match for domain "b\u00fccher.example" action "in"
match for any action "out"
""")
    environ = {"PATH": os.environ["PATH"], "PYSMTPD_STATE_DIR": str(daemon.state), "LC_ALL": "C"}
    letter = ("From: J\u00fcrgen <j\u00fcrgen@b\u00fccher.example>\nTo: \u7528 <\u7528@B\u00fccher.example>\n"
              "Bcc: \u6237@far.example\nX-Test: any\n\n\u00fc\n").encode()
    run_smtpctl("sendmail", ["-t"], data=letter, user=user, environ=environ)
    text = arrived(box, "any").decode()
    assert "Delivered-To: \u7528@xn--bcher-kva.example\n" in text and "with UTF8SMTPA id" in text
    assert letter.decode().partition("Bcc")[0] in text and "Bcc" not in text
    shown = run_smtpctl("mailq", [], user=user, environ=environ).stdout.decode()
    assert "|j\u00fcrgen@xn--bcher-kva.example|\u6237@far.example|" in shown


@pytest.mark.root
def test_sendmail_as_nobody_without_a_home(start: Start, where: Path, port: int) -> None:
    """To a daemon of root's; $HOME unset."""
    nobody = pwd.getpwnam("nobody")
    box = where / "box"
    box.mkdir(mode=0o700)
    os.chown(box, nobody.pw_uid, nobody.pw_gid)
    daemon = start(f'listen on 127.0.0.1 port {port}\naction "local" maildir "{box}/m"\n'
                   'match for local action "local"\n', user="")
    run_smtpctl("sendmail", ["-t"], data=b"To: nobody\nSubject: x\nX-Test: nobody\n\nbody\n", user="nobody",
                environ={"PATH": os.environ["PATH"], "PYSMTPD_STATE_DIR": str(daemon.state)})
    assert b"Return-Path: <nobody@" in arrived(box, "nobody")


@pytest.mark.root
def test_others_may_only_submit(daemon: Daemon, user: str) -> None:
    """smtpctl of somebody else than root and the daemon's user."""
    other = "games"
    done = run_smtpctl("smtpctl", ["--state-dir", str(daemon.state), "show", "queue"], user=other, check=False)
    assert done.returncode != 0
    assert b"ermission" in done.stderr or b"rivilege" in done.stderr, done.stderr
    assert IS_ROOT


def test_s_nail_through_sendmail(daemon: Daemon, box: Path, where: Path, recipient: pwd.struct_passwd,
                                 user: str) -> None:
    """A mail program that runs sendmail itself."""
    tool = debian.tool("s-nail", "usr/bin/s-nail")
    script = where / "sendmail"
    script.write_text(
        f'#!/bin/sh\nexport PYSMTPD_STATE_DIR={daemon.state}\nexec {daemon.python} -I -c "import sys; '
        "sys.argv = ['sendmail'] + sys.argv[1:]; from smtpctl.__main__ import main; sys.exit(main())\" \"$@\"\n",
        encoding="ascii")
    script.chmod(0o755)
    entry = pwd.getpwnam(user) if user else None
    done = subprocess.run(
        [tool.path, "-n", "-S", f"mta={script}", "-S", "v15-compat", "-s", "by s-nail", recipient.pw_name],
        input=b"Hello.\n", env={**tool.env, "HOME": str(where), "MAILRC": "/dev/null"}, capture_output=True, timeout=60,
        check=False, cwd="/", user=entry.pw_uid if entry else None, group=entry.pw_gid if entry else None,
        extra_groups=[] if entry else None)
    assert done.returncode == 0, done.stderr
    until(lambda: any(b"Subject: by s-nail" in text for text in mail.maildir(box / "m")), "the message")
