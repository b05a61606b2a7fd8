"""Seals: what was closed with a key opens with it, unchanged or not at all."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pysmtpd.base.seal import KEY_SIZE, MAC_SIZE, Seal, SealError
from tests.spool.house import SEAL, envelope


def test_what_was_closed_opens() -> None:
    made = [envelope(1), envelope(2, command="|cat", user="alice")]
    assert SEAL.open(SEAL.close(made)) == made


@given(st.binary(max_size=200))
def test_whatever_was_not_sealed_does_not_open(data: bytes) -> None:
    with pytest.raises(SealError, match="not sealed by lka"):
        SEAL.open(data)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_octet_can_be_changed(at: int, change: int) -> None:
    sealed = bytearray(SEAL.close([envelope(1)]))
    sealed[at % len(sealed)] ^= change
    with pytest.raises(SealError, match="not sealed by lka"):
        SEAL.open(bytes(sealed))


def test_another_key_opens_nothing() -> None:
    with pytest.raises(SealError):
        Seal(b"o" * KEY_SIZE).open(SEAL.close([envelope(1)]))


@pytest.mark.parametrize("values", [{"tag": "x" * 256}, {"retry": -1}, {"ttl": "x"}])
def test_what_queue_would_refuse_is_not_sealed(values: dict[str, Any]) -> None:
    with pytest.raises(SealError):
        SEAL.close([envelope(1, **values)])


def test_a_seal_costs_queue_no_openssl() -> None:
    program = "import sys, pysmtpd.base.seal; print('hashlib' in sys.modules, '_hashlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "False False\n"


def test_a_mac_is_as_long_as_is_said() -> None:
    assert len(SEAL.close([])) == MAC_SIZE + 1
