"""smtpctl's commands against a fake daemon: what is asked, what is printed, which exit status."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.base import paths
from pysmtpd.base.envelope import Agent, BounceKind, Envelope, Flag, Ret
from pysmtpd.base.mailaddr import NULL, MailAddr
from pysmtpd.base.trace import ALL, Trace
from pysmtpd.imsg import Message, version
from pysmtpd.messages import (
    CtlCounted,
    CtlDone,
    CtlEnvelopes,
    CtlPause,
    CtlQueueShown,
    CtlResumeRoute,
    CtlShowEnvelope,
    CtlShowMessage,
    CtlShowMta,
    CtlShowQueue,
    CtlShowStatus,
    CtlStats,
    CtlStatsTold,
    CtlStatusShown,
    CtlText,
    CtlTrace,
    EnvelopeCommand,
    Listing,
    RunState,
)
from smtpctl import __main__ as program
from smtpctl import client, newaliases
from smtpctl.commands import queue_line, stats_lines
from tests.smtpctl.fake import daemon

NOW = 1_700_000_100


def envelope(**other: Any) -> Envelope:
    fields: dict[str, Any] = {
        "evpid": 0x5A3B2C1D01020304, "agent": Agent.MDA, "action": "local", "sender": MailAddr("bob", "vm"),
        "rcpt": MailAddr("alice", "vm"), "dest": MailAddr("alice", "vm"), "user": "alice", "command": "", "tag": "",
        "smtpname": "vm", "helo": "localhost", "hostname": "vm", "username": "", "source": "local", "flags": 0,
        "ctime": 1_700_000_000, "ttl": 345600, "last_try": 0, "last_bounce": 0, "retry": 0, "notify": 0,
        "ret": Ret.NONE, "envid": "", "orcpt": "", "errorline": "", "esc": "", "bounce": BounceKind.NONE,
        "bounce_delay": 0, **other,
    }
    return Envelope(**fields)


def run(path: Path, *words: str) -> int:
    return program.run("smtpctl", ["--state-dir", str(path.parent), *words])


def script(answers: dict[type[Message], Message]) -> Any:
    return lambda message: answers[type(message)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "smtpd.sock"


@pytest.mark.parametrize("listing, line", [
    (Listing(envelope(flags=Flag.AUTHENTICATED | Flag.INTERNAL, last_try=1_700_000_050, retry=2,
                      errorline='Error ("mail.local: x y")'), RunState.PENDING, NOW + 30, False),
     "5a3b2c1d01020304|local|mda|auth,internal|bob@vm|alice@vm|alice@vm|1700000000|1700345600|1700000050|2|"
     'pending|30|Error ("mail.local: x y")'),
    (Listing(envelope(agent=Agent.MTA, source="192.0.2.1"), RunState.INFLIGHT, NOW - 5, False),
     "5a3b2c1d01020304|inet4|mta||bob@vm|alice@vm|alice@vm|1700000000|1700345600|0|0|inflight|5|"),
    (Listing(envelope(agent=Agent.BOUNCE, sender=NULL, source="[2001:db8::1]", errorline="Grüße"),
             RunState.HELD, NOW - 7, True),
     "5a3b2c1d01020304|inet6|bounce|bounce,suspend,hold|@|alice@vm|alice@vm|1700000000|1700345600|0|0|pending|-7|"
     "Gr\\303\\274\\303\\237e"),
])
def test_a_line_of_show_queue(listing: Listing, line: str) -> None:
    assert queue_line(listing, NOW) == line


def test_show_queue_asks_page_after_page(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = {0: [1, 2], 2: [3]}

    def answer(message: Message) -> Message:
        assert isinstance(message, CtlShowQueue) and message.msgid == 0x12
        found = [Listing(envelope(evpid=n), RunState.PENDING, 0, False) for n in pages[message.after]]
        return CtlQueueShown(message.reqid, found, message.after == 0)

    with daemon(path, answer) as one:
        assert run(path, "sh", "q", "00000012") == 0
    assert [line.split("|")[0] for line in capsys.readouterr().out.splitlines()] == [f"{n:016x}" for n in (1, 2, 3)]
    assert one.versions == {version()}


def test_mailq_ignores_its_arguments(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSMTPD_STATE_DIR", str(path.parent))
    with daemon(path, script({CtlShowQueue: CtlQueueShown(1, [], False)})) as one:
        assert program.run("mailq", ["-v", "whatever"]) == 0
    assert one.asked == [CtlShowQueue(1, 0, 0)]


@pytest.mark.parametrize("words", [["--state-dir", "D"], ["--state-dir=D"], ["-v", "--state-dir", "D", "x"]])
def test_mailq_of_a_state_directory(path: Path, words: list[str]) -> None:
    where = [word.replace("D", str(path.parent)) for word in words]
    with daemon(path, script({CtlShowQueue: CtlQueueShown(1, [], False)})) as one:
        assert program.run("mailq", where) == 0
        assert program.run("sendmail", ["-bp", f"--state-dir={path.parent}"]) == 0
    assert one.asked == [CtlShowQueue(1, 0, 0)] * 2


@pytest.mark.parametrize("name", ["smtpctl", "mailq"])
def test_a_state_directory_without_a_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(name, ["--state-dir"]) == 1
    assert capsys.readouterr().err.startswith("usage: ")


@pytest.mark.parametrize("which", ["os.geteuid", "os.getegid"])
def test_with_somebody_elses_rights_the_caller_names_no_daemon(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], which: str,
) -> None:
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", "/nonexistent/sock")
    monkeypatch.setattr("smtpctl.client.home", lambda: "/nonexistent")
    monkeypatch.setenv("PYSMTPD_STATE_DIR", str(path.parent))
    monkeypatch.setattr(which, lambda: 12345)
    with daemon(path, script({CtlShowQueue: CtlQueueShown(1, [], False)})) as one:
        assert program.run("mailq", ["--state-dir", str(path.parent)]) == 1
        assert program.run("mailq", []) == 1
        request = newaliases.Request()
        request.state_dir = str(path.parent)
        assert newaliases._tell_daemon(request, ["aliases"]) == 0
    assert one.asked == []
    assert "doesn't seem to be running" in capsys.readouterr().err


@pytest.mark.parametrize("words, asked, count, printed", [
    ("schedule all", CtlEnvelopes(1, EnvelopeCommand.SCHEDULE, 0, 0, 0), 2, "2 envelopes scheduled"),
    ("remove 0000000100000002", CtlEnvelopes(1, EnvelopeCommand.REMOVE, 0x100000002, 0, 0), 1, "1 envelope removed"),
    ("pause env 00000012", CtlEnvelopes(1, EnvelopeCommand.PAUSE, 0, 0x12, 0), 0, "0 envelope paused"),
    ("resume env all", CtlEnvelopes(1, EnvelopeCommand.RESUME, 0, 0, 0), 3, "3 envelopes resumed"),
])
def test_what_is_done_to_envelopes(words: str, asked: Message, count: int, printed: str, path: Path,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, script({CtlEnvelopes: CtlCounted(1, count)})) as one:
        assert run(path, *words.split()) == 0
    assert one.asked == [asked]
    assert capsys.readouterr().out == printed + "\n"


@pytest.mark.parametrize("words, asked", [
    ("pause mta", CtlPause(1, "mta", False)),
    ("pause smtp", CtlPause(1, "smtp", False)),
    ("resume mda", CtlPause(1, "mda", True)),
    ("log verbose", CtlTrace(1, int(Trace.DEBUG), 0)),
    ("log brief", CtlTrace(1, 0, int(ALL | Trace.DEBUG))),
    ("trace smtp", CtlTrace(1, int(Trace.SMTP), 0)),
    ("untrace all", CtlTrace(1, 0, int(ALL))),
])
@pytest.mark.parametrize("ok", [True, False])
def test_commands_that_succeed_or_fail(words: str, asked: Message, ok: bool, path: Path,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, lambda _: CtlDone(1, ok, "")) as one:
        assert run(path, *words.split()) == (0 if ok else 1)
    assert one.asked == [asked]
    assert capsys.readouterr().out == ("command succeeded\n" if ok else "command failed\n")


@pytest.mark.parametrize("words", ["pause mta", "show queue", "show stats", "remove all", "show status",
                                   "show message 00000001", "show envelope 0000000100000001"])
def test_a_refusal_says_why(words: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, lambda _: CtlDone(1, False, "need root privileges")):
        assert run(path, *words.split()) == 1
    assert capsys.readouterr() == ("", "smtpctl: need root privileges\n")


def test_show_stats(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [("smtp.session", 1), ("uptime", 90061), ("control.session", 1)]
    with daemon(path, script({CtlStats: CtlStatsTold(1, values)})):
        assert run(path, "show", "stats") == 0
    assert capsys.readouterr().out == "control.session=1\nsmtp.session=1\nuptime=90061\nuptime.human=1d1h1m1s\n"


def test_stats_are_sorted_by_octets() -> None:
    keys = ["smtp.tls", "smtp.session.local", "scheduler.envelope", "smtp.session"]
    lines = stats_lines([(key, 0) for key in keys])
    assert [line.removesuffix("=0") for line in lines] == sorted(keys)


def test_show_status(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, script({CtlShowStatus: CtlStatusShown(1, ["mta"])})):
        assert run(path, "show", "status") == 0
    assert capsys.readouterr().out == "MDA running\nMTA paused\nSMTP running\n"


def test_show_message_piece_by_piece_as_bytes(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    text = b"Subject: \xe9\r\n\r\nbody\r\n"

    def answer(message: Message) -> Message:
        assert isinstance(message, CtlShowMessage) and message.msgid == 0x12
        return CtlText(1, text[message.offset : message.offset + 8], message.offset + 8 >= len(text))

    env = {"PYTHONPATH": str(Path.cwd()), "PATH": os.environ["PATH"]}
    with daemon(path, answer):
        done = subprocess.run([sys.executable, "-m", "smtpctl", "--state-dir", str(path.parent), "show", "message",
                               "0000001200000001"], capture_output=True, env=env, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, text, b"")


def test_what_is_not_there(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, lambda _: CtlText(1, b"", True, False)) as one:
        assert run(path, "show", "message", "00000012") == 1
        assert run(path, "show", "envelope", "0000001200000001") == 1
    assert one.asked == [CtlShowMessage(1, 0x12, 0), CtlShowEnvelope(1, 0x1200000001)]
    assert capsys.readouterr().err == (
        "smtpctl: no such message: 00000012\nsmtpctl: no such envelope: 0000001200000001\n"
    )


def test_nobody_answers(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "show", "status") == 1
    assert capsys.readouterr().err == "smtpctl: smtpd doesn't seem to be running\n"


@pytest.mark.parametrize("answer, text", [(b"", "pipe closed"), (b"garbage garbage garbage", "bad message")])
def test_a_daemon_that_makes_no_sense(answer: bytes, text: str, path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, lambda _: answer):
        assert run(path, "show", "status") == 1
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("what", ["hosts", "hoststats", "relays", "routes"])
def test_what_mta_knows_comes_in_pages(what: str, path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    pages = {0: CtlText(1, b"one\ntwo\n", False), 2: CtlText(1, b"three\n", True)}
    with daemon(path, lambda ask: pages[ask.after]) as there:  # type: ignore[attr-defined]
        assert run(path, "show", what) == 0
    assert capfdbinary.readouterr().out == b"one\ntwo\nthree\n"
    assert there.asked == [CtlShowMta(1, what, 0), CtlShowMta(1, what, 2)]


@pytest.mark.parametrize("answer, status", [(CtlDone(1, True, ""), 0), (CtlDone(1, False, "no such route"), 1)])
def test_a_route_is_resumed(answer: CtlDone, status: int, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(path, lambda _: answer) as there:
        assert run(path, "resume", "route", "12") == status
    assert there.asked == [CtlResumeRoute(1, 12)]
    assert capsys.readouterr().err == (f"smtpctl: {answer.text}\n" if status else "")


@pytest.mark.parametrize("words", ["monitor", "encrypt", "encrypt x", "spf walk", "discover 00000001", "profile imsg",
                                   "unprofile queue", "show mta paused"])
def test_what_does_not_work_yet_says_so(words: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, *words.split()) == 69
    assert "not available yet" in capsys.readouterr().err


def test_an_invalid_trace_keyword(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(path, "trace", "nonsense") == 1
    assert capsys.readouterr().err == "smtpctl: invalid trace keyword: nonsense\n"


@pytest.mark.parametrize("name, status, text", [
    ("makemap", 1, "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file"),
    ("frobnicate", 1, "frobnicate: unsupported mode"),
])
def test_other_names(name: str, status: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(name, []) == status
    assert capsys.readouterr().err == text + "\n"


def test_wrong_words_exit_255(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run("smtpctl", ["sh", "st"]) == 255
    assert capsys.readouterr().err.startswith("possibilities are:\nshow mta\n")
    assert program.run("smtpctl", ["--state-dir"]) == 1


# --- which socket ---------------------------------------------------------------------------------


@pytest.fixture
def system_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "system.sock"
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", str(path))
    return path


def test_the_option_comes_first_then_the_environment_then_the_system(system_socket: Path) -> None:
    home = {"HOME": "/home/alice"}
    both = {**home, "PYSMTPD_STATE_DIR": "/srv/mail"}
    assert client.control_path("/x", both, trusted=True) == "/x/smtpd.sock"
    assert client.control_path("", both, trusted=True) == "/srv/mail/smtpd.sock"
    assert client.control_path("", home, trusted=True) == "/home/alice/.local/state/pysmtpd/smtpd.sock"
    state = {**home, "XDG_STATE_HOME": "/home/alice/state"}
    assert client.control_path("", state, trusted=True) == "/home/alice/state/pysmtpd/smtpd.sock"
    system_socket.touch()
    assert client.control_path("", state, trusted=True) == str(system_socket)
    assert client.control_path("", both, trusted=True) == "/srv/mail/smtpd.sock"


def test_an_environment_that_is_not_the_users_own_is_ignored(system_socket: Path) -> None:
    env = {"PYSMTPD_STATE_DIR": "/srv/mail", "HOME": "/home/mallory", "XDG_STATE_HOME": "/tmp"}
    assert client.control_path("", env, trusted=False) == str(system_socket)


def test_without_a_home(system_socket: Path) -> None:
    path = client.control_path("", {}, trusted=True)
    assert path == f"{client.home()}/.local/state/pysmtpd/smtpd.sock"
    system_socket.touch()
    assert client.control_path("", {}, trusted=True) == str(system_socket)
