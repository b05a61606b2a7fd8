"""250 means that it is on stable storage: what is killed, cut off or failing loses nothing that was answered."""

import os
import random
import re
import shutil
import signal
import smtplib
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pysmtpd.base.procs import CHILDREN, Proc
from tests.e2e.conftest import Start
from tests.support import mail, shim
from tests.support.daemon import Daemon, until
from tests.support.debian import Unavailable
from tests.support.sink import Sink

RELAY = 'listen on 127.0.0.1 port {port}\naction "out" relay host {url}\nmatch from any for any action "out"\n'
# CI raises it, and gives a seed that it prints.
ROUNDS = int(os.environ.get("PYSMTPD_KILL_ROUNDS", "2"))
SEED = int(os.environ.get("PYSMTPD_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)


def all_arrived(sink: Sink, accepted: list[str], silence: float = 30) -> None:
    """Fails after silence seconds in which nothing new came: a slow machine is no lost message."""
    left, seen, changed = set(accepted), 0, time.monotonic()
    while left:
        new = sink.messages[seen:]
        if new:
            left -= mail.names_in(one.data for one in new).keys()
            seen, changed = seen + len(new), time.monotonic()
        assert time.monotonic() < changed + silence, \
            f"{len(left)} of {len(accepted)} accepted messages are lost: {sorted(left)[:5]}"
        time.sleep(0.05)


def survive(daemon: Daemon, port: int, sink: Sink, strike: Callable[[], None]) -> int:
    """Under load, strike, start again, and count; returns how many were accepted."""
    with mail.Load(port, "x@far.example") as load:
        until(lambda: len(load.accepted) >= 20, "load", 20)
        strike()
        daemon.wait(5)                 # nobody waits for answers that cannot come
        daemon.start()
        before = len(load.accepted)
        until(lambda: len(load.accepted) >= before + 10, "load after the restart", 20)
        load.stop()
    daemon.smtpctl("schedule", "all")
    all_arrived(sink, load.accepted)
    return len(load.accepted)


@pytest.mark.parametrize("proc", [Proc.PARENT, *CHILDREN], ids=lambda proc: proc.value)
def test_kill_9_of_each_process_under_load(start: Start, port: int, proc: Proc) -> None:
    with Sink() as sink:
        daemon = start(RELAY.format(port=port, url=sink.url))
        assert survive(daemon, port, sink, lambda: daemon.kill(proc)) >= 30
        twice = sum(mail.names_in(one.data for one in sink.messages).values()) - len(
            mail.names_in(one.data for one in sink.messages))
        assert twice <= 50, "only what was in flight may come twice"


@pytest.mark.timeout(60 + 40 * ROUNDS)
def test_kill_9_at_random(start: Start, port: int) -> None:
    """ROUNDS times in a row on one spool; what was accepted in any of them arrives."""
    dice = random.Random(SEED)
    print(f"PYSMTPD_KILL_SEED={SEED}")
    with Sink() as sink:
        daemon = start(RELAY.format(port=port, url=sink.url))
        with mail.Load(port, "x@far.example", prefix="random") as load:
            for _ in range(ROUNDS):
                before = len(load.accepted)
                until(lambda seen=before: len(load.accepted) >= seen + 5, "load", 20)  # type: ignore[misc]
                time.sleep(dice.uniform(0, 0.5))
                victims = sorted(daemon.pids().items(), key=lambda item: item[0].value)
                os.kill(dice.choice(victims)[1], signal.SIGKILL)
                daemon.wait()
                daemon.start()
            load.stop()
        daemon.smtpctl("schedule", "all")
        all_arrived(sink, load.accepted)


def test_a_restart_delivers_what_waited(start: Start, port: int) -> None:
    """With the relay paused nothing leaves; a kill later everything does."""
    with Sink() as sink:
        daemon = start(RELAY.format(port=port, url=sink.url))
        daemon.smtpctl("pause", "mta")
        for at in range(10):
            mail.send(port, "x@far.example", f"wait-{at}", size=300_000 if at % 3 == 0 else 600)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait()
        assert sink.messages == []
        daemon.start()
        all_arrived(sink, [f"wait-{at}" for at in range(10)])
        assert all(len(one.data) > 250_000 for one in sink.messages if mail.names_in([one.data])["wait-0"])


class TestDisk:
    """With a disk that fails or is slow."""

    def test_a_failing_sync_is_never_a_250(self, start: Start, port: int) -> None:
        with Sink() as sink:
            daemon = start(RELAY.format(port=port, url=sink.url))
            daemon.stop()              # the database exists, made on a good disk
            daemon.environ["LD_PRELOAD"] = shim.library(fail=True)
            daemon.start()
            for size in (600, 300_000):
                with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                    with pytest.raises(smtplib.SMTPDataError) as caught:
                        client.sendmail("a@b.example", ["x@far.example"], mail.letter("lost", size))
                    assert caught.value.smtp_code == 451
                    assert client.noop()[0] == 250, "the session goes on"
            assert set(daemon.pids()) == {Proc.PARENT, *CHILDREN}
            del daemon.environ["LD_PRELOAD"]
            daemon.stop()
            daemon.start()
            mail.send(port, "x@far.example", "good")
            all_arrived(sink, ["good"])
            assert not mail.names_in(one.data for one in sink.messages)["lost"]

    def test_a_slow_disk_delays_the_250(self, start: Start, port: int) -> None:
        with Sink() as sink:
            start(RELAY.format(port=port, url=sink.url), environ={"LD_PRELOAD": shim.library(delay_ms=10)})
            with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                client.ehlo("here")
                for at in range(5):
                    client.mail("a@b.example")
                    client.rcpt("x@far.example")
                    client.putcmd("data")
                    client.getreply()
                    client.send(mail.letter(f"slow-{at}") + b".\r\n")
                    before = time.monotonic()
                    assert client.getreply()[0] == 250
                    assert time.monotonic() - before >= 0.0098
            all_arrived(sink, [f"slow-{at}" for at in range(5)])


CALL = re.compile(r"^(?P<pid>\d+) +(?P<time>\d+\.\d+) (?P<call>\w+)\((?P<rest>.*)$")
RESUMED = re.compile(r"^(?P<pid>\d+) +(?P<time>\d+\.\d+) <\.\.\. (?P<call>\w+) resumed>(?P<rest>.*)$")


class TestStrace:
    """Because the page cache survives a kill: the calls themselves, as the kernel saw them."""

    @pytest.fixture
    def trace(self, where: Path) -> Path:
        return where / "trace"

    @staticmethod
    def wrapper(trace: Path, calls: str) -> list[str]:
        if shutil.which("strace") is None:
            raise Unavailable("there is no strace")
        done = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, check=False,
                              timeout=20)
        if done.returncode != 0:
            raise Unavailable("strace may not trace here")
        return ["strace", "-f", "-qq", "-ttt", "-s", "4096", "--seccomp-bpf", "-e", f"trace={calls}", "-e",
                "signal=none", "-o", str(trace)]

    @pytest.mark.root
    def test_the_bytes_are_synced_between_end_of_data_and_250(self, start: Start, port: int, trace: Path) -> None:
        marker = "durable-marker-0123456789"
        with Sink() as sink:
            daemon = start(
                RELAY.format(port=port, url=sink.url), user="",
                wrapper=self.wrapper(trace, "pwrite64,write,fsync,fdatasync,sendto,send,sendmsg,recvfrom,recvmsg,recv"))
            mail.send(port, "x@far.example", marker)
            all_arrived(sink, [marker])
            pids = {str(pid): proc for proc, pid in daemon.pids().items()}
            threads = {task.name: str(pid) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()}
            daemon.stop()
        lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
        events = [(found["time"], pids.get(threads.get(found["pid"], found["pid"])), found["call"], found["rest"])
                  for line in lines if (found := CALL.match(line) or RESUMED.match(line))]
        written = self.first(events, Proc.QUEUE, ("pwrite64", "write"), marker)
        answered = self.first(events, Proc.SMTP, ("send", "sendto", "write", "sendmsg"), "Message accepted for")
        synced = [at for at, (_, proc, call, rest) in enumerate(events)
                  if proc is Proc.QUEUE and call in ("fsync", "fdatasync") and rest.endswith("= 0")]
        assert any(written < at < answered for at in synced), (written, synced, answered)

    @staticmethod
    def first(events: list[tuple[str, Proc | None, str, str]], proc: Proc, calls: tuple[str, ...], text: str) -> int:
        for at, (_, who, call, rest) in enumerate(events):
            if who is proc and call in calls and text in rest:
                return at
        raise AssertionError(f"{proc.value} never says {text}")

    @pytest.mark.root
    def test_sessions_share_their_syncs(self, start: Start, port: int, trace: Path) -> None:
        """200 messages over 20 sessions cost fewer than 100."""
        with Sink() as sink:
            daemon = start(RELAY.format(port=port, url=sink.url), user="",
                           wrapper=self.wrapper(trace, "fsync,fdatasync"))
            before = len(re.findall(r"f(?:data)?sync\(", trace.read_text(encoding="ascii")))

            def session(number: int) -> None:
                with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
                    for at in range(10):
                        client.sendmail(mail.SENDER, ["x@far.example"], mail.letter(f"sync-{number}-{at}", 4096))

            threads = [threading.Thread(target=session, args=(number,)) for number in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            all_arrived(sink, [f"sync-{number}-{at}" for number in range(20) for at in range(10)])
            syncs = len(re.findall(r"f(?:data)?sync\(", trace.read_text(encoding="ascii"))) - before
            daemon.stop()
        assert syncs < 100, f"{syncs} syncs for 200 messages"
