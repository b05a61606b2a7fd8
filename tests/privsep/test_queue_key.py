"""The key of the queue: a line of standard input, or what somebody types unseen."""

import os
import pty
import termios
import threading
from collections.abc import Iterator

import pytest

from pysmtpd.privsep.queue_key import read_key
from pysmtpd.privsep.startup import StartError

KEY = "0123456789abcdef0123456789abcdef"


def piped(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


@pytest.mark.parametrize("data", [f"{KEY}\n", KEY, f"{KEY}\nmore\n"])
def test_from_standard_input(data: str) -> None:
    fd = piped(data.encode())
    assert read_key(stdin=True, fd=fd, timeout=5) == KEY
    os.close(fd)


@pytest.mark.parametrize("data, why", [
    (b"short\n", "exactly 32 octets, this has 5"), (b"", "this has 0"), (b"x" * 5000, "exactly 32 octets"),
    (b"\xff" * 32 + b"\n", "not UTF-8"),
])
def test_what_is_no_key(data: bytes, why: str) -> None:
    fd = piped(data)
    with pytest.raises(StartError, match=why):
        read_key(stdin=True, fd=fd, timeout=5)
    os.close(fd)


def test_nobody_is_waited_for_for_ever() -> None:
    reading, writing = os.pipe()
    with pytest.raises(StartError, match="no key within 0s"):
        read_key(stdin=True, fd=reading, timeout=0.01)
    os.close(reading)
    os.close(writing)


def test_without_a_terminal_there_is_nobody_to_ask() -> None:
    fd = piped(b"")
    with pytest.raises(StartError, match="no terminal to ask"):
        read_key(stdin=False, fd=fd, timeout=5)
    os.close(fd)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def test_on_a_terminal_it_is_not_shown(terminal: tuple[int, int], capsys: pytest.CaptureFixture[str]) -> None:
    master, slave = terminal
    silent = threading.Event()
    reading = os.read
    found: list[str] = []

    def ask() -> None:
        found.append(read_key(stdin=False, fd=slave, timeout=20))

    thread = threading.Thread(target=ask)
    thread.start()
    while termios.tcgetattr(slave)[3] & termios.ECHO and thread.is_alive():
        silent.wait(0.001)
    os.write(master, f"{KEY}\n".encode())
    thread.join(20)
    assert found == [KEY]
    assert capsys.readouterr().err == "queue key: \n"
    assert termios.tcgetattr(slave)[3] & termios.ECHO
    os.set_blocking(master, False)
    try:
        shown = reading(master, 4096)
    except BlockingIOError:
        shown = b""
    assert KEY.encode() not in shown
