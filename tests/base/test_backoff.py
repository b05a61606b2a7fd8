"""When to try again."""

import pytest

from pysmtpd.base.backoff import next_try, overflow
from pysmtpd.base.envelope import Agent

NOW = 1_700_000_000


@pytest.mark.parametrize("agent, base", [(Agent.MTA, 400), (Agent.MDA, 10), (Agent.BOUNCE, 10)])
def test_the_square_of_the_attempt_since_the_creation(agent: Agent, base: int) -> None:
    assert [next_try(agent, NOW, n, NOW + 1) for n in range(4)] == [
        (1, NOW + base), (2, NOW + 4 * base), (3, NOW + 9 * base), (4, NOW + 16 * base)]


def test_steps_in_the_past_are_skipped() -> None:
    assert next_try(Agent.MTA, NOW, 1, NOW + 400 * 25) == (6, NOW + 400 * 36)
    assert next_try(Agent.MTA, NOW, 1, NOW + 400 * 25 - 1) == (5, NOW + 400 * 25)


@pytest.mark.parametrize("future", [1, 3600, 10 * 365 * 86400])
def test_a_clock_that_was_set_back_does_not_strand_mail(future: int) -> None:
    assert next_try(Agent.MTA, NOW + future, 0, NOW) == (1, NOW + 400)
    assert next_try(Agent.MDA, NOW + future, 2, NOW) == (3, NOW + 90)
    assert overflow(NOW + future, NOW) == NOW + 3
