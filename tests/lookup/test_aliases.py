"""lookup.expand: aliases, virtual users, lists, .forward, and what becomes of bad members."""

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from pysmtpd.base.envelope import Agent, BounceKind, Envelope
from pysmtpd.conf.config import Action, Method
from pysmtpd.lookup.expand import DEPTH_MAX, PROBLEMS_MAX, SLICE, STEP_WORK, Expander
from pysmtpd.lookup.forward import Forward, Included, Opening, User, read_file, read_include
from pysmtpd.lookup.members import Members, parse
from pysmtpd.lookup.memo import NEXT_TURN, UNKNOWN_YET, Memo, Pending, Unknown
from pysmtpd.lookup.node import Expanded
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.messages import FORWARD_MAX
from tests.lookup.made import LOCAL_RULE, RELAY_RULE, DownTable, envelope, expander, run, settled

TEMP, PERM = "424 4.2.4 Mailing list expansion problem", "524 5.2.4 Mailing list expansion problem"


def table(name: str, entries: dict[str, str]) -> StaticTable:
    made = StaticTable(name)
    made.fill(entries.items())
    return made


USERS = table("users", {name: f"{1000 + number}:100:/home/{name}" for number, name in
                        enumerate(("bob", "carol", "dave", "eve", "list", "mixed"))} | {"root": "0:0:/root"})


class Homes:
    """.forward files by user, and :include: files by path: both take a turn of the loop."""

    def __init__(self, forwards: dict[str, Forward | bytes] | None = None,
                 files: dict[str, str] | None = None) -> None:
        self.forwards = forwards or {}
        self.files = files or {}
        self.asked: list[str] = []

    def known(self, _question: User | str) -> Unknown:
        return UNKNOWN_YET

    async def answer(self, question: Any) -> Any:
        if isinstance(question, str):
            self.asked.append(question)
            content = self.files.get(question)
            return Included(read_include((content or "").encode()), f"{question}: not there" * (content is None))
        self.asked.append(question.name)
        found = self.forwards.get(question.name, Forward(Opening.NONE))
        return found if isinstance(found, Forward) else Forward(Opening.FILE, found)


def made(aliases: dict[str, str] | None = None, virtual: dict[str, str] | None = None, homes: Homes | None = None,
         tables: tuple[Any, ...] = (), **fields: Any) -> Expander:
    """Local mail by aliases, or by virtual users; everything else by relay, but only mail of this machine."""
    alias_name = "aliases" if aliases is not None else ""
    local = Action(name="local", **{"method": Method.MAILDIR, "userbase": "users", "alias": alias_name,
                                    "virtual": "virtual" if virtual is not None else "", **fields})
    homes = homes or Homes()
    built = expander(LOCAL_RULE, RELAY_RULE, actions=(local, Action(name="out", method=Method.RELAY)),
                     tables=(USERS, table("aliases", aliases or {}), table("virtual", virtual or {}), *tables))
    built.forwards = built.includes = homes
    return built


def expand(to: str, expanding: Expander, **fields: Any) -> Expanded:
    return settled(expanding.expansion(envelope(to, **fields), tls=False, local=False).run)


def ends(expanded: Expanded) -> list[str]:
    """The deliveries in short, or the reply."""
    return [_end(each) for each in expanded.envelopes] or [expanded.reply]


def _end(each: Envelope) -> str:
    if each.agent is Agent.MTA:
        return f"<{each.dest}>"
    return f"{each.user}:{each.command}" if each.command else each.user


@pytest.mark.parametrize("to, expected", [
    ("sales@localhost", ["bob"]),
    ("Sales@localhost", ["bob"]),
    ("sales+x@localhost", ["bob"]),
    ("tagged+x@localhost", ["carol"]),
    ("tagged@localhost", ["dave"]),
    ("all@localhost", ["bob", "<ann@far.example>", "carol", "dave"]),
    ("chain@localhost", ["bob"]),
    ("bob@localhost", ["bob"]),
    ("carol@localhost", ["carol", "dave"]),
    ("here@localhost", ["bob"]),
    ("robot@localhost", ["nobody:|/bin/robot %{sender}"]),
    ("archive@localhost", ["nobody:/var/archive/mail"]),
    ("gone@localhost", ["550 5.1.1 Gone to the sea"]),
    ("later@localhost", ["451 Try again"]),
    ("nothing@localhost", ["550 Invalid recipient"]),
    ("included@localhost", ["bob", "<ann@far.example>", "carol", "dave"]),
    ("eve@localhost", ["eve"]),
    ("direct@localhost", ["dave"]),
    ("dave@localhost", ["bob"]),
])
def test_aliases(to: str, expected: list[str]) -> None:
    expanding = made({
        "sales": "bob", "tagged+x": "\\carol", "tagged": "\\dave",
        "all": "bob, CAROL, ann@far.example", "chain": "sales",
        "carol": "carol, \\dave", "here": "bob@localhost", "robot": "|/bin/robot %{sender}",
        "archive": "/var/archive/mail", "gone": "error:550 5.1.1 Gone to the sea", "later": "error:451 Try again",
        "nothing": "no-such-user", "included": ":include:/list", "direct": "\\dave", "dave": "bob",
    }, homes=Homes(files={"/list": "# us\nbob, carol\nann@far.example # far away\n"}))
    assert ends(expand(to, expanding)) == expected


@pytest.mark.parametrize("to, expected", [
    ("bob+x@localhost", ["bob+x"]),
    ("Bob+X+Y@localhost", ["bob+x+y"]),
    ("bob+@localhost", ["bob"]),
    ("sales+x@localhost", ["bob+lists"]),                         # the target's own
    ("plain+x@localhost", ["bob"]),                               # another user's is not his
    ("both@localhost", ["bob+a", "bob+b", "bob"]),                # three folders
    ("eve+x@localhost", ["carol", "eve+x"]),                      # an entry that names itself
    ("eve+y@localhost", ["eve"]),                                 # one that was written for this sub-address
    ("carol+x@localhost", ["carol+x", "carol:|/bin/cmd+x"]),      # so does her .forward
    ("robot+x@localhost", ["nobody:|/bin/robot+x"]),
    ("listed+x@localhost", ["nobody:/var/list+x"]),
    ("away+x@localhost", ["<ann+y@far.example>"]),
])
def test_sub_addresses(to: str, expected: list[str]) -> None:
    expanding = made({
        "sales": "bob+lists", "plain": "bob", "both": "bob+a, bob+b, bob", "eve": "eve, \\carol", "eve+y": "\\eve",
        "robot": "|/bin/robot", "listed": ":include:/list", "away": "ann+y@far.example",
    }, homes=Homes({"carol": b"\\carol\n|/bin/cmd\n"}, files={"/list": "/var/list\n"}))
    found = expand(to, expanding).envelopes
    assert [_end(one) + f"+{one.subaddress}" * bool(one.subaddress) for one in found] == expected


def test_a_virtual_user_keeps_a_sub_address_that_no_entry_names() -> None:
    expanding = made(virtual={"bob@localhost": "bob", "carol@localhost": "bob", "bob+x@localhost": "bob",
                              "@mx.example.org": "dave"})
    found = {to: expand(f"{to}@localhost", expanding).envelopes[0] for to in ("bob+y", "bob+x", "carol+y")}
    assert [(one.user, one.subaddress) for one in found.values()] == [("bob", "y"), ("bob", ""), ("bob", "")]
    assert expand("dave+y@mx.example.org", expanding).envelopes[0].subaddress == "y"


@pytest.mark.parametrize("to, expected", [
    ("bob+x@localhost", ["<1@far.example>"]),
    ("bob@localhost", ["<2@far.example>"]),
    ("bob+y@localhost", ["<2@far.example>"]),
    ("carol+x@localhost", ["<3@far.example>"]),
    ("carol@localhost", ["<4@far.example>"]),
    ("anybody@localhost", ["<5@far.example>"]),
    ("anybody@mx.example.org", ["<6@far.example>"]),
    ("chained@localhost", ["dave"]),
    ("real@localhost", ["eve"]),
    ("missing@localhost", ["550 Invalid recipient"]),
])
def test_virtual_users_by_their_most_specific_entry(to: str, expected: list[str]) -> None:
    expanding = made(virtual={
        "bob+x@localhost": "1@far.example", "bob@localhost": "2@far.example", "bob+y": "no@far.example",
        "carol+x": "3@far.example", "carol": "4@far.example", "@localhost": "5@far.example", "@": "6@far.example",
        "chained@localhost": "step", "step": "dave", "real@localhost": "eve", "missing@localhost": "nobody-here",
    })
    assert ends(expand(to, expanding)) == expected


def test_who_is_not_in_a_virtual_map_is_refused() -> None:
    refused = expand("rob@localhost", made(virtual={"bob@localhost": "bob"}))
    assert (refused.reply, refused.why) == (PERM, "rob@localhost is not in virtual")


def test_an_address_enters_the_rules_again_as_mail_of_this_machine() -> None:
    expanding = made({"away": "bob@far.example"})
    (out,) = expand("away@localhost", expanding).envelopes
    assert (out.action, str(out.dest), str(out.rcpt)) == ("out", "bob@far.example", "away@localhost")
    assert expand("bob@far.example", expanding).reply == "550 Invalid recipient"


@pytest.mark.parametrize("aliases, reply", [
    ({"a": "b", "b": "a"}, PERM),
    ({"a": "b", "b": "c", "c": "b"}, PERM),
    ({"a": "a@localhost"}, PERM),
    ({str(number): str(number + 1) for number in range(20)} | {"a": "1"}, PERM),
])
def test_a_loop_ends(aliases: dict[str, str], reply: str) -> None:
    refused = expand("a@localhost", made(aliases))
    assert refused.reply == reply
    assert "loop" in refused.why or refused.why == "expanded too deep"


def test_a_chain_may_be_as_long_as_the_bound() -> None:
    chain = {str(number): str(number + 1) for number in range(DEPTH_MAX - 2)} | {str(DEPTH_MAX - 2): "bob"}
    assert ends(expand("1@localhost", made(chain))) == ["bob"]
    assert ends(expand("0@localhost", made(chain))) == [PERM]


def test_a_loop_beside_others_takes_nothing_from_them() -> None:
    assert ends(expand("a@localhost", made({"a": "b, carol", "b": "a, bob"}))) == ["carol", "bob"]


def test_duplicates_are_one_over_the_whole_tree() -> None:
    expanding = made({"all": "bob, staff, carol", "staff": "carol, bob, dave", "twice": "ann@far.example, more",
                      "more": "ann@FAR.example, bob, \\bob"})
    assert ends(expand("all@localhost", expanding)) == ["bob", "carol", "dave"]
    assert ends(expand("twice@localhost", expanding)) == ["<ann@far.example>", "bob"]


def test_a_bad_member_does_not_refuse_the_others_and_is_told() -> None:
    expanding = made({"all": "bob, no-such-user, bad member, carol, rob@mx.example.org"})
    expanded = expand("all@localhost", expanding)
    assert ends(expanded) == ["bob", "carol"]
    assert expanded.problems == (
        "member no-such-user of <all@localhost>: no user no-such-user in users",
        'member bad member of <all@localhost>: "bad member" is no user, address, command, file, include or error',
        "member rob of <all@localhost>: no user rob in users",
    )


def test_the_owner_of_a_list_is_told_of_a_bad_member() -> None:
    expanding = made({"all": "bob, no-such-user", "owner-all": "carol"})
    bob, bounce = expand("all@localhost", expanding).envelopes
    assert bob.user == "bob" and str(bob.sender) == "alice@example.com"
    assert (bounce.agent, bounce.bounce, str(bounce.sender)) == (Agent.BOUNCE, BounceKind.FAILED, "owner-all@localhost")
    assert bounce.errorline == "member no-such-user of a list: no user no-such-user in users"
    assert bounce.ttl == 4 * 86400 and bounce.esc == "5.1.1"
    assert ends(expand("all@localhost", expanding, sender="")) == ["bob"]


def test_the_owner_may_be_a_virtual_user() -> None:
    expanding = made(virtual={"all@localhost": "bob, no-such-user", "owner-all@localhost": "carol"})
    assert str(expand("all@localhost", expanding).envelopes[1].sender) == "owner-all@localhost"


def test_a_list_of_bad_members_only_is_refused() -> None:
    assert expand("a@localhost", made({"a": "no, nope"})).reply == "550 Invalid recipient"
    assert expand("a@localhost", made({"a": "<bad>, ba d"})).reply == TEMP
    assert expand("a@localhost", made({"a": ":include:/e"}, homes=Homes(files={"/e": "# none\n"}))).reply == PERM


def test_what_fails_for_now_refuses_all() -> None:
    assert expand("a@localhost", made({"a": "bob, :include:/gone"})).reply == TEMP
    away = expand("a@localhost", made({}, tables=(DownTable("aliases"),)))
    assert (away.reply, away.why) == ("451 4.3.0 Temporary failure", "table aliases: down")
    assert expand("a@localhost", made(virtual={}, tables=(DownTable("virtual"),))).reply == away.reply
    down = made({"a": "bob, x@far.example"}, tables=(DownTable("users"),))
    assert expand("a@localhost", down).reply == "451 Temporary failure"
    wrong = made({"a": "bob, ann"}, tables=(table("users", {"bob": "1:1:/b", "ann": "x:y"}),))
    assert expand("a@localhost", wrong).why == "table users: the value of ann is not uid:gid:home"


def test_an_error_in_a_list_is_the_administrators_word() -> None:
    assert ends(expand("a@localhost", made({"a": "bob, error:550 Closed"}))) == ["550 Closed"]


@pytest.mark.parametrize("forward, expected", [
    (b"ann@far.example\n", ["<ann@far.example>"]),
    (b"\\bob, ann@far.example\n", ["bob", "<ann@far.example>"]),
    (b"bob\nann@far.example\n", ["bob", "<ann@far.example>"]),
    (b"carol\n", ["carol"]),
    (b"# nothing\n\n", ["bob"]),
    (b":include:/etc/list\n", ["bob"]),
    (b'"|/bin/filter %{user.username}"\n', ["bob:|/bin/filter %{user.username}"]),
    (b"~/mbox\n", [TEMP]),
    (b"/home/bob/mbox\n", ["bob:/home/bob/mbox"]),
    (b"no-such-user\n", ["550 Invalid recipient"]),
    (b"error:550 I am gone\n", ["550 I am gone"]),
    (b"x" * FORWARD_MAX, [TEMP]),
    (b"u@far.example," * 101, [TEMP]),
    (Forward(Opening.NONE), ["bob"]),
    (Forward(Opening.TEMPORARY, why="/home/bob is sticky"), [TEMP]),
    (Forward(Opening.REFUSED, why="insecure file"), [PERM]),
])
def test_a_forward_file(forward: bytes | Forward, expected: list[str]) -> None:
    if forward == b"u@far.example," * 101:
        forward = b"".join(b"u%d@far.example\n" % number for number in range(101))
    assert ends(expand("bob+x@localhost", made({}, homes=Homes({"bob": forward})))) == expected


def test_forward_files_lead_on_and_loops_through_them_end() -> None:
    homes = Homes({"bob": b"carol, \\bob\n", "carol": b"staff\n", "dave": b"eve", "eve": b"dave"})
    expanding = made({"staff": "dave@far.example, bob"}, homes=homes)
    assert sorted(ends(expand("bob@localhost", expanding))) == ["<dave@far.example>", "bob"]
    assert ends(expand("dave@localhost", expanding)) == [PERM]


def test_a_forward_that_leads_back_by_a_sub_address_is_a_loop_not_a_duplicate() -> None:
    refused = expand("bob+t@localhost", made({}, homes=Homes({"bob": b"bob+t"})))
    assert (refused.reply, refused.why) == (PERM, "loop: user bob+t leads to itself")
    assert refused.root.children[0].children[0].note == "loop: it led here itself"


def test_users_whose_ids_the_action_is_not_for_are_refused() -> None:
    assert ends(expand("bob@localhost", made({}, uids=(1000, 1000), gids=(100, 100)))) == ["bob"]
    others: list[dict[str, Any]] = [{"uids": (1001, 1002)}, {"uids": (1000, 1000), "gids": (1, 99)}]
    for bounds in others:
        homes = Homes({"bob": b"ann@far.example"})
        refused = expand("bob@localhost", made({}, homes=homes, **bounds))
        assert refused.reply == "550 5.7.1 Delivery not authorized" and homes.asked == []
        assert refused.why == "bob has 1000:100 in users, and action local is for other ids"


def test_forward_is_not_read_for_another_delivery_user() -> None:
    homes = Homes({"bob": b"ann@far.example"})
    assert ends(expand("bob@localhost", made({}, homes=homes, user="carol"))) == ["bob"]
    assert homes.asked == []
    assert ends(expand("bob@localhost", made({}, homes=homes, user="bob"))) == ["<ann@far.example>"]


def test_commands_and_files_in_the_forward_of_root_are_not_allowed() -> None:
    for line in (b"|/bin/cmd", b"/var/mail/x"):
        assert ends(expand("root@localhost", made({}, homes=Homes({"root": line})))) == ["451 Temporary failure"]
    assert ends(expand("root@localhost", made({}, homes=Homes({"root": b"bob"})))) == ["bob"]


@pytest.mark.parametrize("method, forward, expected", [
    (Method.FORWARD_ONLY, b"ann@far.example", ["<ann@far.example>"]),
    (Method.FORWARD_ONLY, None, [TEMP]),
    (Method.FORWARD_ONLY, b"", [TEMP]),
    (Method.FORWARD_ONLY, b"\\bob", [TEMP]),
    (Method.FORWARD_ONLY, b"|/bin/cmd", ["451 Temporary failure"]),
    (Method.FORWARD_ONLY, b"error:550 no", ["451 Temporary failure"]),
    (Method.EXPAND_ONLY, b"ann@far.example", ["<ann@far.example>"]),
    (Method.EXPAND_ONLY, None, [PERM]),
    (Method.EXPAND_ONLY, b"/var/mail/x", ["bob:/var/mail/x"]),
])
def test_actions_that_only_forward_or_expand(method: Method, forward: bytes | None, expected: list[str]) -> None:
    homes = Homes({"bob": forward} if forward is not None else {})
    assert ends(expand("bob@localhost", made({}, homes=homes, method=method))) == expected


def test_a_list_of_thousands_lets_others_have_their_turn() -> None:
    files = {"/list": "".join(f"u{number}@far.example\n" for number in range(5000))}
    expansion = made({"a": ":include:/list"}, homes=Homes(files=files)).expansion(
        envelope("a@localhost"), tls=False, local=True)
    slices = 0

    async def count_slices() -> Expanded:
        nonlocal slices
        memo = Memo()
        work = asyncio.ensure_future(memo.settle(lambda memo: expansion.run(memo), Pending([NEXT_TURN])))
        while not work.done():
            slices += 1
            await asyncio.sleep(0)
        return await work

    expanded = run(count_slices())
    assert len(expanded.envelopes) == 5000
    assert slices > 5000 * STEP_WORK / SLICE
    decisions = [node.decision for node in expanded.root.children[0].children[0].children]
    assert decisions[0] is not None and all(one is not None and one.failed is decisions[0].failed for one in decisions)


class Reader:
    """Reads long lists, and counts them."""

    def __init__(self) -> None:
        self.read = 0

    def known(self, _value: str) -> Unknown:
        return UNKNOWN_YET

    async def answer(self, value: str) -> Members:
        self.read += 1
        return parse(value)


def test_a_list_of_thousands_in_one_entry_is_read_by_a_thread_and_placed_in_slices() -> None:
    names = [f"u{number}@far.example" for number in range(4000)]
    expanding = made({"a": ", ".join([*names, "bad member"]), "b": "bob, carol"})
    expanding.lists = reader = Reader()
    expansion = expanding.expansion(envelope("a@localhost"), tls=False, local=True)
    expansion.slice = 5000
    steps: list[int] = []

    async def count() -> Expanded:
        work = asyncio.ensure_future(Memo().settle(lambda memo: expansion.run(memo), Pending([NEXT_TURN])))
        while not work.done():
            steps.append(expansion._nodes)
            await asyncio.sleep(0)
        return await work

    expanded = run(count())
    assert len(expanded.envelopes) == 4000 and len(expanded.problems) == 1
    assert max(after - before for before, after in itertools.pairwise(steps)) <= 5000 / (STEP_WORK // 4) + 1
    assert ends(expand("b@localhost", expanding)) == ["bob", "carol"]
    assert reader.read == 1


def test_what_is_told_of_bad_members_is_bounded() -> None:
    names = ", ".join(["bob", *(f"no{number}" for number in range(PROBLEMS_MAX + 7))])
    problems = expand("a@localhost", made({"a": names})).problems
    assert len(problems) == PROBLEMS_MAX + 1
    assert problems[-1] == "and 7 more members of <a@localhost>"


def test_a_long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/list": "".join(f"u{number}@far.example\n" for number in range(1500))}
    expanded = expand("a@localhost", made({"a": ":include:/list"}, homes=Homes(files=files)))
    assert len(expanded.envelopes) == 1500
    monkeypatch.setattr("pysmtpd.lookup.expand.NODES_MAX", 1500)
    assert expand("a@localhost", made({"a": ":include:/list"}, homes=Homes(files=files))).reply == TEMP


def test_an_include_is_read_with_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "list"
    path.write_text("bob\n")
    assert read_file(str(path)) == Included(read_include(b"bob\n"))
    assert read_file(str(tmp_path / "none")).why.endswith("No such file or directory")
    monkeypatch.setattr("pysmtpd.lookup.forward.INCLUDE_MAX", 3)
    assert read_file(str(path)).why.endswith("larger than 3 octets")


def test_an_include_that_is_a_fifo_or_a_directory_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_file(str(tmp_path / "fifo")).why.endswith("fifo: not a regular file")
    assert read_file(str(tmp_path)).why.endswith("not a regular file")


def test_an_include_is_no_link_to_somebody_elses_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "passwords").write_text("bob\n")
    link = tmp_path / "list"
    link.symlink_to("passwords")
    assert read_file(str(link)) == Included(read_include(b"bob\n"))
    others = os.stat_result((*link.lstat()[:4], 12345, *link.lstat()[5:]))
    monkeypatch.setattr("pysmtpd.lookup.forward.os.lstat", lambda _path: others)
    assert read_file(str(link)).why.endswith("list: a link to somebody else's file")


def test_who_is_refused_for_an_address_elsewhere_is_told_which() -> None:
    expanding = made({"away": "joe@far.example"})
    expanding.ruleset = Ruleset((LOCAL_RULE,), expanding.tables)
    assert expand("away@localhost", expanding).why == "<joe@far.example>: no rule matched"
    assert expand("joe@far.example", expanding).why == "no rule matched"
