"""Log lines: as text and as JSON, to a file, to syslog's socket, and when there is no room."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter

import pytest

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.conf.config import Config
from pysmtpd.privsep.log import Log, as_json, open_file, open_syslog

JSON = Config(hostname="mx.example.org", log_format="json", log_destination="file", log_file="/x")
TEXT = Config(hostname="mx.example.org", log_destination="file", log_file="/x")
COMMON = {"time", "level", "process", "pid", "event", "text"}


@pytest.fixture
def _remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formats that remember, for this test only."""
    for name, value in list(vars(logline).items()):
        if name.isupper() and isinstance(value, str):
            monkeypatch.setattr(logline, name, value)
    logline.keep_fields()


def log_to(path: Path, config: Config) -> Log:
    log = Log(stderr=False, verbose=False)
    log.configure("smtp", config)
    log.replace(open_file(str(path)))
    return log


@pytest.mark.usefixtures("_remembered")
def test_a_declared_line_is_its_fields_and_its_text(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log", JSON)
    log.write(logline.SMTP_MESSAGE.format(id=0xABC, msgid=0x1234ABCD, size=99, nrcpt=2, proto="ESMTP"))
    log.write(logline.EXITING, Level.ERR)
    log.write("warn: something \u00e9lse\n", Level.ERR)
    found = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [one.pop("time")[10] for one in found] == ["T"] * 3
    common = {"process": "smtp", "pid": os.getpid()}
    assert found == [
        {**common, "level": "info", "event": "smtp-message", "id": "0000000000000abc", "msgid": "1234abcd", "size": 99,
         "nrcpt": 2, "proto": "ESMTP",
         "text": "0000000000000abc smtp message msgid=1234abcd size=99 nrcpt=2 proto=ESMTP"},
        {**common, "level": "err", "event": "exiting", "text": "Exiting"},
        {**common, "level": "err", "text": "warn: something \u00e9lse\n"},
    ]


@pytest.mark.usefixtures("_remembered")
def test_what_a_stranger_says_stays_in_its_field() -> None:
    said = 'RCPT" result="250 ok'
    line = logline.SMTP_FAILED_COMMAND.format(id=1, command=said, result="550 no")
    found = json.loads(as_json(line, Level.INFO, "smtp", 0.0))
    assert (found["command"], found["result"]) == (said, "550 no")
    assert found["time"] == "1970-01-01T00:00:00.000+00:00"


def test_no_field_hides_what_every_line_has() -> None:
    formats = {name: value for name, value in vars(logline).items() if name.isupper() and isinstance(value, str)}
    assert len(formats) > 30
    for name, value in formats.items():
        assert not COMMON & {field for _, field, _, _ in Formatter().parse(value) if field}, name


def test_text_costs_nothing_more() -> None:
    code = ("from pysmtpd.base import logline; from pysmtpd.privsep.log import Log; from pysmtpd.conf.config import "
            "Config; Log(stderr=True, verbose=False).configure('smtp', Config(hostname='x')); "
            "assert type(logline.SMTP_CONNECTED) is str; print('as before')")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True,
                          cwd=Path(__file__).parents[2]).stdout == b"as before\n"


def test_text_in_a_file_begins_as_syslog_writes_it(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log", TEXT)
    log.write("one")
    log.write("not this", Level.DEBUG)
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(f" mx smtpd[{os.getpid()}]: one")


def test_another_file_takes_over(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log", TEXT)
    before = log.file
    log.write("one")
    log.replace(open_file(str(tmp_path / "new")))
    log.write("two")
    assert (tmp_path / "log").read_text().count("\n") == (tmp_path / "new").read_text().count("\n") == 1
    assert before is not None and (log.file == before or not os.path.exists(f"/proc/self/fd/{before}"))


def test_a_full_disk_drops_lines_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_to(tmp_path / "log", TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        log.write("lost")
    log.write("kept")
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("kept") and second.endswith("warn: 1 log lines dropped")


def test_a_socket_is_still_one(tmp_path: Path) -> None:
    log = log_to(tmp_path / "log", TEXT)
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    log.replace(theirs.detach())
    log.write("one")
    assert mine.recv(1000).endswith(f"smtpd[{os.getpid()}]: one".encode())
    mine.close()
    log.replace(open_file(str(tmp_path / "log")))


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("/dev/null"), lambda path: os.mkfifo(path), lambda path: path.mkdir(),
])
def test_what_is_not_a_plain_file_is_no_log(tmp_path: Path, make: object) -> None:
    make(tmp_path / "log")  # type: ignore[operator]
    with pytest.raises(OSError):
        open_file(str(tmp_path / "log"))


class Syslogd:
    """A place where syslogd listens, or not."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.sock: socket.socket | None = None
        monkeypatch.setattr("pysmtpd.privsep.log.SYSLOG_PATHS", (str(path),))
        self.logs: list[Log] = []
        self.asked = 0
        self.time = 100.0
        monkeypatch.setattr("pysmtpd.privsep.log.time.monotonic", lambda: self.time)

    def log(self) -> Log:
        """Whoever speaks to it; a new socket is had as the parent has one."""
        log = Log(stderr=False, verbose=False)
        self.logs.append(log)

        def reopen() -> None:
            self.asked += 1
            sock = open_syslog()
            if sock is not None:
                log.replace(sock.detach())

        log.on_lost = reopen
        return log

    def start(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.path))
        self.sock.setblocking(False)

    def stop(self) -> None:
        assert self.sock is not None
        self.sock.close()
        self.path.unlink()

    def heard(self) -> list[str]:
        assert self.sock is not None
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines.append(self.sock.recv(9000).decode().partition("]: ")[2])
        return lines


@pytest.fixture
def syslogd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Syslogd]:
    one = Syslogd(tmp_path / "log", monkeypatch)
    yield one
    for sock in (one.sock, *(log._syslog for log in one.logs)):
        if sock is not None:
            sock.close()


def test_a_syslogd_that_starts_later_hears_everything(syslogd: Syslogd) -> None:
    log = syslogd.log()
    assert not log.has_reader
    log.write("one")
    log.write("two")
    assert syslogd.asked == 1, "not for each line"
    syslogd.start()
    syslogd.time += 1
    log.write("three")
    assert syslogd.heard() == ["one", "two", "three"]
    assert log.has_reader


def test_a_syslogd_that_is_restarted_misses_nothing(syslogd: Syslogd) -> None:
    syslogd.start()
    log = syslogd.log()
    log.write("one")
    assert syslogd.heard() == ["one"]
    syslogd.stop()
    log.write("two")
    log.write("three")
    syslogd.start()
    syslogd.time += 1
    log.write("four")
    assert syslogd.heard() == ["two", "three", "four"]


def test_what_is_kept_for_a_syslogd_has_a_bound(syslogd: Syslogd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysmtpd.privsep.log.KEPT_MAX", 3)
    log = syslogd.log()
    for number in range(10):
        log.write(f"{number}")
    syslogd.start()
    syslogd.time += 1
    log.write("last")
    log.write("more")
    assert syslogd.heard() == ["0", "1", "2", "more", "warn: 8 log lines dropped"]


def test_a_line_that_is_too_long_for_a_datagram_holds_up_no_other(
    syslogd: Syslogd, monkeypatch: pytest.MonkeyPatch,
) -> None:
    syslogd.start()
    monkeypatch.setattr("pysmtpd.privsep.log.LINE_MAX", 10_000_000)
    log = syslogd.log()
    log.write("x" * 5_000_000)
    log.write("kept")
    assert syslogd.heard() == ["kept", "warn: 1 log lines dropped"]


def test_a_syslogd_that_does_not_keep_up_is_waited_for(syslogd: Syslogd) -> None:
    syslogd.start()
    log = syslogd.log()
    soon: list[Callable[[], None]] = []
    log.attach(soon.append, lambda _seconds, push: soon.append(push))
    for number in range(300):
        log.write(f"{number}")
    heard: list[str] = []
    while soon:
        soon.pop(0)()
        assert len(soon) <= 1
        heard += syslogd.heard()
    assert heard == [f"{number}" for number in range(300)]


def test_the_last_lines_of_a_process_are_waited_for(syslogd: Syslogd) -> None:
    syslogd.start()
    log = syslogd.log()
    soon: list[Callable[[], None]] = []
    log.attach(soon.append, lambda _seconds, push: soon.append(push))
    for number in range(300):
        log.write(f"{number}")
    heard: list[str] = []

    def read() -> None:
        while len(heard) < 300:
            heard.extend(syslogd.heard())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    log.finish()
    reader.join(20)
    assert heard == [f"{number}" for number in range(300)]
