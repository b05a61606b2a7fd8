"""privsep.programs: which table programs the parent starts, and as whom."""

import os
import pwd
import signal
import socket
from typing import Any

import msgspec
import pytest

from pysmtpd.base.paths import under
from pysmtpd.conf.config import Config, TableProgram
from pysmtpd.imsg import Message
from pysmtpd.messages import TableRefused, TableStart, TableStarted, TableStop
from pysmtpd.parent import Options, Parent
from pysmtpd.privsep.log import Log
from pysmtpd.privsep.process import Birth
from pysmtpd.privsep.program import Job
from pysmtpd.privsep.programs import NotStarted, Programs
from pysmtpd.privsep.startup import Identities

ROOT = Identities(1, 1, 2, 2, "")
PROGRAM = TableProgram(table="users", path="/usr/bin/ask", arguments=("/usr/bin/ask", "x"))


class System:
    """Processes that are not started, and not killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.jobs: list[Job] = []
        self.killed: list[tuple[int, int]] = []
        self.time = 100.0
        monkeypatch.setattr("pysmtpd.privsep.spawn.spawn", self._spawn)
        monkeypatch.setattr("pysmtpd.privsep.programs.os.kill", lambda pid, sig: self.killed.append((pid, sig)))
        monkeypatch.setattr("pysmtpd.privsep.programs.os.killpg", lambda pid, sig: self.killed.append((-pid, sig)))
        monkeypatch.setattr("pysmtpd.privsep.programs.time.monotonic", lambda: self.time)
        monkeypatch.setattr("pysmtpd.privsep.programs.pwd.getpwnam", {
            "vmail": pwd.struct_passwd(("vmail", "x", 2000, 2001, "", "/", "/bin/sh"))}.__getitem__)

    def _spawn(self, module: str, arguments: list[str], _sock: socket.socket, *, stderr: int) -> int:
        assert module == "pysmtpd.privsep.program" and os.fstat(stderr)
        self.jobs.append(msgspec.json.decode(arguments[0], type=Job))
        return 10_000 + len(self.jobs)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    return System(monkeypatch)


def start(running: Programs, program: TableProgram) -> None:
    sock, errors = running.start(program)
    sock.close()
    os.close(errors)


def test_a_program_runs_as_smtpd_or_as_the_user_it_says(system: System) -> None:
    running = Programs(ROOT)
    start(running, PROGRAM)
    start(running, TableProgram(table="b", path="/b", arguments=("/b",), user="vmail", chroot="/var/empty"))
    start(running, TableProgram(table="c", built_in="sqlite", arguments=("/etc/c",)))
    assert system.jobs == [
        Job(uid=1, gid=1, path="/usr/bin/ask", arguments=("/usr/bin/ask", "x")),
        Job(uid=2000, gid=2001, path="/b", arguments=("/b",), chroot="/var/empty"),
        Job(uid=1, gid=1, built_in="sqlite", arguments=("/etc/c",)),
    ]


@pytest.mark.parametrize("program, why", [
    (TableProgram(table="x", path="/x", user="nobody-here"), "there is no user nobody-here"),
    (TableProgram(table="x", path="/x", group="no-group-here"), "there is no group no-group-here"),
])
def test_users_that_do_not_exist(program: TableProgram, why: str, system: System) -> None:
    with pytest.raises(NotStarted, match=why):
        Programs(ROOT).start(program)
    assert system.jobs == []


def test_a_program_is_not_started_again_and_again(system: System) -> None:
    running = Programs(ROOT)
    start(running, PROGRAM)
    with pytest.raises(NotStarted, match="a moment ago"):
        running.start(PROGRAM)
    system.time += 1
    start(running, PROGRAM)
    assert system.killed == [(10_001, signal.SIGKILL), (-10_001, signal.SIGKILL)]


def test_one_that_ended_is_not_killed(system: System) -> None:
    running = Programs(ROOT)
    start(running, PROGRAM)
    assert running.gone(10_001) == "users" and running.gone(10_001) is None
    running.stop("users")
    running.stop_all()
    assert system.killed == []


class Lka:
    """Stands for the peer."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message, fd: int | None = None) -> None:
        self.sent.append(message)
        if fd is not None:
            os.close(fd)


def parent() -> Parent:
    paths = under("/nonexistent")
    birth = Birth(proc="parent", uid=0, gid=0, spool=paths.spool, socket=paths.socket, stderr=True, verbose=0)
    made = Parent(birth, Log(stderr=True, verbose=False), Options(config="x"), ROOT, -1)
    made.config = Config(hostname="x", table_programs={"users": PROGRAM})
    return made


def test_lka_may_start_what_the_configuration_names_and_nothing_else(system: System) -> None:
    root, lka = parent(), Lka()
    peer: Any = lka
    root.table_start(peer, TableStart("other"))
    assert lka.sent == [TableRefused("other", "no such program")] and system.jobs == []
    root.table_start(peer, TableStart("users"))
    assert lka.sent[1:] == [TableStarted("users", False), TableStarted("users", True)]
    root.table_start(peer, TableStart("users"))
    assert lka.sent[3:] == [TableRefused("users", "it was started a moment ago")]
    root.table_stop(peer, TableStop("users"))
    assert system.killed[0] == (10_001, signal.SIGKILL)


def test_nothing_is_started_while_the_daemon_stops(system: System) -> None:
    root, lka = parent(), Lka()
    root._leaving = True
    peer: Any = lka
    root.table_start(peer, TableStart("users"))
    assert lka.sent == [TableRefused("users", "no such program")] and system.jobs == []
