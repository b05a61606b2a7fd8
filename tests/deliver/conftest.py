"""Workers and houses for the tests of delivery."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysmtpd.conf.config import Config
from tests.deliver.support import WHO, House, WorkerEnd, start


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that belongs to WHO; pytest's own directories can only be entered by the caller."""
    path = Path(tempfile.mkdtemp(prefix="pysmtpd-home-"))
    os.chown(path, *WHO)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def worker(home: Path) -> Iterator[WorkerEnd]:
    """A worker of kind user."""
    end = start(home, home)
    yield end
    end.close()


@pytest.fixture
def mbox_worker(home: Path) -> Iterator[WorkerEnd]:
    """A worker of kind mbox, whose mail directory is the home."""
    end = start(home, home, "mbox")
    yield end
    end.close()


@pytest.fixture
def house(home: Path) -> Iterator[Callable[[Config], House]]:
    """Makes houses."""
    made: list[House] = []

    def make(settings: Config) -> House:
        made.append(House(settings, home))
        return made[-1]

    yield make
    for one in made:
        one.close()
