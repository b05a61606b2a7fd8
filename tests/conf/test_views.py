"""A process gets the secrets that its row of PROCS names, and no others."""

import pytest

from pysmtpd.base.procs import PROCS, Proc
from pysmtpd.conf.config import VIEWS, Config, Secret, Shape, Table, encode, view

KINDS = {b"CANARY-pair": "credentials", b"CANARY-srs": "srs", b"CANARY-old-srs": "srs", b"CANARY-queue": "queue"}
CONFIG = Config(
    hostname="h", srs_key=Secret("CANARY-srs"), srs_backup=Secret("CANARY-old-srs"), queue_key=Secret("CANARY-queue"),
    tables={"t": Table(name="t", shape=Shape.HASH, pairs=(("label", Secret("CANARY-pair")),))},
)


@pytest.mark.parametrize("proc", VIEWS, ids=lambda proc: proc.value)
def test_secrets_of_a_view(proc: Proc) -> None:
    data = encode(view(CONFIG, proc))
    assert {kind for canary, kind in KINDS.items() if canary in data} <= PROCS[proc].secrets


def test_the_search_finds_what_is_there() -> None:
    assert all(canary in encode(CONFIG) for canary in KINDS)
