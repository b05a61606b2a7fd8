"""The table programs that run, for the parent: started as the configuration says, and ended with their children."""

import contextlib
import grp
import os
import pwd
import signal
import socket
import time
from typing import NamedTuple

import msgspec

from pysmtpd.conf.config import TableProgram
from pysmtpd.privsep import spawn
from pysmtpd.privsep.mproc import refuse_descriptors
from pysmtpd.privsep.program import Job
from pysmtpd.privsep.startup import Identities

APART = 0.9                        # seconds between two starts for one table


class NotStarted(Exception):
    """A program is not started: why."""


class Started(NamedTuple):
    """Its standard input and output, and where its standard error arrives."""

    socket: socket.socket
    errors: int


class Programs:
    """Every program of ours, by table."""

    def __init__(self, who: Identities) -> None:
        self._who = who
        self._tables: dict[int, str] = {}      # by pid
        self._last: dict[str, float] = {}

    def start(self, program: TableProgram) -> Started:
        """Start one, in place of what runs for its table.  Raises NotStarted."""
        now = time.monotonic()
        if now - self._last.get(program.table, -APART) < APART:
            raise NotStarted("it was started a moment ago")
        self._last[program.table] = now
        job = self._job(program)
        self.stop(program.table)
        try:
            return self._spawn(program.table, job)
        except OSError as error:
            raise NotStarted(f"{error.strerror}") from None

    def _job(self, program: TableProgram) -> Job:
        uid, gid = self._who.smtpd_uid, self._who.smtpd_gid
        if self._who.privileged and program.user:
            try:
                entry = pwd.getpwnam(program.user)
            except (KeyError, ValueError):
                raise NotStarted(f"there is no user {program.user}") from None
            uid, gid = entry.pw_uid, entry.pw_gid
        if self._who.privileged and program.group:
            try:
                gid = grp.getgrnam(program.group).gr_gid
            except (KeyError, ValueError):
                raise NotStarted(f"there is no group {program.group}") from None
        return Job(uid=uid, gid=gid, path=program.path, arguments=program.arguments, built_in=program.built_in,
                   chroot=program.chroot)

    def _spawn(self, table: str, job: Job) -> Started:
        ours, theirs = socket.socketpair()
        refuse_descriptors(ours)
        reading, writing = os.pipe()
        try:
            pid = spawn.spawn("pysmtpd.privsep.program", [msgspec.json.encode(job).decode()], theirs, stderr=writing)
        except OSError:
            os.close(reading)
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(writing)
        self._tables[pid] = table
        return Started(ours, reading)

    def stop(self, table: str) -> None:
        """End what runs for a table, with all it started."""
        for pid, name in self._tables.items():
            if name == table:
                _kill(pid)

    def stop_all(self) -> None:
        """The daemon ends."""
        for pid in self._tables:
            _kill(pid)

    def gone(self, pid: int) -> str | None:
        """A child ended: the table whose program it was."""
        return self._tables.pop(pid, None)


def _kill(pid: int) -> None:
    """The process, and those of its session, which it leads as soon as it runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
