"""Files that nobody wrote are read as those of people are: accepted, or refused with a place."""

import random

import pytest

from pysmtpd.conf.load import load
from tests.conf import generate
from tests.conf.machine import PATH, Machine
from tests.conf.test_damage import judge

SEEDS = range(150)


def machine(text: str) -> Machine:
    found = Machine(text.encode("utf-8", "surrogateescape"))
    for name, content in generate.FILES.items():
        found.put(f"/etc/mail/{name}", content)
    for name in ("cert", "key", "ca"):
        found.put(f"/etc/mail/{name}.pem", found.files[f"/etc/{name}.pem"])
    return found


def test_most_are_valid() -> None:
    valid = sum(not load(PATH, machine(generate.text(seed, "/etc/mail"))).errors for seed in SEEDS)
    assert valid > len(SEEDS) * 0.6


@pytest.mark.parametrize("seed", range(0, len(SEEDS), 15))
def test_damage_is_found_and_told(seed: int) -> None:
    for one in range(seed, seed + 15):
        text = generate.damage(generate.text(one, "/etc/mail"), random.Random(one))
        judge(load(PATH, machine(text)))
