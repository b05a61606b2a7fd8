"""privsep.home: the child that asks who users are, opens .forward and makes mailboxes."""

import errno
import fcntl
import itertools
import os
import pwd
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder, Message
from pysmtpd.messages import (
    FORWARD_MAX,
    ForwardMissing,
    ForwardOpened,
    ForwardState,
    Found,
    HomeForward,
    HomeMailbox,
    HomeMember,
    HomeTold,
    HomeUser,
)
from pysmtpd.privsep import home, spawn

ME = os.geteuid()
ALICE = pwd.struct_passwd(("alice", "x", ME, 100, "", "/home/alice", "/bin/sh"))


def find(name: str) -> pwd.struct_passwd | None:
    if name == "down":
        raise OSError(errno.ECONNREFUSED, "Connection refused")
    return ALICE if name == "alice" else None


def ask(question: Message) -> Message:
    message, fd = home.answer(question, find)
    assert fd is None
    return message


def content(question: HomeForward) -> bytes:
    message, fd = home.answer(question, find)
    assert message == ForwardOpened(question.reqid) and fd is not None
    with open(fd, "rb") as file:
        return file.read()


@pytest.fixture
def dir(tmp_path: Path) -> Path:
    (tmp_path / ".forward").write_bytes(b"bob\n")
    (tmp_path / ".forward").chmod(0o600)
    return tmp_path


def test_who_a_user_is() -> None:
    assert ask(HomeUser(1, "alice")) == HomeTold(1, Found.YES, ME, 100, "/home/alice", "")
    assert ask(HomeUser(1, "carol")) == HomeTold(1, Found.NO, 0, 0, "", "")
    assert ask(HomeUser(1, "down")) == HomeTold(1, Found.TEMPFAIL, 0, 0, "", "user down: Connection refused")


def test_which_groups_the_system_gives() -> None:
    me = pwd.getpwuid(ME)
    for group in os.getgrouplist(me.pw_name, me.pw_gid):
        assert ask(HomeMember(1, ME, group)) == HomeTold(1, Found.YES, 0, 0, "", "")
    assert ask(HomeMember(1, ME, 0xFFFFFF0)) == HomeTold(1, Found.NO, 0, 0, "", "")
    assert ask(HomeMember(1, 0xFFFFFF0, 0)) == HomeTold(1, Found.NO, 0, 0, "", "")


def test_a_mailbox_is_made_for_nobody_but_the_user_of_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path))
    monkeypatch.setattr("os.fchown", lambda _fd, _uid, _gid: None)
    tmp_path.chmod(0o775)
    gid = tmp_path.stat().st_gid
    another = HomeTold(1, Found.NO, 0, 0, "", "alice is another user of the system")
    assert ask(HomeMailbox(1, "alice", ME + 1)) == another
    assert os.listdir(tmp_path) == []
    for _ in range(2):
        assert ask(HomeMailbox(1, "alice", ME)) == HomeTold(1, Found.YES, 0, gid, "", "")
    assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o600
    assert ask(HomeMailbox(1, "virtual", 5000)) == HomeTold(1, Found.YES, 0, gid, "", "")
    tmp_path.chmod(0o755)
    assert ask(HomeMailbox(1, "virtual", 5000)) == HomeTold(1, Found.YES, 0, 0, "", ""), "no group helps there"
    monkeypatch.setattr("pysmtpd.base.paths.MAIL_DIRECTORY", str(tmp_path / "none"))
    told = ask(HomeMailbox(1, "alice", ME))
    assert isinstance(told, HomeTold) and told.found is Found.TEMPFAIL and "No such file" in told.why


def test_a_forward_comes_as_a_pipe_with_a_bound(dir: Path) -> None:
    assert content(HomeForward(1, "", ME, str(dir))) == b"bob\n"
    (dir / ".forward").write_bytes(b"x" * 100_000)
    assert content(HomeForward(1, "", ME, str(dir))) == b"x" * FORWARD_MAX
    (dir / ".forward").write_bytes(b"")
    assert content(HomeForward(1, "", ME, str(dir))) == b""


def test_what_is_said_of_a_user_of_the_system_must_be_true(dir: Path) -> None:
    def missing(user: str, uid: int = ME) -> tuple[ForwardState, str]:
        told = ask(HomeForward(1, user, uid, str(dir)))
        assert isinstance(told, ForwardMissing)
        return told.state, told.why

    assert missing("carol") == (ForwardState.REFUSED, "there is no user carol")
    assert missing("alice") == (ForwardState.TEMPORARY, "alice has another home directory")
    assert missing("down") == (ForwardState.TEMPORARY, "user down: Connection refused")
    assert missing("", ME + 1)[1].startswith(f"{dir}/.forward: insecure file")
    (dir / ".forward").unlink()
    assert missing("") == (ForwardState.NONE, "")


def test_a_file_that_cannot_be_read_means_later(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_fd: int, _size: int) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("os.read", fail)
    told = ask(HomeForward(1, "", ME, str(dir)))
    assert told == ForwardMissing(1, ForwardState.TEMPORARY, f"{dir}/.forward: Stale file handle")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_huge_file_costs_no_more_than_a_small_one(dir: Path) -> None:
    with open(dir / ".forward", "r+b") as file:
        file.truncate(1 << 40)
    assert len(content(HomeForward(1, "", ME, str(dir)))) == FORWARD_MAX


def test_a_lease_on_the_file_holds_up_nobody(dir: Path) -> None:
    """A user may ask the kernel to keep others from opening his file for a while."""
    with open(dir / ".forward", "r+b") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"no leases here: {error.strerror}")
        was = signal.signal(signal.SIGIO, signal.SIG_IGN)
        try:
            told = ask(HomeForward(1, "", ME, str(dir)))
        finally:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            signal.signal(signal.SIGIO, was)
    assert isinstance(told, ForwardMissing) and told.state is ForwardState.TEMPORARY


def test_a_file_that_is_exchanged_meanwhile_never_shows_another(dir: Path, tmp_path_factory: pytest.TempPathFactory
                                                                ) -> None:
    """The owner puts links in its place, again and again: to a file that is not his, and to another directory."""
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_bytes(b"secret\n")
    secret.chmod(0o644)
    names = itertools.cycle(("link", "file", "up", "file"))
    seen: set[bytes | ForwardState] = set()

    def exchange() -> None:
        name = next(names)
        if name == "file":
            (dir / "next").write_bytes(b"bob\n")
            (dir / "next").chmod(0o600)
        else:
            (dir / "next").symlink_to(secret if name == "link" else f"../elsewhere0/{secret.name}")
        (dir / "next").rename(dir / ".forward")

    real_open = os.open

    def racing(path: str, flags: int, *rest: Any, **more: Any) -> int:
        exchange()
        fd = real_open(path, flags, *rest, **more)
        exchange()
        return fd

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.open", racing)
        for _ in range(60):
            message, fd = home.answer(HomeForward(1, "", ME, str(dir)), find)
            if fd is not None:
                seen.add(os.read(fd, 100))
                os.close(fd)
            elif isinstance(message, ForwardMissing):
                seen.add(message.state)
    assert seen == {b"bob\n", ForwardState.REFUSED}


@pytest.mark.skipif(ME != 0, reason="needs root")
def test_a_hard_link_to_somebody_elses_file_is_refused(dir: Path) -> None:
    """By the owner of the file: the kernel may let users make such links."""
    os.chown(dir, 4711, 4711)
    os.chown(dir / ".forward", 4711, 4711)
    assert content(HomeForward(1, "", 4711, str(dir))) == b"bob\n"
    os.link("/etc/passwd", dir / "next") if os.stat("/etc").st_dev == dir.stat().st_dev else (
        (dir / "next").write_bytes(b"root\n"))
    (dir / "next").rename(dir / ".forward")
    told = ask(HomeForward(1, "", 4711, str(dir)))
    assert isinstance(told, ForwardMissing) and told.state is ForwardState.REFUSED


@pytest.fixture
def child() -> Iterator[Callable[[Message], tuple[Message, list[int]]]]:
    """Asks the real program."""
    sock, theirs = socket.socketpair()
    sock.settimeout(20)
    pid = spawn.spawn("pysmtpd.privsep.home", [], theirs)
    theirs.close()
    encoder, decoder = Encoder(Proc.PARENT, Proc.HOME, 1), Decoder(Proc.HOME, Proc.PARENT)

    def asking(question: Message) -> tuple[Message, list[int]]:
        sock.sendall(encoder.encode(question))
        data, fds, _, _ = socket.recv_fds(sock, 65536, 4)
        [frame] = decoder.feed(data)
        return frame.message, list(fds)

    yield asking
    sock.close()
    assert os.waitpid(pid, 0)[1] == 0


def test_the_real_child_answers_one_question_after_the_other(
    child: Callable[[Message], tuple[Message, list[int]]], dir: Path
) -> None:
    assert child(HomeUser(8, "no-such-user-here")) == (HomeTold(8, Found.NO, 0, 0, "", ""), [])
    for number in range(3):
        message, fds = child(HomeForward(number, "", ME, str(dir)))
        assert message == ForwardOpened(number)
        assert os.read(fds[0], 100) == b"bob\n" and os.read(fds[0], 100) == b""
        os.close(fds[0])
    os.mkfifo(dir / "fifo")
    (dir / "fifo").rename(dir / ".forward")
    told, _ = child(HomeForward(9, "", ME, str(dir)))
    assert isinstance(told, ForwardMissing) and told.state is ForwardState.REFUSED
