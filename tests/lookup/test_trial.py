"""lookup.trial: the tests in smtpd.conf are judged by the daemon's own rules and tables."""

from pathlib import Path

import pytest

from pysmtpd.conf.load import Loaded
from pysmtpd.lookup import trial
from pysmtpd.readconf import Job, read
from tests.conf.machine import Machine
from tests.conf.machine import read as load

RULES = """
table doms { "example.org", "*.example.com" }
action "in" mbox
action "out" relay
match tag guarded reject "550 5.7.1 No <%{rcpt}> for %{sender.user:uppercase}"
match from any for domain <doms> action "in"
match from any mail-from "@" for any tempfail "451 4.7.1 Later"
match from src { 192.0.2.0/24, "2001:db8::/32" } for any action "out"
match from rdns "*.friend.example" for any action "out"
match from any auth joe for any action "out"
match from any helo "known" tls for any action "out"
match for any action "out"
"""

RULE = """action x relay
match !from src { 1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4 } for domain "a" action x
"""


def judged(*tests: str, rules: str = RULES) -> Loaded:
    found = load(rules + "".join(f"test {test}\n" for test in tests))
    assert [str(error) for error in found.errors] == []
    assert found.config is not None
    found.tested(trial.run(found.config, found.config.expectations))
    return found


def test_mail_from_the_socket_counts_as_authenticated_as_in_a_session() -> None:
    rules = 'action "in" mbox\nmatch auth from any for any action "in"\n'
    assert judged('from a@b src socket to c@d.example expect action "in"', rules=rules).errors == []
    assert judged('from a@b src socket auth joe to c@d.example expect action "in"', rules=rules).errors == []
    assert judged('from a@b src 192.0.2.7 to c@d.example expect action "in"', rules=rules).errors != []


@pytest.mark.parametrize("test", [
    'from a@b src 203.0.113.1 to c@example.org expect action "in"',
    'from a@b src 203.0.113.1 to c@EXAMPLE.org expect action "in"',
    'from a@b src 203.0.113.1 to c@mx.example.com expect action "in"',
    "from a@b src 203.0.113.1 to c@example.net expect reject",
    'from a@b src 203.0.113.1 to c@example.net expect reject "550 Invalid"',
    "from <> src 203.0.113.1 to c@example.net expect tempfail",
    'from <> src 203.0.113.1 to c@example.net expect tempfail "451 4.7.1 Later"',
    'from a@b src 192.0.2.77 to c@example.net expect action "out"',
    'from a@b src "2001:db8::77" to c@example.net expect action "out"',
    'from a@b src 203.0.113.1 rdns a.friend.example to c@example.net expect action "out"',
    "from a@b src 203.0.113.1 rdns a.foe.example to c@example.net expect reject",
    'from a@b src 203.0.113.1 auth joe to c@example.net expect action "out"',
    "from a@b src 203.0.113.1 auth jim to c@example.net expect reject",
    'from a@b src 203.0.113.1 helo known tls to c@example.net expect action "out"',
    "from a@b src 203.0.113.1 helo known to c@example.net expect reject",
    'from a@b src socket to c@example.net expect action "out"',
    'from a to c expect action "out"',
    'from a@b tag guarded to c@mail.example.org expect reject "550 5.7.1 No <c@mail.example.org> for A"',
])
def test_what_the_rules_say_passes(test: str) -> None:
    assert judged(test).errors == []


@pytest.mark.parametrize("test, message", [
    ('from a@b to c@example.org expect action "out"', 'expected action "out", got action "in"'),
    ("from a@b to c@example.org expect reject", 'expected reject, got action "in"'),
    ("from <> src 203.0.113.1 to c@example.net expect reject", 'expected reject, got tempfail "451 4.7.1 Later"'),
    ('from a@b src 203.0.113.1 to c@example.net expect reject "551"',
     'expected reject "551", got reject "550 Invalid recipient"'),
    ("from a@b to c..d@example.net expect reject",
     "expected reject, got no client can give the address <c..d@example.net>"),
])
def test_what_they_do_not_say_refuses_the_configuration(test: str, message: str) -> None:
    found = judged(test)
    assert [error.message for error in found.errors] == [f"test failed: {message}"]
    assert found.config is None


def test_a_failure_names_the_rule_that_decided_and_why_each_before_it_did_not() -> None:
    found = judged('from <> src 203.0.113.1 to c@example.net expect action "out"')
    assert str(found.errors[0]) == """\
smtpd.conf:13:1: test failed: expected action "out", got tempfail "451 4.7.1 Later"
    test from <> src 203.0.113.1 to c@example.net expect action "out"
    ^^^^
  smtpd.conf:5:1: does not match: tag "guarded"
  smtpd.conf:6:1: does not match: for doms
  smtpd.conf:7:1: matches: tempfail "451 4.7.1 Later\""""


def test_entries_in_place_are_shown_and_where_no_rule_matches_that_is_said() -> None:
    found = judged("from a@b to c@d expect tempfail",
                   rules=RULE)
    assert found.errors[0].notes == (
        'smtpd.conf:2:1: does not match: for "a"', "smtpd.conf:5:1: matches: reject")
    found = judged("from a@b src 1.1.1.1 to c@d expect tempfail", rules=RULE)
    assert found.errors[0].notes == (
        'smtpd.conf:2:1: does not match: ! from { "1.1.1.1", "2.2.2.2", "3.3.3.3", ... }',
        "smtpd.conf:5:1: does not match: from <localhost>", "no rule matches")


def test_a_table_that_cannot_be_asked_here_is_a_warning() -> None:
    machine = Machine()
    machine.put("/etc/mail/doms", "example.org\n")
    machine.put("/usr/libexec/opensmtpd/table-sqlite", "")
    found = load('table a file:/etc/mail/doms\ntable b sqlite:/etc/mail/doms\nmatch for domain <a> reject\n'
                 'match for domain <b> reject\ntest from a to b expect reject\n', machine)
    assert found.config is not None
    found.tested(trial.run(found.config, found.config.expectations))
    assert found.errors == []
    (warning,) = [one for one in found.warnings if "not checked" in one.message]
    assert warning.message == "not checked: this test: table a: /etc/mail/doms: No such file or directory"
    assert warning.at.line == 5
    assert found.config is not None


def test_the_check_and_the_start_refuse_a_file_whose_test_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "smtpd.conf"
    path.write_text('match for any reject\ntest from a to b@c expect reject "550 I"\n')
    assert read(Job(path=str(path))) is not None
    path.write_text("match for any reject\ntest from a to b@c expect tempfail\n")
    for network in (False, True):
        assert read(Job(path=str(path)), network=network) is None
        assert "smtpd.conf:2:1: test failed: expected tempfail, got reject" in capsys.readouterr().err


def test_without_tests_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "build_tables", lambda *_: 1 / 0)
    found = load(RULES)
    assert found.config is not None
    assert trial.run(found.config, ()) == []
