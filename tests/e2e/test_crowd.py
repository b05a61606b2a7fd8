"""Many clients at once, and hostile ones: the real daemon keeps its memory and goes on serving."""

import contextlib
import re
import resource
import smtplib
import socket
from pathlib import Path

import pytest

from pysmtpd.base.procs import Proc
from tests.e2e.conftest import Start
from tests.support.daemon import until

CONFIG = """
listen on 127.0.0.1 port {port}
action "local" maildir "{box}/m"
match from any for local action "local"
"""
IDLE = 2000
EACH_MAX = 10 * 1024               # octets of our process for one idle connection


def resident(pid: int) -> int:
    """Octets of a process's memory that are in use."""
    kib = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert kib is not None
    return int(kib[1]) * 1024


def greeted(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    assert client.recv(1000).startswith(b"220 ")
    client.sendall(b"EHLO idle.example\r\n")
    assert b"250 HELP\r\n" in client.recv(1000)
    return client


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_an_idle_connection_costs_little(start: Start, port: int, box: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 200:
        pytest.skip(f"at most {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    daemon = start(CONFIG.format(port=port, box=box))
    pid = daemon.pids()[Proc.SMTP]
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(100):
            stack.enter_context(greeted(port))
        before = resident(pid)
        for _ in range(IDLE):
            stack.enter_context(greeted(port))
        assert (resident(pid) - before) / IDLE < EACH_MAX
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            assert client.noop()[0] == 250


def greeting(port: int, source: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0)) as client:
        return client.recv(1000)


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_who_connects_too_often_hears_so_unless_exempt(start: Start, port: int, box: Path, where: Path) -> None:
    table = where / "friends"
    table.write_text("127.0.1.0/24\n")
    table.chmod(0o644)
    limits = f'table friends file:{table}\nsmtp limit conn-rate 2/h exempt <friends>\n'
    daemon = start(limits + CONFIG.format(port=port, box=box))
    codes = [greeting(port, "127.0.0.1")[:9] for _ in range(4)]
    assert codes[:2] == [b"220 " + codes[0][4:]] * 2
    assert codes[2:] == [b"421 4.7.0"] * 2
    assert all(greeting(port, "127.0.1.9").startswith(b"220 ") for _ in range(9))
    daemon.until_logged(r"^.*[0-9a-f]{16} smtp limited address=127\.0\.0\.1 limit=conn-rate$")


@pytest.mark.parametrize("user", ["user"], indirect=True)
def test_pause_refuses_politely_and_lets_sessions_go_on(start: Start, port: int, box: Path) -> None:
    daemon = start(CONFIG.format(port=port, box=box))
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as before:
        daemon.smtpctl("pause", "smtp")
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP("127.0.0.1", port, timeout=20)
        assert refused.value.smtp_code == 421
        assert before.noop()[0] == 250
        daemon.smtpctl("resume", "smtp")

        def served() -> bool:
            with contextlib.suppress(smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
                return client.noop()[0] == 250
            return False

        until(served, "sessions again")
