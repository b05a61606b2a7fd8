"""smtpctl explain: of a file, and of a daemon."""

import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from pysmtpd.lookup.explained import Explained, Part
from pysmtpd.messages import CtlExplain, CtlText
from pysmtpd.privsep import startup
from smtpctl import __main__ as program
from tests.smtpctl.fake import Daemon

CONF = 'listen on 127.0.0.1 port 2525\naction "local" maildir "{home}/x" alias {{ "all" = "no-such-user-here" }}\n' \
       'match from any for local action "local"\n'


def test_a_file_is_asked_without_a_daemon(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text(CONF.format(home=tmp_path))
    column = path.read_text().splitlines()[1].index("{") + 1
    words = ["explain", "--from", "a@b.example", "--rcpt", "all@localhost", "--src", "192.0.2.1", "--rdns", "b.example"]
    assert program.run("smtpctl", [*words, "-f", str(path)]) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "MAIL FROM:<a@b.example> RCPT TO:<all@localhost> from 192.0.2.1 (b.example)",
        "reply: 550 Invalid recipient: <all@localhost>", "because: no user no-such-user-here in <getpwnam>", "",
        "address <all@localhost>", f'  {path}:3:1: matches: action "local"', "  user all",
        f'    user no-such-user-here  ("all" in table <dynamic:0>, {path}:2:{column})',
        "      refused: no user no-such-user-here in <getpwnam>"]
    assert program.run("smtpctl", [*words, "-j", "-f", str(path)]) == 1
    told = json.loads(capfd.readouterr().out)
    assert told["accepted"] is False and told["tree"]["rules"][0]["matched"] is True
    path.write_text("nonsense\n")
    assert program.run("smtpctl", [*words, "-f", str(path)]) == 64


PROGRAM = """#!/bin/sh
while IFS='|' read -r kind two three four operation service id key; do
    case "$kind:$two:$key" in
        config:ready:*) printf 'register|alias\\nregister|ready\\n' ;;
        table:*:joe@a.example) printf 'lookup-result|%s|found|nobody-of-that-name\\n' "$id" ;;
        table:*) printf 'lookup-result|%s|not-found\\n' "$id" ;;
    esac
done
"""
PROGRAM_CONF = """srs key "sesame"
table v {table}
listen on 127.0.0.1 port 2525
action "a" maildir virtual <v>
match from any for domain a.example action "a"
"""


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that _smtpd can reach, whoever that is here."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _because(conf: Path, rcpt: str, capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    assert program.run("smtpctl", ["explain", "--rcpt", rcpt, "-f", str(conf)]) == 1
    out, err = capfd.readouterr()
    return next(line for line in out.splitlines() if line.startswith("because: ")), err


def test_a_files_table_program_is_asked(open_to_all: Path, capfd: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSMTPD_USER", "nobody")
    monkeypatch.setenv("PYSMTPD_QUEUE_USER", "nobody")
    script, conf = open_to_all / "program", open_to_all / "smtpd.conf"
    script.write_text(PROGRAM)
    script.chmod(0o755)
    conf.write_text(PROGRAM_CONF.format(table=f'proc-exec "{script}"'))
    assert _because(conf, "joe@a.example", capfd) == ("because: no user nobody-of-that-name in <getpwnam>", "")
    assert _because(conf, "jim@a.example", capfd) == ("because: jim@a.example is not in v", "")
    assert _because(conf, "SRS0=abcd=AA=b.example=c@a.example", capfd)[1] \
        == "smtpctl: SRS failed to decode: SRS0=abcd=AA=b.example=c@a.example\n"
    script.write_text("#!/bin/sh\nexit 1\n")
    why, err = _because(conf, "joe@a.example", capfd)
    assert "table v: its program does not run: it ended before it had registered" in why
    assert err.startswith("smtpctl: warn: table v: its program failed: it ended before")


def test_a_files_table_program_needs_a_user_to_run_as(open_to_all: Path, capfd: pytest.CaptureFixture[str],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_environ: object) -> NoReturn:
        raise startup.StartError("there is no user _smtpd")

    monkeypatch.setattr(startup, "identities", none)
    (open_to_all / "smtpd.conf").write_text(PROGRAM_CONF.format(table='proc-exec "/bin/sh"'))
    why, _ = _because(open_to_all / "smtpd.conf", "joe@a.example", capfd)
    assert why == "because: table v: its program does not run: there is no user _smtpd"


def test_the_daemon_is_asked_what_was_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    told = Explained(client="192.0.2.1 (b)", sender="", rcpt="bob@x", accepted=True, reply="250 ok", why="",
                     problems=(), tree=Part(kind="address", name="<bob@x>"))
    daemon = Daemon(tmp_path / "run" / "smtpd.sock",
                    lambda ask: CtlText(ask.reqid, zlib.compress(msgspec.json.encode(told)), True))  # type: ignore[attr-defined]
    try:
        words = ["explain", "--rcpt", "bob@x",
                 "--src", "192.0.2.1", "--helo", "h", "--auth", "u", "--tls", "--tag", "t"]
        assert program.run("smtpctl", ["--state-dir", str(tmp_path / "run"), *words]) == 0
    finally:
        daemon.close()
    assert daemon.asked == [CtlExplain(1, "", "bob@x", "192.0.2.1", "", "h", "u", True, "t")]
    assert capfd.readouterr().out.splitlines() == [
        "MAIL FROM:<> RCPT TO:<bob@x> from 192.0.2.1 (b)", "reply: 250 ok", "", "address <bob@x>"]
