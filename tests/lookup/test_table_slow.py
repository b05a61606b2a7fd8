"""lookup.memo, lookup.table_slow: look-ups that take time, and evaluators that do not notice."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pysmtpd.conf.config import Action, Method
from pysmtpd.lookup.memo import TOGETHER, Memo, Pending, Unknown
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.services import look_up
from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.table_keyed import KeyedTable
from pysmtpd.lookup.table_slow import UNKNOWN_YET, Answer, Question, SlowTable
from pysmtpd.lookup.table_static import StaticTable
from tests.lookup.made import FROM_ANY, criterion, envelope, expander, rule, run, settled, static


class Program(SlowTable):
    """A back end that knows exact keys only, answers after a turn of the loop, and keeps what it was asked."""

    def __init__(self, name: str, entries: dict[str, str], answer: Callable[[Question], Answer] | None = None) -> None:
        super().__init__(name, "proc")
        self.entries = entries
        self.asked: list[Question] = []
        self.at_once = self.at_most = 0
        self._say = answer
        self._next = 0

    async def ask(self, question: Question) -> Answer:
        self.asked.append(question)
        self.at_once += 1
        self.at_most = max(self.at_most, self.at_once)
        try:
            await asyncio.sleep(0)
            return self._say(question) if self._say is not None else self._answer(question)
        finally:
            self.at_once -= 1

    def _answer(self, question: Question) -> Answer:
        if question.operation == "fetch":
            self._next += 1
            return sorted(self.entries)[(self._next - 1) % len(self.entries)] if self.entries else None
        if question.operation == "match":
            return question.key in self.entries
        return self.entries.get(question.key)


def down(_question: Question) -> Answer:
    raise TableError("table slow: down")


def test_an_answer_is_awaited_and_each_question_asked_once() -> None:
    slow = Program("slow", {"bob": "robert"})
    tables = Tables([slow])

    def step(memo: Memo) -> list[str | None]:
        return [tables.lookup("slow", Service.ALIAS, key, memo) for key in ("Bob", "alice", "bob")]

    with pytest.raises(Pending):
        step(Memo())
    assert settled(step) == ["robert", None, "robert"]
    assert [question.key for question in slow.asked] == ["bob", "alice"]


def test_what_is_at_hand_is_not_awaited() -> None:
    class Kept(Program):
        def known(self, question: Question) -> Answer | Unknown:
            return "here" if question.key == "bob" else UNKNOWN_YET

    kept = Kept("slow", {})
    assert Tables([kept]).lookup("slow", Service.ALIAS, "bob", Memo()) == "here"
    assert kept.asked == []


def test_several_keys_are_asked_together_and_the_first_that_exists_counts() -> None:
    slow = Program("slow", {"bob": "b", "@example.org": "a"})
    found = settled(lambda memo: Tables([slow]).first("slow", Service.ALIAS, ["bob+x", "bob", "@example.org"], memo))
    assert found == ("bob", "b")
    assert (len(slow.asked), slow.at_most) == (3, 3)


def test_fetches_of_one_evaluation_differ_and_running_again_does_not_fetch_again() -> None:
    slow = Program("slow", {"a": "", "b": "", "c": ""})
    tables = Tables([slow])
    assert settled(lambda memo: [tables.fetch("slow", Service.SOURCE, memo) for _ in range(2)]) == ["a", "b"]
    assert settled(lambda memo: tables.fetch("slow", Service.SOURCE, memo)) == "c"
    assert len(slow.asked) == 3


def test_mta_is_answered_from_a_slow_table() -> None:
    tables = Tables([Program("names", {"[2001:db8::1]": "six.example"}), Program("hosts", {"smtp://a": ""})])
    assert settled(lambda memo: look_up(tables, "addrname", "names", "2001:db8::1", memo)) == "six.example"
    assert settled(lambda memo: look_up(tables, "relayhost", "hosts", "", memo)) == "smtp://a"


def test_a_failure_is_a_table_error_where_it_is_looked_up_and_only_there() -> None:
    tables = Tables([Program("slow", {}, down), static("fast", "x")])

    def step(memo: Memo) -> str:
        assert tables.match("fast", Service.STRING, "x", memo)
        try:
            tables.match("slow", Service.STRING, "x", memo)
        except TableError as error:
            return str(error)
        return "?"

    assert settled(step) == "table slow: down"


def test_a_back_end_that_never_answers_fails_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Program):
        TIMEOUT = 0.01

        async def ask(self, question: Question) -> Answer:
            await asyncio.Event().wait()
            return None

    tables = Tables([Never("slow", {})])
    with pytest.raises(TableError, match="table slow: no answer within"):
        settled(lambda memo: tables.lookup("slow", Service.ALIAS, "x", memo))


def test_a_thousand_look_ups_wait_for_their_turn() -> None:
    class Narrow(Program):
        CONCURRENT = 7

    slow = Narrow("slow", {str(number): str(number) for number in range(1000)})

    async def all_of_them() -> list[Answer]:
        return await asyncio.gather(*(slow.answer(Question("lookup", Service.ALIAS, str(n))) for n in range(1000)))

    assert run(all_of_them()) == [str(number) for number in range(1000)]
    assert slow.at_most == 7


def test_expressions_need_a_back_end_that_compares_them() -> None:
    class Judge(Program):
        JUDGES = frozenset({Service.REGEX})

    exact, judge = Program("exact", {}), Judge("judge", {}, lambda _question: True)
    with pytest.raises(TableError, match="proc cannot compare regular expressions"):
        settled(lambda memo: Tables([exact]).match("exact", Service.REGEX, "x", memo))
    assert settled(lambda memo: Tables([judge]).match("judge", Service.REGEX, "x", memo))


def test_a_look_up_is_traced_once_however_often_it_is_run() -> None:
    tables, lines = Tables([Program("slow", {"a": "1"}), Program("other", {"b": "2"})]), list[str]()
    tables.trace = lines.append
    settled(lambda memo: [tables.lookup(*which, memo) for which in (("slow", Service.ALIAS, "a"),
                                                                    ("other", Service.ALIAS, "b"))])
    assert lines == ['lookup "a" as alias in table proc:slow -> "1"', 'lookup "b" as alias in table proc:other -> "2"']


def test_rules_and_users_may_come_from_slow_tables() -> None:
    users, domains = Program("vusers", {"carol": "5000:5000:/v"}), Program("domains", {"*.example.org": ""})
    expanding = expander(rule(FROM_ANY, criterion("for", "domains"), action="local"),
                         actions=(Action(name="local", method=Method.MAILDIR, userbase="vusers"),),
                         tables=(users, domains))
    ask = envelope("Carol+x@a.b.Example.org")
    expanded = settled(lambda memo: expanding.expand(ask, tls=False, local=False, memo=memo))
    assert [each.user for each in expanded.envelopes] == ["carol"]
    refused = settled(lambda memo: expanding.expand(envelope("rob@x.example.org"), tls=False, local=False, memo=memo))
    assert refused.why == "no user rob in vusers"


def test_long_walks_are_asked_in_pieces() -> None:
    slow = Program("slow", {"*": ""})
    name = ".".join("abcdefghijklmnopqrstuvwxyz")
    assert settled(lambda memo: Tables([slow]).match("slow", Service.DOMAIN, name, memo))
    assert slow.at_most == TOGETHER
    assert len(slow.asked) == 27


# The order of keys: a table in memory, which has indexes, and one that is asked exact keys agree.

_LABEL = st.sampled_from(["a", "b", "example", "org", "x-1"])
_DOMAIN = st.lists(_LABEL, min_size=1, max_size=4).map(".".join)
_PATTERN = st.one_of(_DOMAIN, _DOMAIN.map(lambda name: "*." + name), st.just("*"))
_USER = st.sampled_from(["bob", "bob+x", "bob+", "+x", "alice", "bob+x+y"])
_V4 = st.sampled_from(["10.0.0.1", "10.0.1.1", "192.0.2.1", "192.0.2.129"])
_V6 = st.sampled_from(["2001:db8::1", "2001:db8:1::1", "::1"])
_NET = st.one_of(
    st.tuples(_V4, st.integers(0, 32)).map(lambda it: keys_for(Service.NETADDR, it[0], "+")[33 - it[1]]),
    st.tuples(_V6, st.integers(0, 128)).map(lambda it: keys_for(Service.NETADDR, it[0], "+")[129 - it[1]]),
    _V4, _V6, st.just("local"))
_ASKED = st.one_of(
    st.tuples(st.just(Service.DOMAIN), st.lists(_PATTERN, max_size=5), st.one_of(_DOMAIN, st.just(""))),
    st.tuples(st.just(Service.MAILADDR),
              st.lists(st.one_of(st.tuples(_USER, _PATTERN).map("@".join), _USER, _PATTERN.map("@{}".format),
                                 st.just("@")), max_size=5),
              st.one_of(st.tuples(_USER, _DOMAIN).map("@".join), st.just("@"), _DOMAIN.map("@{}".format))),
    st.tuples(st.just(Service.NETADDR), st.lists(_NET, max_size=5),
              st.one_of(_V4, _V6, _V6.map("[{}]".format), st.just("local"))),
    st.tuples(st.sampled_from([Service.ALIAS, Service.STRING]), st.lists(_USER, max_size=3), _USER),
)


class OnDisk(KeyedTable):
    def __init__(self, entries: dict[str, str]) -> None:
        super().__init__("t", "db")
        self.content = entries

    def get(self, key: str) -> str | None:
        return self.content.get(key)

    def entries(self) -> Iterator[tuple[str, str]]:
        return iter(self.content.items())

    def version(self) -> int:
        return 1


@settings(max_examples=400, deadline=None)
@given(_ASKED)
@example((Service.NETADDR, ["2001:db8:1::1", "2001:db8:1::1/128"], "[2001:db8:1::1]"))
@example((Service.NETADDR, ["2001:db8:1::1/128", "2001:db8:1::1"], "[2001:db8:1::1]"))
def test_every_back_end_has_the_same_wildcards_and_order(case: tuple[Service, list[str], str]) -> None:
    service, entries, key = case
    content = {entry: f"value of {entry}" for entry in entries}
    fast = StaticTable("t")
    fast.fill(content.items())
    slow, keyed = Program("t", content), OnDisk(content)
    value = fast.lookup(service, key)
    assert settled(lambda memo: Tables([slow]).lookup("t", service, key, memo)) == value
    assert settled(lambda memo: Tables([slow]).match("t", service, key, memo)) is (value is not None)
    assert keyed.lookup(service, key) == value
    assert keyed.match(service, key) is fast.match(service, key) is (value is not None)
