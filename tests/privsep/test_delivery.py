"""privsep.delivery: which .forward the parent opens."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysmtpd.messages import ForwardState
from pysmtpd.privsep.delivery import NoForward, open_forward

ME = os.geteuid()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "home"
    path.mkdir(mode=0o755)
    (path / ".forward").write_text("bob\n")
    (path / ".forward").chmod(0o644)
    yield path
    path.chmod(0o755)


def state(home: Path, uid: int = ME) -> ForwardState:
    with pytest.raises(NoForward) as caught:
        os.close(open_forward(str(home), uid))
    assert caught.value.state is ForwardState.NONE or str(caught.value)
    return caught.value.state


def test_a_file_that_only_its_user_can_write_is_opened(home: Path) -> None:
    fd = open_forward(str(home), ME)
    assert os.read(fd, 100) == b"bob\n"
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_what_is_not_there_is_none(home: Path) -> None:
    (home / ".forward").unlink()
    assert state(home) is ForwardState.NONE
    assert state(home / "none") is ForwardState.NONE
    assert state(Path("/dev/null")) is ForwardState.NONE


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(home: Path, mode: int) -> None:
    (home / ".forward").chmod(mode)
    assert state(home) is ForwardState.REFUSED


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_home_that_others_can_write_is_refused(home: Path, mode: int) -> None:
    home.chmod(mode)
    assert state(home) is ForwardState.REFUSED


def test_a_sticky_home_means_later(home: Path) -> None:
    home.chmod(0o1755)
    assert state(home) is ForwardState.TEMPORARY


def test_somebody_elses_file_is_refused(home: Path) -> None:
    assert state(home, ME + 1) is ForwardState.REFUSED


def test_only_a_regular_file_is_opened(home: Path) -> None:
    (home / ".forward").rename(home / "real")
    (home / ".forward").symlink_to(home / "real")
    assert state(home) is ForwardState.REFUSED
    (home / ".forward").unlink()
    os.mkfifo(home / ".forward", 0o600)
    assert state(home) is ForwardState.REFUSED
    (home / ".forward").unlink()
    (home / ".forward").mkdir(0o700)
    assert state(home) is ForwardState.REFUSED


def test_a_home_with_a_nul_is_refused() -> None:
    assert state(Path("/home/a\0b")) is ForwardState.REFUSED
