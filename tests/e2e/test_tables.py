"""Tables in files, maps and programs, with the real daemon."""

import contextlib
import os
import pwd
import re
import shutil
import signal
import smtplib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Start
from tests.support import debian
from tests.support.daemon import Daemon, descendants, system_users, until

CONFIG = """\
listen on 127.0.0.1 port {port}
table domains {table}
action "out" relay host "smtp://127.0.0.1:9"
match from any for domain <domains> action "out"
"""
PROGRAM = Path(__file__).parent.parent / "support" / "table_program.py"


def reply(port: int, domain: str) -> int:
    """What RCPT to somebody of a domain is answered."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
        smtp.ehlo("client.example.org")
        smtp.mail("alice@example.org")
        return smtp.rcpt(f"bob@{domain}")[0]


def readable(path: Path) -> Path:
    """Whoever the daemon runs as may read it."""
    path.chmod(0o644)
    return path


@pytest.fixture
def program(where: Path) -> Path:
    path = where / "table_program.py"
    shutil.copy(PROGRAM, path)
    path.chmod(0o755)
    return path


def running(daemon: Daemon, words: str) -> list[int]:
    """The processes below the daemon whose command line has these words."""
    found = []
    for pid in descendants(daemon.pid):
        with contextlib.suppress(OSError):
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" "):
                found.append(pid)
    return found


def test_a_table_file_is_read_again_and_keeps_its_last_good_content(start: Start, port: int, where: Path) -> None:
    path = where / "domains"
    path.write_text("one.example\n")
    readable(path)
    daemon = start(CONFIG.format(port=port, table=f"file:{path}"))
    assert (reply(port, "one.example"), reply(port, "two.example")) == (250, 550)
    path.write_text("two.example\n")
    assert daemon.smtpctl("update", "table", "domains").stdout == b"command succeeded\n"
    assert (reply(port, "one.example"), reply(port, "two.example")) == (550, 250)
    path.write_bytes(b"three.example\n\xff\n")
    done = daemon.smtpctl("update", "table", "domains", check=False)
    assert (done.returncode, done.stderr) == (1, f"smtpctl: {path}:2 is not UTF-8\n".encode())
    assert reply(port, "two.example") == 250
    daemon.until_logged(r'info: Failed to update table "domains": .*:2 is not UTF-8')


def test_a_map_that_is_replaced_is_noticed(start: Start, port: int, where: Path) -> None:
    source = where / "domains"
    source.write_text("one.example\n*.two.example\n")

    def makemap() -> None:
        done = subprocess.run([sys.executable, "-c", "import sys; from smtpctl.makemap import makemap; "
                               "sys.exit(makemap(sys.argv[1:]))", "-t", "set", str(source)], check=True, timeout=30)
        assert done.returncode == 0
        readable(where / "domains.db")

    makemap()
    start(CONFIG.format(port=port, table=f"db:{where}/domains.db"))
    assert [reply(port, f"{name}.example") for name in ("one", "a.b.two", "two", "three")] == [250, 250, 550, 550]
    source.write_text("three.example\n")
    makemap()
    assert [reply(port, f"{name}.example") for name in ("one", "three")] == [550, 250]


@pytest.mark.parametrize("kind", ["hash", "btree"])
def test_a_map_of_the_real_libdb(start: Start, port: int, where: Path, kind: str) -> None:
    load = debian.tool("db5.3-util", "usr/bin/db5.3_load")
    path = where / "domains.db"
    text = "".join(f"{name}\\00\n<set>\\00\n" for name in ("one.example", "*.two.example", *map(str, range(500))))
    subprocess.run([load.path, "-T", "-t", kind, str(path)], input=text, text=True, env=load.env, check=True,
                   timeout=30)
    start(CONFIG.format(port=port, table=f"db:{readable(path)}"))
    assert [reply(port, f"{name}.example") for name in ("one", "a.two", "two")] == [250, 250, 550]


def test_newaliases_makes_the_map_and_the_daemon_knows(start: Start, port: int, where: Path,
                                                       recipient: pwd.struct_passwd) -> None:
    source = where / "aliases"
    source.write_text(f"one: {recipient.pw_name}\n")
    readable(source)
    config = (f'listen on 127.0.0.1 port {port}\ntable names db:{where}/aliases.db\n'
              'action "local" maildir alias <names>\nmatch from any for local action "local"\n')
    (where / "smtpd.conf").write_text(config)

    def newaliases() -> str:
        code = "import sys; from smtpctl.newaliases import newaliases; sys.exit(newaliases(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", code, "-f", str(where / "smtpd.conf"), "--state-dir",
                               str(where / "state")], check=True, timeout=30, capture_output=True, text=True)
        return done.stdout

    assert newaliases() == f"{source}: 1 aliases\n"
    daemon = start(config)

    def known(user: str) -> int:
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as smtp:
            smtp.ehlo("client.example.org")
            smtp.mail("alice@example.org")
            return smtp.rcpt(f"{user}@localhost")[0]

    assert (known("one"), known("two")) == (250, 550)
    source.write_text(f"one: {recipient.pw_name}\ntwo: one\n")
    assert newaliases() == f"{source}: 2 aliases\n"
    assert (known("one"), known("two")) == (250, 250)
    daemon.until_logged('info: Table "names" successfully updated')


def test_what_is_no_map_is_refused_with_the_command_that_makes_one(start: Start, port: int, where: Path) -> None:
    path = where / "domains.db"
    path.write_text("one.example\n")
    words = rf"domains.db is not a file that makemap made[\s\S]*makemap -o {path} {where}/domains"
    with pytest.raises(AssertionError, match=words):
        start(CONFIG.format(port=port, table=f"db:{readable(path)}"))


def test_sqlite(start: Start, port: int, where: Path) -> None:
    database, config = where / "d.sqlite", where / "sqlite.conf"
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.executescript("CREATE TABLE domains (name TEXT); INSERT INTO domains VALUES ('one.example'), "
                         "('*.two.example');")
    config.write_text(f"dbpath {readable(database)}\nquery_domain SELECT name FROM domains WHERE name = ?\n")
    daemon = start(CONFIG.format(port=port, table=f"sqlite:{readable(config)}"))
    assert [reply(port, f"{name}.example") for name in ("one", "a.b.two", "two")] == [250, 250, 550]
    assert daemon.smtpctl("update", "table", "domains").stdout == b"command succeeded\n"
    database.rename(where / "away")
    assert daemon.smtpctl("update", "table", "domains", check=False).returncode == 1
    assert reply(port, "one.example") == 451
    (where / "away").rename(database)
    assert reply(port, "one.example") == 250


def test_a_program_has_nothing_of_ours(start: Start, port: int, program: Path, user: str) -> None:
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{program} good one.example=x"'))
    daemon.until_logged(r"table domains: ready to serve")
    [pid] = running(daemon, "table_program.py good")
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    name = (system_users().get("PYSMTPD_USER", "_smtpd") if daemon.privileged else daemon.owner.pw_name)
    uid = pwd.getpwnam(name).pw_uid
    assert re.search(r"^Uid:\s+(.*)$", status, re.M)[1].split() == [str(uid)] * 4  # type: ignore[index]
    if os.geteuid() == 0:
        assert Path(f"/proc/{pid}/environ").read_bytes() == b"PATH=/usr/bin:/bin:/usr/sbin:/sbin\0"
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    assert (reply(port, "one.example"), reply(port, "two.example")) == (250, 550)
    daemon.stop()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the program's end")


@pytest.mark.parametrize("kind", ["crash", "garbage", "flood"])
def test_a_program_that_misbehaves_is_a_temporary_failure_and_is_started_again(start: Start, port: int, program: Path,
                                                                               kind: str) -> None:
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{program} {kind} one.example=x"'))
    assert reply(port, "one.example") == 250
    assert reply(port, "trigger") == 451
    until(lambda: reply(port, "one.example") == 250, "its next run", 20)
    daemon.until_logged("warn: table domains: its program failed: .*; it is started again in 1s")
    daemon.until_logged("info: table domains: its program runs again")


def test_a_program_that_hangs_is_ended(start: Start, port: int, program: Path) -> None:
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{program} hang one.example=x"'))
    assert reply(port, "one.example") == 250
    [before] = running(daemon, "table_program.py hang")
    assert reply(port, "trigger") == 451
    until(lambda: reply(port, "one.example") == 250, "its next run", 20)
    assert running(daemon, "table_program.py hang") != [before]


def test_a_program_that_is_killed(start: Start, port: int, program: Path) -> None:
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{program} good one.example=x"'))
    assert reply(port, "one.example") == 250
    for _ in range(2):
        [pid] = running(daemon, "table_program.py good")
        os.kill(pid, signal.SIGKILL)
        assert reply(port, "one.example") in (250, 451)
        until(lambda: reply(port, "one.example") == 250, "its next run", 20)
    assert daemon.process is not None and daemon.process.poll() is None


def test_an_old_binary_program_gets_a_clear_word(start: Start, port: int, program: Path) -> None:
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{program} binary"'))
    daemon.until_logged(r"does not speak the text protocol of OpenSMTPD 7\.6 and later")
    assert reply(port, "one.example") == 451


def test_a_binary_program_of_debians_opensmtpd_gets_a_clear_word(start: Start, port: int, where: Path) -> None:
    """table-passwd of OpenSMTPD-extras 6, which speaks imsg and so ends at our first word."""
    old = debian.tool("opensmtpd-extras", "usr/libexec/opensmtpd/table-passwd")
    path = where / "passwd"
    path.write_text("bob:x:1000:1000::/home/bob\n")
    copy = where / "table-passwd"
    shutil.copy(old.path, copy)
    copy.chmod(0o755)
    daemon = start(CONFIG.format(port=port, table=f'proc-exec "{copy} {readable(path)}"'))
    daemon.until_logged(r"its program failed: .*OpenSMTPD (before 7\.6|7\.6 and later).*binary", 30)
    assert reply(port, "one.example") == 451
