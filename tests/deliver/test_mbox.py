"""mbox: appended under locks, or cut back to what it was."""

import errno
import fcntl
import mailbox
import os
import time
from pathlib import Path

import pytest

from pysmtpd.deliver import mbox
from pysmtpd.deliver.mbox import HELD_MAX, Mbox
from pysmtpd.deliver.verdict import DELIVERED, Failed
from pysmtpd.messages import Outcome

FROM = "a@example.org Thu Jan  1 00:00:00 1970"


def put(path: Path, *pieces: bytes, owned: bool = True, timeout: float = 0.2) -> None:
    one = Mbox(str(path), FROM, owned=owned, lock_timeout=timeout)
    for piece in pieces:
        one.write(piece)
    assert one.finish() is DELIVERED


def failure(path: Path, *, owned: bool = True) -> Failed:
    with pytest.raises(Failed) as failed:
        put(path, b"x\r\n", owned=owned)
    return failed.value


@pytest.mark.parametrize("pieces, wanted", [
    ([b"a\r\n"], b"a\n\n"), ([b"a"], b"a\n\n"), ([b"a\r\n\r\n"], b"a\n\n\n"),
    ([b"From x\r\n\r\nFro", b"m y\r\n"], b">From x\n\n>From y\n\n"), ([b"a\r\nFrom"], b"a\nFrom\n\n"), ([], b"\n"),
])
def test_content(tmp_path: Path, pieces: list[bytes], wanted: bytes) -> None:
    put(tmp_path / "m", *pieces)
    assert (tmp_path / "m").read_bytes() == f"From {FROM}\n".encode() + wanted
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o600


def test_another_reader_finds_every_message(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / "m", b"Subject: %d\r\n\r\nFrom here on\r\n" % number)
    reader = mailbox.mbox(tmp_path / "m")
    found = list(reader)
    reader.close()
    assert [message["Subject"] for message in found] == ["0", "1", "2"]
    assert found[0].get_payload() == ">From here on\n"


def test_a_large_message_is_appended_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "m"
    one = Mbox(str(path), FROM, owned=True)
    one.write(b"x" * HELD_MAX)
    assert not path.exists()
    one.write(b"y\r\n")
    assert path.stat().st_size > HELD_MAX
    one.abort()
    assert path.stat().st_size == 0
    assert not (tmp_path / "m.lock").exists()


def test_a_message_after_one_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"From x\n\npart of a li")
    put(tmp_path / "m", b"a\r\n")
    assert b"part of a li\n\nFrom a@" in (tmp_path / "m").read_bytes()


def test_links_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "soft").symlink_to("real")
    os.link(tmp_path / "real", tmp_path / "hard")
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "fifo")
    for name, words in [("soft", "symbolic link"), ("hard", "other links"), ("dir", "directory"), ("fifo", "regular")]:
        error = failure(tmp_path / name)
        assert words in str(error)
    assert (tmp_path / "real").read_text() == ""
    assert sorted(os.listdir(tmp_path)) == ["dir", "fifo", "hard", "real", "soft"]


def test_nowhere() -> None:
    """An alias that throws away."""
    put(Path("/dev/null"), b"x\r\n", owned=False)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: a mailbox of somebody else")
def test_somebody_elses_mailbox(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    os.chown(tmp_path / "m", 65534, 65534)
    assert failure(tmp_path / "m").verdict.outcome is Outcome.TEMPFAIL
    put(tmp_path / "m", b"x\r\n", owned=False)


def test_the_dot_lock_of_another(tmp_path: Path) -> None:
    lock = tmp_path / "m.lock"
    lock.write_text("")
    error = failure(tmp_path / "m")
    assert error.verdict.outcome is Outcome.TEMPFAIL and "locked" in str(error)
    assert lock.exists() and (tmp_path / "m").read_bytes() == b""
    old = time.time() - mbox.STALE_LOCK - 1
    os.utime(lock, (old, old))
    put(tmp_path / "m", b"x\r\n")
    assert not lock.exists()


def test_the_dot_lock_is_there_while_we_write(tmp_path: Path) -> None:
    one = Mbox(str(tmp_path / "m"), FROM, owned=True)
    one.write(b"x" * (HELD_MAX + 1))
    assert (tmp_path / "m.lock").read_text() == f"{os.getpid()}\n"
    one.finish()
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("style", ["fcntl", "flock"])
def test_the_kernel_lock_of_another(tmp_path: Path, style: str) -> None:
    path = tmp_path / "m"
    path.write_text("")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(path, os.O_RDWR)
        (fcntl.lockf if style == "fcntl" else fcntl.flock)(fd, fcntl.LOCK_EX)
        os.write(writing, b"x")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(reading, 1)
        assert "locked" in str(failure(path))
        assert not (tmp_path / "m.lock").exists()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)
    put(path, b"x\r\n")


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    put(tmp_path / "m", b"old\r\n")
    before = (tmp_path / "m").read_bytes()
    real = getattr(os, call)

    def fail(fd: int, *rest: bytes) -> int:
        if call == "write" and len(rest[0]) < 20:
            return int(real(fd, *rest))  # of the lock
        if call == "write":
            real(fd, rest[0][:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    error = failure(tmp_path / "m")
    assert (error.verdict.outcome, error.verdict.esc) == (Outcome.TEMPFAIL, "4.3.1")
    assert (tmp_path / "m").read_bytes() == before
    assert not (tmp_path / "m.lock").exists()


def test_a_mailbox_that_is_replaced_while_we_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    path.write_text("")
    real = fcntl.flock

    def replace(fd: int, how: int) -> None:
        (tmp_path / "new").write_text("")
        os.rename(tmp_path / "new", path)
        real(fd, how)

    monkeypatch.setattr(fcntl, "flock", replace)
    assert "replaced" in str(failure(path))
    assert path.read_bytes() == b""


def test_a_relative_path() -> None:
    with pytest.raises(Failed):
        Mbox("m", FROM, owned=True)
