"""Aliases, virtual users and .forward, from RCPT to the mailbox."""

import os
import pwd
import shlex
import signal
import smtplib
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import alive, descendants, title, until

CONF = """listen on 127.0.0.1 port {port}
table aliases file:{where}/aliases
action "local" maildir "{box}/maildir" alias <aliases>
match from any for local action "local"
"""


def test_lists_includes_and_commands_of_aliases(start: Start, port: int, recipient: pwd.struct_passwd, where: Path,
                                               box: Path) -> None:
    script = f"cat > {shlex.quote(str(box))}/tmp; mv {shlex.quote(str(box))}/tmp {shlex.quote(str(box))}/piped"
    (where / "list").write_text(f"# members\n{recipient.pw_name}\nno-such-user-here\n", encoding="utf-8")
    (where / "aliases").write_text(
        f'all: one, robot, :include:{where}/list\none: {recipient.pw_name}\nrobot: "|{script}"\n'
        "gone: error:550 5.1.6 Moved away\n", encoding="utf-8")
    daemon = start(CONF.format(port=port, where=where, box=box))
    mail.send(port, "all@localhost", "list")
    until(lambda: (box / "piped").exists(), "the command's output")
    until(lambda: mail.names_in(mail.maildir(box / "maildir"))["list"], "the message")
    assert mail.names_in(mail.maildir(box / "maildir"))["list"] == 1
    assert mail.names_in([(box / "piped").read_bytes()])["list"] == 1
    daemon.until_logged(r"member no-such-user-here of <all@localhost>: no user no-such-user-here in <getpwnam>")


def test_the_sub_address_of_an_aliass_target_chooses_the_folder(
    start: Start, port: int, recipient: pwd.struct_passwd, where: Path, box: Path
) -> None:
    (where / "aliases").write_text(f"news: {recipient.pw_name}+Lists\n", encoding="utf-8")
    folder = box / "maildir" / ".lists"
    folder.mkdir(parents=True)
    for path in (folder.parent, folder):
        os.chown(path, recipient.pw_uid, recipient.pw_gid)
    daemon = start(CONF.format(port=port, where=where, box=box))
    mail.send(port, "news+x@localhost", "tagged")
    until(lambda: mail.names_in(mail.maildir(folder))["tagged"], "the message in its folder")
    daemon.until_logged(r"mda delivery .*to=<news\+x@localhost> .*result=Ok ")


def userbase(where: Path, box: Path, recipient: pwd.struct_passwd, *names: str) -> None:
    """Users whose ids are the recipient's, with a home each in the box."""
    lines = []
    for name in names:
        home = box / name
        home.mkdir(mode=0o700)
        os.chown(home, recipient.pw_uid, recipient.pw_gid)
        lines.append(f"{name} {recipient.pw_uid}:{recipient.pw_gid}:{home}\n")
    (where / "users").write_text("".join(lines), encoding="utf-8")


def forward(home: Path, recipient: pwd.struct_passwd, text: str) -> Path:
    path = home / ".forward"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    os.chown(path, recipient.pw_uid, recipient.pw_gid)
    return path


USERBASE = """listen on 127.0.0.1 port {port}
table users file:{where}/users
action "local" maildir "%{{user.directory}}/mail" userbase <users>
match from any for local action "local"
"""


def test_users_of_a_userbase_have_homes_of_their_own_and_forward(
    start: Start, port: int, recipient: pwd.struct_passwd, where: Path, box: Path
) -> None:
    userbase(where, box, recipient, "carol", "dave")
    forward(box / "carol", recipient, f"dave, \\carol\n\"|cat > {box}/tmp; mv {box}/tmp {box}/piped\"\n")
    daemon = start(USERBASE.format(port=port, where=where))
    mail.send(port, "carol@localhost", "forwarded")
    until(lambda: mail.names_in(mail.maildir(box / "carol" / "mail"))["forwarded"], "the message of carol")
    until(lambda: mail.names_in(mail.maildir(box / "dave" / "mail"))["forwarded"], "the message of dave")
    until(lambda: (box / "piped").exists(), "the command's output")
    daemon.until_logged(r"mda delivery .*user=carol .*result=Ok ")


def test_a_forward_file_that_others_can_write_is_refused(
    start: Start, port: int, recipient: pwd.struct_passwd, where: Path, box: Path
) -> None:
    userbase(where, box, recipient, "carol")
    forward(box / "carol", recipient, "dave\n").chmod(0o666)
    daemon = start(USERBASE.format(port=port, where=where))
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="524"):
        mail.send(port, "carol@localhost", "refused")
    daemon.until_logged(r"warn: lka: .*/carol/\.forward: insecure file")


def test_a_home_that_hangs_stalls_nobody_else(
    start: Start, port: int, recipient: pwd.struct_passwd, where: Path, box: Path
) -> None:
    """As on a file server that is away: who looks into the home does not come back."""
    userbase(where, box, recipient, "carol", "dave", "eve")
    daemon = start(USERBASE.format(port=port, where=where))
    mail.send(port, "carol@localhost", "first")
    [child] = [pid for pid in descendants(daemon.pid) if title(pid) == "pysmtpd: home"]
    os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor(2) as threads:
        sent = {threads.submit(mail.send, port, f"{name}@localhost", "beside"): name for name in ("dave", "eve")}
        done, (hung,) = wait(sent, timeout=60, return_when=FIRST_COMPLETED)
        other = sent[done.pop()]
        until(lambda: mail.names_in(mail.maildir(box / other / "mail"))["beside"], "the message of the other")
        assert not hung.done() and "given up" not in daemon.log
        with pytest.raises(smtplib.SMTPRecipientsRefused, match="424"):
            hung.result(60)
    name = sent[hung]
    daemon.until_logged(rf"warn: parent: .*/{name}: nothing for 1\d seconds: given up")
    daemon.until_logged(rf"warn: lka: .*/{name}/\.forward: not opened within 10 seconds")
    until(lambda: not alive(child), "the end of who hung")
    mail.send(port, f"{name}@localhost", "again")
    until(lambda: mail.names_in(mail.maildir(box / name / "mail"))["again"], "the message of who hung")


def test_the_daemon_explains_what_it_does(start: Start, port: int, recipient: pwd.struct_passwd, where: Path,
                                         box: Path) -> None:
    userbase(where, box, recipient, "carol")
    forward(box / "carol", recipient, "\\carol\nrob\n")
    daemon = start(USERBASE.format(port=port, where=where))
    told = daemon.smtpctl("explain", "--rcpt", "carol@localhost", "--src", "192.0.2.1", "--rdns", "b.example").stdout
    assert f"user carol  ({box}/carol/.forward)".encode() in told
    assert f"maildir {box}/carol/mail".encode() in told and b"no user rob in users" in told
    refused = daemon.smtpctl("explain", "--rcpt", "rob@localhost", check=False)
    assert refused.returncode == 1 and b"because: no user rob in users" in refused.stdout


def test_the_owner_of_a_list_gets_a_report_of_a_bad_member(start: Start, port: int, recipient: pwd.struct_passwd,
                                                          where: Path, box: Path) -> None:
    (where / "aliases").write_text(f"all: {recipient.pw_name}, no-such-user-here\nowner-all: {recipient.pw_name}\n",
                                   encoding="utf-8")
    daemon = start(CONF.format(port=port, where=where, box=box))
    mail.send(port, "all@localhost", "listed")
    until(lambda: len(mail.maildir(box / "maildir")) == 2, "the message and the report")
    [report] = [text for text in mail.maildir(box / "maildir") if b"multipart/report" in text]
    assert b"Final-Recipient: rfc822; all@localhost" in report or b"no-such-user-here" in report
    assert b"To: owner-all@localhost" in report
    daemon.until_logged(r"member no-such-user-here of <all@localhost>")
