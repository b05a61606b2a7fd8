"""What must be true before the daemon starts, and what is said when it is not."""

import errno
import fcntl
import os
import pwd
from pathlib import Path

import pytest

from pysmtpd.base.paths import Paths, under
from pysmtpd.privsep import listen, startup
from pysmtpd.privsep.startup import Identities, StartError

ME = Identities(os.geteuid(), os.getegid(), os.geteuid(), os.getegid(), "me")
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def spool(tmp_path: Path) -> Paths:
    return under(str(tmp_path / "spool"))


def test_a_users_spool_is_made(spool: Paths) -> None:
    startup.prepare_spool(spool, ME)
    assert os.stat(spool.queue).st_mode & 0o777 == 0o700
    startup.prepare_spool(spool, ME)


def test_an_open_queue_is_refused_with_the_command_that_mends_it(spool: Paths) -> None:
    startup.prepare_spool(spool, ME)
    os.chmod(spool.queue, 0o755)
    with pytest.raises(StartError, match=f"chmod 0700 {spool.queue}"):
        startup.prepare_spool(spool, ME)


def test_a_state_directory_of_everybody_is_refused(spool: Paths) -> None:
    startup.prepare_spool(spool, ME)
    os.chmod(spool.spool, 0o777)
    with pytest.raises(StartError, match=f"chmod o-w {spool.spool}"):
        startup.prepare_spool(spool, ME)


def test_an_open_file_in_the_queue_is_refused(spool: Paths) -> None:
    startup.prepare_spool(spool, ME)
    file = Path(spool.queue, "spool.db")
    file.touch(0o644)
    file.chmod(0o644)
    with pytest.raises(StartError, match="chmod -R go-rwx"):
        startup.prepare_spool(spool, ME)


@ROOT
def test_a_missing_system_spool_is_refused(spool: Paths) -> None:
    who = Identities(65534, 65534, 65533, 65533, "")
    with pytest.raises(StartError, match="install -d -o root -g root -m 0711"):
        startup.prepare_spool(spool, who)


@ROOT
def test_a_file_is_no_missing_directory(spool: Paths) -> None:
    Path(spool.spool).touch()
    with pytest.raises(StartError, match="is not a directory"):
        startup.prepare_spool(spool, Identities(65534, 65534, 65533, 65533, ""))


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"longer than the 10[37] octets"):
        listen.control_socket(f"{tmp_path}/{'x' * 100}/smtpd.sock")


@ROOT
def test_the_places_of_the_system_daemon(spool: Paths) -> None:
    os.mkdir(spool.spool)
    os.chmod(spool.spool, 0o711)
    startup.prepare_spool(spool, Identities(65534, 65534, 65533, 65533, ""))
    queue, empty = os.stat(spool.queue), os.stat(spool.empty)
    assert (queue.st_uid, queue.st_mode & 0o777) == (65533, 0o700)
    assert (empty.st_uid, empty.st_mode & 0o777) == (0, 0o755)
    Path(spool.empty, "something").touch()
    with pytest.raises(StartError, match="must stay empty"):
        startup.prepare_spool(spool, Identities(65534, 65534, 65533, 65533, ""))


@ROOT
def test_missing_users_come_with_the_command_that_makes_them() -> None:
    with pytest.raises(StartError, match="user no-such-user-1 does not exist; create it with:\n    useradd --system"):
        startup.identities({"PYSMTPD_USER": "no-such-user-1"})
    with pytest.raises(StartError, match="root"):
        startup.identities({"PYSMTPD_USER": "root", "PYSMTPD_QUEUE_USER": "nobody"})


@ROOT
@pytest.mark.parametrize("environ", [{"PYSMTPD_USER": "grouped"}, {"PYSMTPD_QUEUE_USER": "grouped"},
                                     {"PYSMTPD_QUEUE_GROUP": "root"}], ids=str)
def test_the_group_of_root_is_none_for_the_daemon(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_user", lambda name: pwd.struct_passwd(
        (name, "x", 1000, 0 if name == "grouped" else 1000, "", "/", "")))
    with pytest.raises(StartError, match="has the group of root"):
        startup.identities(environ)


@ROOT
def test_one_user_for_all_is_noticed() -> None:
    who = startup.identities({"PYSMTPD_USER": "nobody", "PYSMTPD_QUEUE_USER": "nobody"})
    assert who.one_user


def test_the_lock_of_a_living_daemon_refuses_at_once(spool: Paths) -> None:
    os.mkdir(spool.spool)
    held = startup.take_lock(spool)
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getppid()}\n".encode(), 0)
    with pytest.raises(StartError, match=rf"another daemon works on .* \(pid {os.getppid()}\)"):
        startup.take_lock(spool)
    os.close(held)
    os.close(startup.take_lock(spool))


def test_our_own_number_is_that_of_a_dead_parent(spool: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the first process has the same number each time, and its children may still be leaving."""
    os.mkdir(spool.spool)
    held = startup.take_lock(spool)
    monkeypatch.setattr("time.sleep", lambda _seconds: fcntl.flock(held, fcntl.LOCK_UN))
    os.close(startup.take_lock(spool))
    os.close(held)


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_the_disk_refuses_is_told_in_a_line(spool: Paths, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    os.mkdir(spool.spool, 0o700)
    opening = os.open

    def refused(path: str, *arguments: int) -> int:
        if path == spool.lock:
            raise OSError(number, os.strerror(number), path)
        return opening(path, *arguments)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(StartError, match=f"{spool.lock}: {os.strerror(number)}"):
        startup.take_lock(spool)

    def unreadable(_path: str) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "lstat", unreadable)
    with pytest.raises(StartError, match=f"{spool.spool}: {os.strerror(number)}"):
        startup.prepare_spool(spool, ME)


def test_the_lock_of_a_dead_daemon_is_waited_for(spool: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(spool.spool)
    held = startup.take_lock(spool)
    os.ftruncate(held, 0)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            fcntl.flock(held, fcntl.LOCK_UN)

    monkeypatch.setattr("time.sleep", sleep)
    os.close(startup.take_lock(spool))
    assert len(waits) == 3
    os.close(held)


def test_state_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert startup.find_paths("", {"PYSMTPD_STATE_DIR": "/a", "XDG_STATE_HOME": "/b", "HOME": "/c"}).spool == "/a"
    assert startup.find_paths("", {"XDG_STATE_HOME": "/b", "HOME": "/c"}).spool == "/b/pysmtpd"
    assert startup.find_paths("", {"HOME": "/c"}).spool == "/c/.local/state/pysmtpd"
    assert startup.find_paths("", {"XDG_STATE_HOME": "b", "HOME": "/c"}).spool == "/c/.local/state/pysmtpd"
    assert startup.find_paths("/d", {"HOME": "/c"}) == Paths("/d", "/d/smtpd.sock")
    with pytest.raises(StartError, match="--state-dir"):
        startup.find_paths("", {})
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert startup.find_paths("", {"HOME": "/c"}) == Paths("/var/spool/smtpd", "/var/run/smtpd.sock")
