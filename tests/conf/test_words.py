"""What is reserved, and what is said to be in effect, agree with the grammar."""

import pytest

from pysmtpd.conf import classic, grammar, grammar_action, grammar_filter, grammar_limit, grammar_listen, grammar_match
from pysmtpd.conf.config import LEFT_OUT
from pysmtpd.conf.effect import NOT_IN_EFFECT
from pysmtpd.conf.words import CLASSIC_INSIDE, CLASSIC_STATEMENTS, RESERVED, definition
from tests.conf import test_valid
from tests.conf.machine import read

OURS = {"resolver", "test", "log", "proxy", "curves", *(f"no-{word}" for word in LEFT_OUT)}
# Reserved for statements that OpenSMTPD had, or was to have.
UNUSED = {"data-line", "group", "noop", "quit", "recipient", "rset", "smtp-in", "smtp-out", "tagged"}


def test_every_word_of_the_grammar_is_reserved_except_ours() -> None:
    words = {*grammar.STATEMENTS, *grammar_listen.LISTEN_OPTIONS, *grammar_action.METHODS, *grammar_filter.PHASES,
             *grammar_action.LOCAL_OPTIONS, *grammar_action.RELAY_OPTIONS, *grammar_match.CRITERIA,
             *grammar_filter.WITH_TEXT, *grammar_filter.WITHOUT_TEXT}
    assert words - RESERVED == OURS


def test_limits_are_not_reserved() -> None:
    for keywords in (*grammar_limit.KEYWORDS.values(), grammar_limit.MTA_KEYWORDS):
        assert not keywords.keys() & RESERVED


def test_limit_keywords() -> None:
    assert set(grammar_limit.KEYWORDS["smtp"]) == {
        "max-rcpt", "max-mails", "max-errors", "max-refused", "max-commands", "error-delay"}
    assert set(grammar_limit.KEYWORDS["mda"]) == {
        "max-session", "max-session-per-user", "task-lowat", "task-hiwat", "task-release"}
    assert set(grammar_limit.KEYWORDS["scheduler"]) == {
        "max-inflight", "max-evp-batch-size", "max-msg-batch-size", "max-schedule"}
    assert len(grammar_limit.MTA_KEYWORDS) == 20


def test_there_are_101_reserved_words() -> None:
    assert len(RESERVED) == 101
    assert UNUSED < RESERVED


def test_yesterdays_words_are_not_todays() -> None:
    assert not CLASSIC_STATEMENTS & grammar.STATEMENTS.keys()
    assert classic.STATEMENTS.keys() == CLASSIC_STATEMENTS
    todays = {*grammar_listen.LISTEN_OPTIONS, *grammar_action.LOCAL_OPTIONS, *grammar_action.RELAY_OPTIONS}
    assert not CLASSIC_INSIDE.keys() & todays


def test_all_that_is_not_in_effect_is_reported_when_it_is_used() -> None:
    used = {what for path in test_valid.HERE.glob("*.conf") for _, what in test_valid.loaded(path).not_in_effect}
    assert {"table backend" if what.startswith("table backend") else what for what in used} == NOT_IN_EFFECT


def test_beside_rules_of_before_a_listener_has_all_of_todays_options() -> None:
    [error] = read("accept for any relay\nlisten on lo nonsense").errors
    assert set(grammar_listen.LISTEN_OPTIONS) < set(str(error).replace(",", "").split())


@pytest.mark.parametrize("text, found", [
    ("port=25", ("port", "25")), ("run=mda \"a=b\"", ("run", "mda \"a=b\"")), ("none=", ("none", "")),
    ("two=1\n2", ("two", "1\n2")), ("port", None), ("=25", None), ("a b=c", None), ("", None), ("a.b=c", None),
])
def test_macros_of_the_command_line(text: str, found: tuple[str, str] | None) -> None:
    assert definition(text) == found
