"""Commands: what their end means, and that none of them can hold a worker for long."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from pysmtpd.deliver import command
from pysmtpd.deliver.command import INNER_COMMAND, Command, verdict_of
from pysmtpd.deliver.maildir import Maildir
from pysmtpd.deliver.verdict import DELIVERED, Failed, Gone, Verdict, tempfail
from pysmtpd.messages import Outcome

ENV = {"PATH": "/usr/bin:/bin"}
BIG = b"x" * 98 + b"\r\n"


def run(text: str, *pieces: bytes, timeout: float = 10) -> Verdict:
    """The verdict on a command that gets these pieces."""
    one = Command(text, ENV, timeout=timeout)
    try:
        for piece in pieces:
            one.write(piece)
        return one.finish()
    except Failed as failed:
        return failed.verdict


@pytest.mark.parametrize("code, outcome, words", [
    (0, Outcome.OK, b"Delivered"),
    (1, Outcome.PERMFAIL, b'"last"'),
    (63, Outcome.PERMFAIL, b'"last"'),
    (64, Outcome.PERMFAIL, b'command line usage error: "last"'),
    (67, Outcome.PERMFAIL, b'user unknown: "last"'),
    (71, Outcome.TEMPFAIL, b'system resource problem: "last"'),
    (75, Outcome.TEMPFAIL, b'temporary failure: "last"'),
    (77, Outcome.PERMFAIL, b'permission denied: "last"'),
    (79, Outcome.PERMFAIL, b'"last"'),
    (255, Outcome.PERMFAIL, b'"last"'),
])
def test_exit_status(code: int, outcome: Outcome, words: bytes) -> None:
    verdict = verdict_of(code << 8, all_read=True, last_words=b"last")
    assert (verdict.outcome, verdict.text) == (outcome, words)
    assert verdict.esc == {Outcome.OK: "2.0.0", Outcome.TEMPFAIL: "4.3.0", Outcome.PERMFAIL: "5.3.0"}[outcome]


def test_silent_ends() -> None:
    assert verdict_of(1 << 8, all_read=True, last_words=b"").text == b"exited abnormally"
    assert verdict_of(75 << 8, all_read=True, last_words=b"").text == b"temporary failure: exited abnormally"
    killed = verdict_of(signal.SIGSEGV, all_read=True, last_words=b"")
    assert (killed.outcome, killed.text) == (Outcome.TEMPFAIL, b"terminated; signal 11")


@pytest.mark.parametrize("code, outcome", [
    (127, Outcome.PERMFAIL), (128, Outcome.PERMFAIL), (129, Outcome.TEMPFAIL), (137, Outcome.TEMPFAIL),
    (159, Outcome.TEMPFAIL), (160, Outcome.PERMFAIL),
])
def test_a_signal_that_only_the_shell_saw(code: int, outcome: Outcome) -> None:
    verdict = verdict_of(code << 8, all_read=True, last_words=b"")
    assert verdict.outcome is outcome
    assert verdict.text == (f"terminated; signal {code - 128}".encode() if outcome is Outcome.TEMPFAIL else
                            b"exited abnormally")


def test_what_the_shell_started_is_killed() -> None:
    assert run("cat > /dev/null; sh -c 'kill -9 $$'", b"a\r\n").outcome is Outcome.TEMPFAIL


def test_the_message_arrives(tmp_path: Path) -> None:
    assert run(f"cat > {tmp_path}/out", b"a\r", b"\nb\r\n", BIG * 5000) is DELIVERED
    assert (tmp_path / "out").read_bytes() == b"a\nb\n" + (b"x" * 98 + b"\n") * 5000


@pytest.mark.parametrize("text, outcome, words", [
    ("exit 0", Outcome.TEMPFAIL, b"mda exited prematurely"),
    ("head -c 10; exit 0", Outcome.TEMPFAIL, b"mda exited prematurely"),
    ("exec 0<&-; sleep 0.1; exit 0", Outcome.TEMPFAIL, b"mda exited prematurely"),
    ("echo no thanks; exit 67", Outcome.PERMFAIL, b'user unknown: "no thanks"'),
])
def test_a_command_that_does_not_read(text: str, outcome: Outcome, words: bytes) -> None:
    verdict = run(text, *[BIG * 600] * 20)
    assert (verdict.outcome, verdict.text) == (outcome, words)


def test_a_small_message_that_is_not_read() -> None:
    """It was handed over: as in the original nobody can tell."""
    assert run("sleep 0.1", b"x\r\n") is DELIVERED


@pytest.mark.parametrize("text, words", [
    ("printf 'a\\nb\\n\\n'; exit 1", b'"b"'), ("echo out; echo err >&2; exit 1", b'"err"'),
    ("head -c 100000 /dev/zero | tr '\\0' x; exit 1", b'"' + b"x" * 256 + b'"'),
    ("printf ' '; exit 1", b"exited abnormally"),
])
def test_last_words(text: str, words: bytes) -> None:
    assert run(text, b"x\r\n").text == words


def test_endless_output_is_bounded() -> None:
    verdict = run("yes", b"x\r\n", timeout=0.3)
    assert (verdict.outcome, verdict.text) == (Outcome.TEMPFAIL, b"terminated; timeout")


@pytest.mark.parametrize("text", ["sleep 60", "trap '' TERM; sleep 60 & wait", "exec sleep 60 <&-", "cat; sleep 60"])
def test_time_is_limited(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(command, "GRACE", 0.2)
    begin = time.monotonic()
    verdict = run(text, *[BIG * 600] * 3, timeout=0.2)
    assert (verdict.outcome, verdict.text) == (Outcome.TEMPFAIL, b"terminated; timeout")
    assert time.monotonic() - begin < 5


def test_what_it_started_is_killed_with_it(tmp_path: Path) -> None:
    verdict = run(f"sleep 60 & echo $! > {tmp_path}/pid; wait", timeout=0.3)
    assert verdict.text == b"terminated; timeout"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    # It may stay a zombie for a moment, or for good where nobody reaps orphans.
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_background_process_does_not_hold_us() -> None:
    begin = time.monotonic()
    assert run("cat > /dev/null; sleep 8 & exit 0", b"x\r\n") is DELIVERED
    assert time.monotonic() - begin < 5


def test_mda_goes_away() -> None:
    mine, theirs = socket.socketpair()
    one = Command("sleep 60", ENV, timeout=60, watch=mine.fileno())
    theirs.close()
    with pytest.raises(Gone):
        one.finish()
    mine.close()


def test_without_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert run("cat > /dev/null; exec >&- 2>&-; sleep 0.2", b"x\r\n") is DELIVERED


def test_nothing_is_left_open() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    run("cat >/dev/null", b"x\r\n")
    run("exit 1", BIG * 5000)
    run("sleep 9", timeout=0.1)
    one = Command("cat", ENV, timeout=9)
    one.abort()
    assert sorted(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self, fail: bool = False) -> None:
        self.data, self.ended, self.fail = b"", "", fail

    def write(self, chunk: bytes) -> None:
        self.data += chunk
        if self.fail:
            raise tempfail("4.3.1", "full")

    def finish(self) -> Verdict:
        self.ended = "finished"
        return DELIVERED

    def abort(self) -> None:
        self.ended = "aborted"


def wrap(template: str, sink: Kept, *pieces: bytes) -> Verdict:
    one = Command(template.replace("%{mda}", INNER_COMMAND), ENV, timeout=10, inner=sink)
    try:
        for piece in pieces:
            one.write(piece)
        return one.finish()
    except Failed as failed:
        return failed.verdict


def test_a_wrapper_changes_the_message() -> None:
    sink = Kept()
    assert wrap("tr a b | %{mda}", sink, b"aa\r\n", b"c\r\n") is DELIVERED
    assert (sink.data, sink.ended) == (b"bb\r\nc\r\n", "finished")


def test_a_large_message_through_a_wrapper() -> None:
    sink = Kept()
    assert wrap("cat | cat | %{mda}", sink, *[BIG * 600] * 40) is DELIVERED
    assert (sink.data, sink.ended) == (BIG * 24_000, "finished")


@pytest.mark.parametrize("template, outcome, words, ended", [
    ("cat > /dev/null; exit 75", Outcome.TEMPFAIL, b"temporary failure: exited abnormally", "aborted"),
    ("cat > /dev/null", Outcome.OK, b"Delivered", "aborted"),
    ("cat > /dev/null; true | %{mda}", Outcome.TEMPFAIL, b"the wrapper passed on nothing", "aborted"),
    ("%{mda}; exit 1", Outcome.PERMFAIL, b"exited abnormally", "aborted"),
    ("cat > /dev/null || %{mda}", Outcome.OK, b"Delivered", "aborted"),
])
def test_a_wrapper_decides(template: str, outcome: Outcome, words: bytes, ended: str) -> None:
    """It may refuse, and may throw away; one that breaks does not lose the message."""
    sink = Kept()
    verdict = wrap(template, sink, b"x\r\n")
    assert (verdict.outcome, verdict.text, sink.ended) == (outcome, words, ended)


def test_the_inside_of_a_wrapper_fails() -> None:
    verdict = wrap("%{mda}", Kept(fail=True), *[BIG * 600] * 20)
    assert (verdict.outcome, verdict.text) == (Outcome.TEMPFAIL, b"full")


def test_a_wrapped_maildir(tmp_path: Path) -> None:
    one = Command(f"cat | {INNER_COMMAND}", ENV, timeout=10, inner=Maildir(str(tmp_path), "1"))
    one.write(b"a\r\nb\r\n")
    assert one.finish() is DELIVERED
    assert (tmp_path / "new/1").read_bytes() == b"a\nb\n"


def test_binary_mail_is_given_as_it_is(tmp_path: Path) -> None:
    one = Command(f"cat > {tmp_path}/out", ENV, timeout=10, binary=True)
    one.write(b"a\r\nb\n\0")
    one.write(b"\r")
    assert one.finish() == DELIVERED
    assert (tmp_path / "out").read_bytes() == b"a\r\nb\n\0\r"
