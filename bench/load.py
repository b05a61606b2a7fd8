"""The load: Postfix's smtp-source on one side, its smtp-sink on the other, which counts."""

import os
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from bench.measure import Usage, spent, usage
from bench.sandbox import DOMAIN, Place
from bench.systems import System
from tests.support import debian

SIZE = 4096
QUIET = 20.0                       # seconds without a message after which the rest is lost
SETTLE = 0.3                       # what arrives in this time after the last message is a duplicate
POLL = 0.004


class Case(NamedTuple):
    """One kind of load."""

    sessions: int
    reuse: bool                    # many messages over one connection

    def __str__(self) -> str:
        return f"{self.sessions} session{'s' if self.sessions > 1 else ''}{', reused' if self.reuse else ''}"


class Outcome(NamedTuple):
    """What one run showed."""

    sent: int
    arrived: int                   # at the sink; more than sent are duplicates
    accept: float                  # messages per second
    end_to_end: float
    cpu: dict[str, float]          # microseconds per message and process
    rss: int                       # octets, all processes, after the run
    pss: int

    @property
    def lost(self) -> int:
        return max(0, self.sent - self.arrived)

    @property
    def cpu_total(self) -> float:
        return sum(self.cpu.values())


class Sink:
    """smtp-sink; a context manager."""

    def __init__(self, where: Path, place: Place) -> None:
        self._tool = debian.tool("postfix", "usr/sbin/smtp-sink")
        self._counters = where / "sink"
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sink":
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        where = f"{self._place.sink_address}:{self._place.sink_port}"
        with open(self._counters, "wb") as file:
            self._process = subprocess.Popen([self._tool.path, "-c", *user, where, "1000"], env=dict(self._tool.env),
                                             stdout=file, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        if self._process.poll() is not None:
            raise SystemExit(f"bench: smtp-sink does not start on {where}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def count(self) -> int:
        """Messages taken since it was started."""
        with open(self._counters, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 200))
            found = re.findall(rb"mesg=(\d+)", file.read())
        return int(found[-1]) if found else 0


def run(system: System, sink: Sink, case: Case, count: int) -> Outcome:
    """Send count messages and wait until they have left."""
    source = debian.tool("postfix", "usr/sbin/smtp-source")
    reuse = ["-d"] if case.reuse else []
    command = [source.path, "-s", str(case.sessions), "-m", str(count), "-l", str(SIZE), *reuse,
               "-M", "load.example", "-f", "sender@load.example", "-t", f"rcpt@{DOMAIN}", f"127.0.0.1:{system.port}"]
    already = sink.count()
    before = usage(system.pid)
    start = time.monotonic()
    with subprocess.Popen(command, env=dict(source.env), stdout=subprocess.DEVNULL) as process:
        accepted = last = 0.0       # when smtp-source ended; when the last message arrived
        seen, moved = 0, start
        while True:
            now = time.monotonic()
            if not accepted and process.poll() is not None:
                accepted = now
            arrived = sink.count() - already
            if arrived != seen:
                seen, moved, last = arrived, now, now
            if accepted and (seen >= count or now - moved > QUIET):
                break
            if not accepted and now - moved > 3 * QUIET:
                process.kill()
                break
            time.sleep(POLL)
    after = usage(system.pid)
    time.sleep(SETTLE)
    arrived = sink.count() - already
    return _outcome(count, arrived, (start, accepted, last), before, after)


def _outcome(count: int, arrived: int, times: tuple[float, float, float], before: Usage, after: Usage) -> Outcome:
    start, accepted, last = times
    cpu = {name: value / max(1, arrived) for name, value in spent(before, after).items()}
    return Outcome(count, arrived, _rate(count, accepted - start), _rate(arrived, last - start), cpu,
                   sum(after.rss.values()), after.pss)


def _rate(count: int, seconds: float) -> float:
    """Per second; 0 when it did not come to an end."""
    return count / seconds if seconds > 0 else 0.0
