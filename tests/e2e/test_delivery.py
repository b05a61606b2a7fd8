"""Local delivery: each method, as the recipient and nobody else."""

import os
import pwd
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import IS_ROOT, Start
from tests.support import debian, mail
from tests.support.daemon import alive, descendants, free_port, title, until
from tests.support.sink import Sink

LOCAL = 'listen on 127.0.0.1 port {port}\naction "local" {how}\nmatch from any for local action "local"\n'


def test_maildir_of_the_home(start: Start, port: int, recipient: pwd.struct_passwd, box: Path) -> None:
    """%{user.username} in a path; directories are the recipient's and closed to others."""
    start(LOCAL.format(port=port, how=f'maildir "{box}/%{{user.username}}/mail"'))
    mail.send(port, f"{recipient.pw_name}@localhost", "maildir")
    path = box / recipient.pw_name / "mail"
    until(lambda: mail.names_in(mail.maildir(path))["maildir"], "the message")
    [file] = (path / "new").iterdir()
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (recipient.pw_uid, 0o600)
    assert path.stat().st_mode & 0o777 == 0o700
    assert not list((path / "tmp").iterdir())


def test_binary_mail_is_kept_to_the_octet(start: Start, port: int, recipient: pwd.struct_passwd, box: Path) -> None:
    start(LOCAL.format(port=port, how=f'maildir "{box}/mail"'))
    body = b"Subject: binary\r\n\r\n" + bytes(range(256)) * 600
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"EHLO x\r\nMAIL FROM:<a@example.org> BODY=BINARYMIME\r\nRCPT TO:<%b@localhost>\r\n"
                     b"BDAT 1000\r\n%bBDAT %d LAST\r\n%bQUIT\r\n"
                     % (recipient.pw_name.encode(), body[:1000], len(body) - 1000, body[1000:]))
        said = replies.read().decode()
    assert "Message accepted for delivery" in said
    [file] = until(lambda: list((box / "mail" / "new").glob("*")), "the message")
    assert file.read_bytes().endswith(body[body.index(b"\r\n\r\n") :])


def test_an_internationalized_domain(start: Start, port: int, recipient: pwd.struct_passwd, box: Path) -> None:
    """Told in U-form in the configuration and by the client, kept in A-form, and found either way."""
    daemon = start(f"""listen on 127.0.0.1 port {port}
action "local" maildir "{box}/mail"
match from any for domain "b\u00fccher.example" action "local"
""")
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as replies:
        for domain in ("B\u00fccher.example", "xn--bcher-kva.example"):
            sock.sendall(f"EHLO x\r\nMAIL FROM:<j\u00fcrgen@a.example> SMTPUTF8 BODY=8BITMIME\r\n"
                         f"RCPT TO:<{recipient.pw_name}@{domain}>\r\nDATA\r\nSubject: \u00fc\r\n\r\nx\r\n.\r\n"
                         .encode())
        sock.sendall(b"QUIT\r\n")
        assert replies.read().count(b"Message accepted for delivery") == 2
    until(lambda: len(list((box / "mail" / "new").glob("*"))) == 2, "the messages")
    daemon.until_logged(f"from=<j\u00fcrgen@a.example> to=<{recipient.pw_name}@xn--bcher-kva.example>")
    assert b"with UTF8SMTP id" in next((box / "mail" / "new").glob("*")).read_bytes()


def test_a_command(start: Start, port: int, recipient: pwd.struct_passwd, box: Path) -> None:
    script = 'id -u > {0}/uid; env > {0}/env; cat > {0}/tmp; mv {0}/tmp {0}/mail'.format(shlex.quote(str(box)))
    daemon = start(LOCAL.format(port=port, how=f'mda "{script}"'))
    mail.send(port, f"{recipient.pw_name}@localhost", "command")
    until(lambda: (box / "mail").exists(), "the command's output")
    assert mail.names_in([(box / "mail").read_bytes()])["command"] == 1
    assert (box / "uid").read_text(encoding="ascii").strip() == str(recipient.pw_uid)
    environ = dict(line.split("=", 1) for line in (box / "env").read_text(encoding="utf-8").splitlines() if "=" in line)
    assert environ["SENDER"] == mail.SENDER
    assert environ["RECIPIENT"] == f"{recipient.pw_name}@localhost"
    assert "PYSMTPD_USER" not in environ
    daemon.until_logged(r"mda delivery .*result=Ok ")


def test_a_command_that_fails_for_now(start: Start, port: int, recipient: pwd.struct_passwd) -> None:
    daemon = start(LOCAL.format(port=port, how='mda "echo try later; exit 75"'))
    mail.send(port, f"{recipient.pw_name}@localhost", "tempfail")
    daemon.until_logged(r"mda delivery .*result=TempFail stat=.*try later")


def test_a_stopped_worker_does_not_outlive_the_daemon(start: Start, port: int, recipient: pwd.struct_passwd) -> None:
    daemon = start(LOCAL.format(port=port, how='mda "kill -STOP $PPID; cat >/dev/null"'))
    mail.send(port, f"{recipient.pw_name}@localhost", "stopped")
    # The first: what it forked bears its title until it becomes something else.
    worker, *_ = until(lambda: [pid for pid in descendants(daemon.pid) if title(pid).startswith("pysmtpd: worker ")],
                     "the worker")
    until(lambda: " (stopped)" in Path(f"/proc/{worker}/status").read_text(encoding="utf-8"), "its stop")
    daemon.stop()
    until(lambda: not alive(worker), "its end")


def test_a_command_that_refuses(start: Start, port: int, recipient: pwd.struct_passwd) -> None:
    daemon = start(LOCAL.format(port=port, how='mda "cat >/dev/null; echo no thanks; exit 77"'))
    mail.send(port, f"{recipient.pw_name}@localhost", "permfail", sender="")
    daemon.until_logged(r"mda delivery .*result=PermFail stat=.*no thanks")


def test_lmtp_to_a_socket_and_a_port(start: Start, port: int, recipient: pwd.struct_passwd) -> None:
    with Sink(lmtp=True) as sink:
        start(LOCAL.format(port=port, how=f'lmtp "127.0.0.1:{sink.port}"'))
        mail.send(port, f"{recipient.pw_name}@localhost", "lmtp")
        until(lambda: mail.names_in(one.data for one in sink.messages)["lmtp"], "the message")
    assert sink.messages[0].rcpts == [recipient.pw_name]


def test_lmtp_refusals_are_final(start: Start, port: int, recipient: pwd.struct_passwd) -> None:
    with Sink(lmtp=True) as sink:
        sink.replies["RCPT"] = lambda line: "550 5.1.1 not here"
        daemon = start(LOCAL.format(port=port, how=f'lmtp "127.0.0.1:{sink.port}"'))
        mail.send(port, f"{recipient.pw_name}@localhost", "refused", sender="")
        daemon.until_logged(r"mda delivery .*result=PermFail stat=.*not here")


def test_a_worker_serves_many_and_leaves(start: Start, port: int, recipient: pwd.struct_passwd, box: Path) -> None:
    daemon = start(LOCAL.format(port=port, how=f'maildir "{box}/m"'))
    for at in range(20):
        mail.send(port, f"{recipient.pw_name}@localhost", f"many-{at}")
    until(lambda: len(mail.maildir(box / "m")) == 20, "20 messages")
    workers = [pid for pid in descendants(daemon.pid) if "worker" in title(pid)]
    assert {title(pid) for pid in workers} == {f"pysmtpd: worker {recipient.pw_name}"}
    assert len(workers) <= 7
    until(lambda: not any(alive(pid) for pid in workers), "the end of idle workers", 12)
    mail.send(port, f"{recipient.pw_name}@localhost", "again")
    until(lambda: len(mail.maildir(box / "m")) == 21, "a new worker")


@pytest.mark.root
class TestMbox:
    """In the system's mail directory, which only root's daemon can use."""

    @pytest.fixture
    def user(self) -> str:
        return ""

    @pytest.fixture
    def account(self) -> Iterator[pwd.struct_passwd]:
        """Somebody without a mailbox; it is gone again afterwards."""
        entry = pwd.getpwnam("games")
        path = Path("/var/mail", entry.pw_name)
        if path.exists():
            pytest.skip(f"{path} exists already")
        yield entry
        path.unlink(missing_ok=True)

    def test_it_is_made_and_appended_to(self, start: Start, port: int, account: pwd.struct_passwd) -> None:
        start(LOCAL.format(port=port, how="mbox"))
        for name in ("one", "two"):
            mail.send(port, f"{account.pw_name}@localhost", name)
        path = Path("/var/mail", account.pw_name)
        until(lambda: path.exists() and mail.ID.findall(path.read_bytes()).__len__() == 2, "two messages")
        text = path.read_bytes()
        assert re.match(rb"From sender@load\.example \w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\n", text)
        assert sorted(mail.ID.findall(text)) == [b"one", b"two"]
        found = path.stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (
            account.pw_uid, Path("/var/mail").stat().st_gid, 0o600)

    def test_root_gets_mail_in_mbox_only(self, start: Start, port: int, where: Path) -> None:
        daemon = start(LOCAL.format(port=port, how=f'maildir "{where}/root"'))
        mail.send(port, "root@localhost", "root", sender="")
        daemon.until_logged(r"mda delivery .*to=<root@localhost> .*result=PermFail")
        assert not (where / "root").exists()

    def test_a_symbolic_link_is_not_followed(
            self, start: Start, port: int, account: pwd.struct_passwd, where: Path) -> None:
        target = where / "target"
        target.touch()
        target.chmod(0o666)
        Path("/var/mail", account.pw_name).symlink_to(target)
        daemon = start(LOCAL.format(port=port, how="mbox"))
        mail.send(port, f"{account.pw_name}@localhost", "link", sender="")
        daemon.until_logged(r"mda delivery .*result=(Temp|Perm)Fail")
        assert target.read_bytes() == b""


@pytest.mark.root
def test_each_delivery_runs_as_its_recipient(start: Start, where: Path, port: int) -> None:
    names = ["games", "irc", "nobody"]
    out = where / "out"
    out.mkdir()
    out.chmod(0o1777)
    start(LOCAL.format(port=port, how=f'mda "cat >/dev/null; grep -E ^.id: /proc/self/status > {out}/$LOGNAME; '
                                      f'grep Groups: /proc/self/status >> {out}/$LOGNAME"'), user="")
    mail.send(port, [f"{name}@localhost" for name in names], "each")
    until(lambda: all((out / name).exists() and "Groups" in (out / name).read_text() for name in names), "all three")
    for name in names:
        entry = pwd.getpwnam(name)
        text = (out / name).read_text(encoding="ascii")
        assert re.findall(r"Uid:(.*)\nGid:(.*)\n", text)[0] == (f"\t{entry.pw_uid}" * 4, f"\t{entry.pw_gid}" * 4)
        assert re.findall(r"Groups:\s*(.*?)\s*\n", text) == [str(entry.pw_gid)]


@pytest.mark.root
class TestDovecot:
    """A real LMTP server."""

    @pytest.fixture
    def dovecot(self, where: Path) -> Iterator[tuple[int, Path]]:
        overlay = debian.overlay("dovecot-core", "dovecot-lmtpd")
        port = free_port()
        base, mailboxes = where / "dovecot", where / "dovecot-mail"
        for path in (base, mailboxes):
            path.mkdir()
        os.chown(mailboxes, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        config = where / "dovecot.conf"
        config.write_text(DOVECOT.format(base=base, port=port, mail=mailboxes), encoding="utf-8")
        with subprocess.Popen([*overlay, "/usr/sbin/dovecot", "-F", "-c", str(config)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as process:
            try:
                def answers() -> bool:
                    if process.poll() is not None:
                        assert process.stdout is not None
                        raise debian.Unavailable(f"dovecot does not start: {process.stdout.read()[-500:]!r}")
                    try:
                        with socket.create_connection(("127.0.0.1", port), 2) as sock:
                            return sock.recv(3) == b"220"
                    except OSError:
                        return False

                until(answers, "Dovecot", 20)
                yield port, mailboxes
            finally:
                process.terminate()

    def test_lmtp(self, start: Start, port: int, dovecot: tuple[int, Path]) -> None:
        lmtp, mailboxes = dovecot
        daemon = start(LOCAL.format(port=port, how=f'lmtp "127.0.0.1:{lmtp}"'), user="")
        mail.send(port, "nobody@localhost", "dovecot")
        daemon.until_logged(r"mda delivery .*result=Ok stat=.*[Ss]aved|mda delivery .*result=Ok")
        until(lambda: mail.names_in(mail.maildir(mailboxes / "nobody")), "the message in Dovecot's maildir")


DOVECOT = """\
base_dir = {base}
state_dir = {base}
log_path = /dev/stderr
protocols = lmtp
listen = 127.0.0.1
ssl = no
default_internal_user = games
default_internal_group = games
default_login_user = nobody
mail_location = maildir:{mail}/%u
first_valid_uid = 1
mail_uid = nobody
mail_gid = nogroup
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={mail}/%u allow_all_users=yes
}}
service lmtp {{
  chroot =
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
service stats {{
  chroot =
}}
service anvil {{
  chroot =
}}
"""

assert sys.platform == "linux" or not IS_ROOT
