"""Fixtures of the spool's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pysmtpd.spool import writer
from tests.spool.house import House


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(writer, "LAZY", 0.002)
    made = House(tmp_path)
    made.unsafe()
    yield made
    made.close()
