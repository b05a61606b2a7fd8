"""lookup.explain: the questions that people ask, and the reason that answers each.

tests/lookup/questions holds a configuration, its files, and for each question the whole answer.  To write the answers
anew: ``python -m tests.lookup.test_explain``.
"""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pysmtpd.conf.config import Config, Expectation
from pysmtpd.conf.load import load
from pysmtpd.lookup import rewritten
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.expand import Expander
from pysmtpd.lookup.explain import Explainer, Unexplained
from pysmtpd.lookup.explained import Explained, lines
from pysmtpd.lookup.forward import Forward, Included, Opening, User, read_file
from pysmtpd.lookup.members import Members
from pysmtpd.lookup.memo import UNKNOWN_YET, Unknown
from pysmtpd.lookup.records import Records, Status
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.privsep.source import SystemSource
from tests.lookup.made import run

HERE = Path(__file__).parent / "questions"


class Dns:
    """Some names."""

    async def query(self, name: str, kind: str) -> Records:
        if (name, kind) == ("far.example", "MX"):
            return Records(Status.FOUND, exchanges=((10, "mx1.far.example"), (20, "mx2.far.example")))
        return Records(Status.NXDOMAIN)

    async def addresses(self, name: str) -> Records:
        known = {"mx1.far.example": ("192.0.2.51",), "mx2.far.example": ("2001:db8::52",),
                 "relay.example": ("192.0.2.61",), "mail.trusted.example": ("198.51.100.9",)}
        return Records(Status.FOUND, known[name]) if name in known else Records(Status.NXDOMAIN)

    async def reverse(self, address: str) -> Records:
        known = {"198.51.100.9": ("mail.trusted.example",)}
        return Records(Status.FOUND, known[address]) if address in known else Records(Status.NXDOMAIN)


class Files:
    """.forward files."""

    HOMES = {"dave": Forward(Opening.FILE, b"dave@far.example\n"),
             "eve": Forward(Opening.REFUSED, b"", "/home/eve/.forward: insecure file"),
             "toor": Forward(Opening.FILE, b"|/usr/bin/procmail\n"), "fay": Forward(Opening.FILE, b"fay at home\n")}

    def known(self, _question: User | str) -> Unknown:
        return UNKNOWN_YET

    async def answer(self, question: Any) -> Any:
        if isinstance(question, str):
            return Included(Members([], []), f"{question}: No such file or directory") if "nonexistent" in question \
                else read_file(question)
        return self.HOMES.get(question.name, Forward(Opening.NONE))


# Each question: its file, and what differs from mail of <ann@far.example> from 203.0.113.5 without a name.
QUESTIONS: dict[str, dict[str, Any]] = {
    "01-no-rule-for-the-domain": {"rcpt": "bob@elsewhere.example"},
    "02-relaying-is-for-this-machine": {"rcpt": "x@far.example"},
    "03-relaying-after-auth": {"rcpt": "x@far.example", "username": "bob"},
    "04-no-such-user": {"rcpt": "rob@localhost"},
    "05-a-user": {"rcpt": "Bob+tag@localhost"},
    "06-alias-to-a-list": {"rcpt": "all@localhost"},
    "07-alias-to-nobody": {"rcpt": "ghost@localhost"},
    "08-list-with-a-bad-member": {"rcpt": "some@localhost"},
    "09-alias-loop": {"rcpt": "loop@localhost"},
    "10-loop-through-an-address": {"rcpt": "self@localhost"},
    "11-error-alias": {"rcpt": "gone@localhost"},
    "12-command-alias": {"rcpt": "robot@localhost"},
    "13-include-that-is-not-there": {"rcpt": "included@localhost"},
    "14-alias-that-cannot-be-read": {"rcpt": "broken@localhost"},
    "15-forward-file": {"rcpt": "root@localhost"},
    "16-insecure-forward-file": {"rcpt": "eve@localhost"},
    "17-virtual-user": {"rcpt": "info+x@shop.example"},
    "18-not-a-virtual-user": {"rcpt": "bob@shop.example"},
    "19-virtual-catch-all": {"rcpt": "anything@catch.example"},
    "20-virtual-user-who-does-not-exist": {"rcpt": "sales@shop.example"},
    "21-virtual-error": {"rcpt": "old@shop.example"},
    "22-forward-only-without-forward": {"rcpt": "bob@forward.example"},
    "23-expand-only-final-user": {"rcpt": "bob@expand.example"},
    "24-rejected-sender": {"rcpt": "bob@localhost", "sender": "joe@bad.example"},
    "25-rejected-helo": {"rcpt": "bob@localhost", "helo": "spammer"},
    "26-not-the-partners-address": {"rcpt": "bob@partners.example"},
    "27-a-partners-address": {"rcpt": "bob@partners.example", "source": "2001:db8::9"},
    "28-tls-is-required-by-the-rule": {"rcpt": "bob@secure.example"},
    "29-name-of-the-client-does-not-match": {"rcpt": "bob@trusted.example", "rdns": "mail.other.example"},
    "30-name-of-the-client-from-the-dns": {"rcpt": "bob@trusted.example", "source": "198.51.100.9"},
    "31-tag-of-the-listener": {"rcpt": "x@tagged.example"},
    "32-smarthost-by-domain": {"rcpt": "x@example.net", "username": "bob"},
    "33-domain-that-does-not-exist": {"rcpt": "x@gone.example", "source": "local"},
    "34-address-of-an-alias-is-rejected": {"rcpt": "refused@localhost", "sender": "joe@far.example"},
    "35-users-table-with-a-bad-line": {"rcpt": "broken-user@localhost"},
    "36-recipient-without-a-domain": {"rcpt": "bob", "source": "local"},
    "37-list-by-regular-expression": {"rcpt": "carol@lists.example"},
    "38-an-earlier-rule-takes-it": {"rcpt": "bob@staff.example", "username": "bob", "tls": True},
    "39-everybody-but-this-network": {"rcpt": "bob@outside.example"},
    "40-refused-for-now-by-a-rule": {"rcpt": "bob@moving.example"},
    "41-bounce-to-a-sender-nobody-rewrote": {"rcpt": "SRS0=AbCd=AA=far.example=joe@localhost", "sender": ""},
    "42-no-bounces-here": {"rcpt": "bob@nobounces.example", "sender": ""},
    "43-address-of-another-machine": {"rcpt": "bob@[198.51.100.77]"},
    "44-another-sub-address": {"rcpt": "sales+us@strict.example"},
    "45-expression-that-is-none": {"rcpt": "broken@corp.example"},
    "46-domain-itself-is-not-below-it": {"rcpt": "bob@corp.example"},
    "47-command-in-the-forward-file-of-root": {"rcpt": "toor@localhost"},
    "48-forward-file-with-a-bad-line": {"rcpt": "fay@localhost"},
    "49-alias-too-deep": {"rcpt": "deep1@localhost"},
    "50-client-without-a-name": {"rcpt": "bob@trusted.example"},
    "51-not-the-right-helo": {"rcpt": "bob@greeted.example", "helo": "mail.partner.example"},
    "52-mail-that-is-no-bounce-to-a-rewritten-sender": {"rcpt": "SRS0=AbCd=AA=far.example=joe@localhost"},
    "53-accepted-and-then-returned-as-root-gets-no-maildir": {"rcpt": "adm@localhost"},
    "54-command-with-a-wrong-specifier": {"rcpt": "filter@localhost"},
}


def loaded(where: Path) -> Config:
    text = (where / "smtpd.conf").read_text(encoding="utf-8")
    for name in ("aliases", "users"):
        text = text.replace(f"file:{name}", f"file:{where}/{name}")
    (where / "smtpd.conf").write_text(text, encoding="utf-8")
    found = load(str(where / "smtpd.conf"), SystemSource(network=False), {})
    assert found.config is not None, [str(error) for error in found.errors]
    return found.config


def explain(config: Config, fields: dict[str, Any]) -> Explained:
    tables = build_tables(config)
    expander = Expander(config, Ruleset(config.rules, tables), tables, Files(), Files())
    scheme = rewritten.of(config, lambda: 1_800_000_000, lambda _text: None)
    assert scheme is not None
    expander.reverse = scheme.reverse
    explainer = Explainer(config, expander, Dns(), lambda _list: None)
    ask = Expectation(**{"sender": "ann@far.example", "verdict": "", "source": "203.0.113.5", **fields})
    explained: Explained = run(explainer.explain(ask))
    return explained


def told(config: Config, where: Path, fields: dict[str, Any]) -> str:
    text = "\n".join(lines(explain(config, fields))) + "\n"
    return text.replace(f"{where}/", "").replace(config.hostname, "mx.example.org")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    where = tmp_path_factory.mktemp("questions")
    for name in ("smtpd.conf", "aliases", "users"):
        shutil.copy(HERE / name, where)
    return loaded(where), where


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_with_its_reason(asked: tuple[Config, Path], name: str) -> None:
    config, where = asked
    assert told(config, where, QUESTIONS[name]) == (HERE / f"{name}.txt").read_text(encoding="utf-8")


def test_thirty_of_them_are_refusals_and_no_two_for_the_same_reason() -> None:
    answers = [(HERE / f"{name}.txt").read_text(encoding="utf-8") for name in QUESTIONS]
    refused = [text for text in answers if not text.split("reply: ")[1].startswith("250")]
    assert len(refused) >= 30
    # Of those that no rule is for, what is different is the rule that should have been.
    reasons = {text.split("\n")[2] if "no rule matched" not in text else text.split("\n")[0] for text in refused}
    assert len(reasons) >= 30


def test_the_same_as_json(asked: tuple[Config, Path]) -> None:
    explained = explain(asked[0], QUESTIONS["06-alias-to-a-list"])
    assert msgspec.json.decode(msgspec.json.encode(explained), type=Explained) == explained


@pytest.mark.parametrize("source, shown", [
    ("[2001:DB8:0::9]", "2001:db8::9 (<unknown>)"), ("IPv6:2001:db8::9", "2001:db8::9 (<unknown>)"),
    ("::ffff:198.51.100.9", "198.51.100.9 (mail.trusted.example)"), ("socket", "this machine"),
])
def test_an_address_may_be_written_in_any_way(asked: tuple[Config, Path], source: str, shown: str) -> None:
    assert explain(asked[0], {"rcpt": "bob@localhost", "source": source}).client == shown


def test_a_name_may_be_written_as_dig_prints_it(asked: tuple[Config, Path]) -> None:
    assert explain(asked[0], {"rcpt": "bob@trusted.example", "rdns": "mx.trusted.example."}).accepted


@pytest.mark.parametrize("fields", [{"rcpt": ""}, {"rcpt": "a b@c"}, {"rcpt": "bob", "sender": "<>"},
                                    {"rcpt": "bob", "helo": "\n"}, {"rcpt": "bob", "source": "300.1.1.1"},
                                    {"rcpt": "bob", "source": ""}])
def test_what_no_client_can_say_is_not_explained(asked: tuple[Config, Path], fields: dict[str, Any]) -> None:
    with pytest.raises(Unexplained):
        explain(asked[0], fields)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        for each in ("smtpd.conf", "aliases", "users"):
            shutil.copy(HERE / each, directory)
        made = loaded(Path(directory))
        for each, question in QUESTIONS.items():
            (HERE / f"{each}.txt").write_text(told(made, Path(directory), question), encoding="utf-8")
