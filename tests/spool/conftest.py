"""Fixtures of the spool's tests."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.spool import writer
from tests.spool.house import House


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test that breaks off leaves open is closed behind it: Python 3.13 complains of it, in some later test."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recorded(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", recorded)
    yield
    for connection in opened:
        connection.close()


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(writer, "LAZY", 0.002)
    made = House(tmp_path)
    made.unsafe()
    yield made
    made.close()
