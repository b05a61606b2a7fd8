"""Whatever strangers send: a clear answer, nothing lost, nothing down."""

import contextlib
import os
import pwd
import random
import socket
import struct
from pathlib import Path

import pytest

from pysmtpd.base.procs import CHILDREN, Proc
from tests.e2e.conftest import Start
from tests.support import mail
from tests.support.daemon import Daemon, memory, until
from tests.support.sink import Sink

CONFIG = 'listen on 127.0.0.1 port {port}\naction "out" relay host {url}\nmatch from any for any action "out"\n'
GROWTH = 8 << 20


def still_works(daemon: Daemon, port: int, sink: Sink, name: str) -> None:
    mail.send(port, "x@far.example", name)
    until(lambda: mail.names_in(one.data for one in sink.messages)[name], name)
    assert set(daemon.pids()) == {Proc.PARENT, *CHILDREN}
    assert "bug:" not in daemon.log


def throw(address: object, data: bytes, family: int = socket.AF_INET) -> bytes:
    """Send and read what comes back, to the end."""
    got = b""
    with socket.socket(family) as sock:
        sock.settimeout(10)
        sock.connect(address)  # type: ignore[arg-type]
        try:
            if family == socket.AF_INET:
                got = sock.recv(65536)     # the greeting: a reset that follows the garbage may take it back
            sock.sendall(data)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(65536):
                got += piece
        except (ConnectionError, TimeoutError):
            pass
    return got


def test_on_the_smtp_port(start: Start, port: int) -> None:
    dice = random.Random(1)
    with Sink() as sink:
        daemon = start(CONFIG.format(port=port, url=sink.url))
        pieces = [
            os.urandom(100_000), b"\0" * 10_000, b"\r\n" * 12, b"A" * 200_000, b"EHLO " + b"x" * 70_000 + b"\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + os.urandom(500),
            b"EHLO x\r\nMAIL FROM:<" + b"a" * 5000 + b"@b>\r\nRCPT TO:<;x@y>\r\nDATA\r\n.\r\n",
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n" + b"\xff\x00\r\n" * 1000,
            b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 1100 + b"RSET\r\nQUIT\r\n",
        ]
        pieces += [bytes(dice.choices(b"MAILRCPTDATA FROM:<>@.\r\n\0\xff", k=3000)) for _ in range(10)]
        for piece in pieces:
            got = throw(("127.0.0.1", port), piece)
            assert got.startswith(b"220 ")
            assert all(line[:3].isdigit() for line in got.split(b"\r\n") if line)
        still_works(daemon, port, sink, "after-garbage")
        assert [one for one in sink.messages if not mail.ID.search(one.data)] == []


def test_on_the_control_socket(start: Start, port: int) -> None:
    with Sink() as sink:
        daemon = start(CONFIG.format(port=port, url=sink.url))
        for piece in (os.urandom(10_000), b"\0" * 4096, b"show queue\n",
                      struct.pack("!HHIII", 0xE0, 0, 0xFFFFFFFF, 0, 0),
                      struct.pack("!HHIII", 0xE6, 1, 20, 0, 0) + b"\x93\1\2\3", b"\xff"):
            throw(str(daemon.socket), piece, socket.AF_UNIX)
        still_works(daemon, port, sink, "after-garbage")
        assert daemon.smtpctl("show", "status").returncode == 0


def test_many_idle_clients_do_not_keep_others_out(start: Start, port: int) -> None:
    with Sink() as sink:
        daemon = start(CONFIG.format(port=port, url=sink.url))
        idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(300)]
        try:
            still_works(daemon, port, sink, "beside-idle")
        finally:
            for sock in idle:
                sock.close()


@pytest.mark.parametrize("text", [
    "\0\0\0", "listen\n", "listen on\n", "action \"x\n", "match for any action nothing\n", "table t { a, b\n",
    "include \"/nonexistent\"\n", "listen on 127.0.0.1 port 99999999\n", "\xff\xfe", "{" * 10000, "a = $a\n" * 1000,
], ids=range(11))
def test_in_the_configuration(user: str, text: str, where: Path) -> None:
    daemon = Daemon("", user=user, where=where)
    daemon.config.write_bytes(text.encode("latin-1"))
    done = daemon.run("-n", "-f", str(daemon.config))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"{daemon.config}:"), done.stderr[:300]


class TestLarge:
    """30 MB, in and out, while the memory of no process grows by 8."""

    @staticmethod
    def peaks(daemon: Daemon) -> dict[Proc, int]:
        return {proc: memory(pid, "VmHWM") for proc, pid in daemon.pids().items()}

    @pytest.mark.timeout(120)
    def test_through_a_relay(self, start: Start, port: int) -> None:
        with Sink() as sink:
            daemon = start(CONFIG.format(port=port, url=sink.url))
            mail.send(port, "x@far.example", "warm", size=200_000)
            until(lambda: mail.names_in(one.data for one in sink.messages)["warm"], "the first")
            before = self.peaks(daemon)
            mail.send(port, "x@far.example", "large", size=30_000_000)
            until(lambda: mail.names_in(one.data for one in sink.messages)["large"], "the large one", 60)
            after = self.peaks(daemon)
            assert len(sink.messages[-1].data) > 29_900_000
        self.judge(before, after)

    @staticmethod
    def judge(before: dict[Proc, int], after: dict[Proc, int]) -> None:
        grown = {proc.value: (after[proc] - before[proc]) >> 20 for proc in after}
        assert all(after[proc] - before[proc] < GROWTH for proc in after), f"MB: {grown}"

    @pytest.mark.timeout(120)
    def test_into_a_maildir(self, start: Start, port: int, box: Path, recipient: pwd.struct_passwd) -> None:
        path = box / "m"
        daemon = start(f'listen on 127.0.0.1 port {port}\naction "local" maildir "{path}"\n'
                       'match from any for local action "local"\n')
        mail.send(port, f"{recipient.pw_name}@localhost", "warm", size=200_000)
        until(lambda: len(mail.maildir(path)) == 1, "the first")
        before = self.peaks(daemon)
        mail.send(port, f"{recipient.pw_name}@localhost", "large", size=30_000_000)
        until(lambda: len(mail.maildir(path)) == 2, "the large one", 60)
        after = self.peaks(daemon)
        self.judge(before, after)
        workers = [pid for pid in daemon.every_pid() if pid not in daemon.pids().values()]
        assert all(memory(pid, "VmHWM") < 40 << 20 for pid in workers)
