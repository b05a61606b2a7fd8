"""What others rely on, repeated by hand: a change of it is a line that somebody reviewed.

To accept a change, look at it, and run ``python tests/test_frozen.py``.
"""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from pysmtpd import imsg, messages
from pysmtpd.base import logline, stats
from pysmtpd.base.procs import CHILDREN, PROCS, Proc

FROZEN = Path(__file__).parent / "frozen"


def wire() -> list[str]:
    """Every message with its number, fields in wire order, and routes; every record inside them."""
    assert inspect.ismodule(messages)
    return imsg.declarations()


def privileges() -> list[str]:
    """The privilege table, and the order of starting."""
    rows = [
        f"{proc.value}: user {role.user.value}; jail {role.jail.value}; peers {_names(role.peers)}; "
        f"packages {' '.join(sorted(role.packages)) or '-'}; secrets {' '.join(sorted(role.secrets)) or '-'}"
        for proc, role in PROCS.items()
    ]
    return [*rows, "start: " + " ".join(proc.value for proc in CHILDREN)]


def _names(procs: frozenset[Proc]) -> str:
    return " ".join(sorted(proc.value for proc in procs))


def loglines() -> list[str]:
    """Every format of the log."""
    formats = ((name, value) for name, value in vars(logline).items() if name.isupper())
    return [f"{name}: {value}" for name, value in formats if isinstance(value, str)]


def statistics() -> list[str]:
    """Every key of show stats."""
    return sorted(stats.KEYS)


KINDS: dict[str, Callable[[], list[str]]] = {
    "messages": wire, "procs": privileges, "loglines": loglines, "stats": statistics,
}


@pytest.mark.parametrize("name", KINDS)
def test_nothing_changed_unseen(name: str) -> None:
    frozen = (FROZEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    assert KINDS[name]() == frozen


if __name__ == "__main__":
    for kind, lines in KINDS.items():
        (FROZEN / f"{kind}.txt").write_text("".join(f"{line}\n" for line in lines()), encoding="utf-8")
