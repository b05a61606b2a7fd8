"""No error shows a password: neither the line it quotes, nor what it says of a word."""

import pytest

from pysmtpd.conf.load import load
from tests.conf.machine import Machine


def shown(text: str) -> str:
    loaded = load("smtpd.conf", Machine(f"{text}\nmatch for any reject\n".encode()))
    return "".join(f"{one}\n" for one in (*loaded.errors, *loaded.warnings))


@pytest.mark.parametrize("text", [
    'table t { a = "user:SECRET", b }',
    'table t { a = "user:SECRET }',
    "table t { a = user:SECRET, b }",
    "table t { a = pass(SECRET, b }",
    'table t {\n  a = "x"\n  b => "SECRET" = c\n}',
    'table t { a = "long\nSECRET" b }',
    'm = "x"\ntable t { a = "SECRET:$m" }',
    'a = "SECRET',
    'a = "SECRET")',
    "srs key SECRET x",
    "srs key backup SECRET x",
    "queue encryption SECRET x",
    "queue encryption key SECRET",
    'action x relay host smtps://user:SECRET@host.example bogus',
    'action x relay host "smtps://user:SECRET@host.example" bogus',
    'proc p "/bin/p --password SECRET" bogus',
    'proc p "/bin/p --password=SECRET -x" bogus',
    "proc p '/bin/p --db-password \"SECRET\"' bogus",
    'action x mda "PASSWORD=SECRET /bin/p" bogus',
    'action x mda "API_TOKEN=SECRET /bin/p" bogus',
    'filter f proc-exec "p -token SECRET" bogus',
    'table t proc-exec "/bin/curl -u joe:SECRET https://x" bogus',
    'mda wrapper w "/bin/curl --user joe:SECRET https://x" bogus',
])
def test_words(text: str) -> None:
    found = shown(text)
    assert found.startswith("smtpd.conf:")
    assert "SECRET" not in found


@pytest.mark.parametrize("text", ["table t { a = 4711 }", "srs key 4711", "queue encryption 4711"])
def test_numbers(text: str) -> None:
    found = shown(text)
    assert found.startswith("smtpd.conf:1:")
    assert "4711" not in found


def test_the_caret_stays_under_its_word() -> None:
    lines = shown('table t { a = "user:pass", b }').split("\n")
    assert lines[1:3] == ['    table t { a = "*********", b }', "                               ^"]


def test_what_is_no_secret_is_shown() -> None:
    assert 'listen on lo port nope' in shown("listen on lo port nope")
    for line in ("table secret passwd:/etc/passwd bogus", "action x relay host h auth <secret> bogus",
                 "proc p '/bin/p --password-file /etc/p --key /etc/k -u joe' bogus", "listen on lo tag pass bogus"):
        assert line in shown(line)
    assert "smtps://label@host.example bogus" in shown("action x relay host smtps://label@host.example bogus")
