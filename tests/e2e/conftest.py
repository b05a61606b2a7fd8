"""What every end-to-end test needs: the mark, who runs the daemon, and daemons that end with their test."""

import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import python
from tests.support.daemon import Daemon, free_port, scratch
from tests.support.debian import Unavailable

HERE = Path(__file__).parent
IS_ROOT = os.geteuid() == 0
UNPRIVILEGED = "nobody"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this directory start the real daemon; those marked root are skipped aloud without root."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            if item.get_closest_marker("root") and not IS_ROOT:
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Any:
    """A program that cannot be had skips its tests, with the reason."""
    try:
        return (yield)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    try:
        return (yield)
    except Unavailable as why:
        pytest.skip(str(why))


@pytest.fixture(params=["root", "user"])
def user(request: pytest.FixtureRequest) -> str:
    """Whom the daemon runs as: empty for the caller."""
    if request.param == "root":
        if not IS_ROOT:
            pytest.skip("needs root")
        return ""
    if not IS_ROOT:
        return ""
    python.readable()
    return UNPRIVILEGED


@pytest.fixture
def recipient(user: str) -> pwd.struct_passwd:
    """Somebody whom the daemon can deliver to."""
    return pwd.getpwnam(UNPRIVILEGED) if IS_ROOT else pwd.getpwuid(os.geteuid())


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def where() -> Iterator[Path]:
    """A directory that all users may pass through."""
    path = scratch()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def box(where: Path, recipient: pwd.struct_passwd) -> Path:
    """A directory of the recipient's."""
    path = where / "box"
    path.mkdir(mode=0o700)
    os.chown(path, recipient.pw_uid, recipient.pw_gid)
    return path


Start = Callable[..., Daemon]


@pytest.fixture
def start(user: str, where: Path) -> Iterator[Start]:
    """Start a daemon with this configuration, as whoever the test is about."""
    daemons: list[Daemon] = []

    def starter(config: str, **more: Any) -> Daemon:
        daemon = Daemon(config, user=more.pop("user", user), where=more.pop("where", where), **more)
        daemons.append(daemon)
        return daemon.start()

    yield starter
    for daemon in daemons:
        print(daemon.log)
        daemon.remove()
