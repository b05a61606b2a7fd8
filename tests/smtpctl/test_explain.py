"""smtpctl explain: of a file, and of a daemon."""

import json
import zlib
from pathlib import Path

import msgspec
import pytest

from pysmtpd.lookup.explained import Explained, Part
from pysmtpd.messages import CtlExplain, CtlText
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
