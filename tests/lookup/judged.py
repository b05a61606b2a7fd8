"""What becomes of the recipients of a case (tests/lookup/cases.py) here, in the words of OpenSMTPD's verdicts.

A verdict is the reply to RCPT, and with 250 the deliveries: agent, destination, user, action, command or file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.base.struct import replace
from pysmtpd.conf.load import load
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.expand import Expander, Expansion
from pysmtpd.lookup.forward import ABSENT, Forward, Included, Opening, User, read_file
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.node import Expanded, Node
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Tables
from pysmtpd.session.path import parse_path
from tests.conf.machine import PATH, Machine
from tests.lookup.cases import UIDS
from tests.lookup.made import envelope, static

HOSTNAME = "mx.example.org"
Verdict = tuple[str, list[tuple[str, ...]]]

# Why verdicts differ: rows of docs/differences.md, as they begin.
ROWS = {
    "two copies": "| a user that two members lead to may get two copies |",
    "case": "| a member `BOB` is another user than `bob`, ",
    "loop": "| an alias that leads back to itself through addresses ",
    "bad member": "| a bad member of a list refuses the list |",
    "many failures": "| when all members of a list fail, ",
    "direct": "| `\\user` is `user` |",
    "no delivery": "| `forward-only` and `expand-only` deliver to a user whose `.forward` names that user",
    "bad address": "| in a list `user@bad domain`, ",
    "forwarded": "| a `.forward` whose members are all there already is taken for an empty one",
    "nodes": "| more than 100 members of all lists together, once a `.forward` was read: 424 |",
    "include": "| an `:include:` that cannot be read is empty |",
}


class Homes:
    """.forward files, found at once."""

    def known(self, user: User) -> Forward:
        try:
            return Forward(Opening.FILE, (Path(user.home) / ".forward").read_bytes())
        except FileNotFoundError:
            return ABSENT

    async def answer(self, user: User) -> Forward:
        return self.known(user)


class Files:
    """:include: files, read at once."""

    def known(self, path: str) -> Included:
        return read_file(path)

    async def answer(self, path: str) -> Included:
        return read_file(path)


class Judged(NamedTuple):
    """A verdict of ours, and what led to it."""

    verdict: Verdict
    expansion: Expansion
    expanded: Expanded


class Judge:
    """The rules and tables of a case, written to a directory."""

    def __init__(self, case: dict[str, Any], directory: Path) -> None:
        self.directory = directory
        machine = Machine(self.put(case["conf"]))
        machine.name = HOSTNAME
        machine.addresses = {"lo": ["127.0.0.1", "::1"]}
        for name, text in case["files"].items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.put(text))
            machine.put(str(path), self.put(text))
        loaded = load(PATH, machine)
        assert loaded.config is not None, "\n".join(map(str, loaded.errors))
        users = static("<getpwnam>")
        users.fill((user, f"{UIDS[user]}:{UIDS[user]}:{directory}/home/{user}") for user in case["users"])
        tables = Tables([users, *(one for one in build_tables(loaded.config) if one.name != users.name)])
        self.expander = Expander(loaded.config, Ruleset(loaded.config.rules, tables), tables, Homes(), Files())

    def put(self, text: str) -> str:
        return text.replace("@D@", str(self.directory))

    def judge(self, session: dict[str, Any], rcpt: str) -> Judged:
        path, sender = parse_path(f"<{rcpt}>", HOSTNAME), parse_path(f"<{session['sender']}>", HOSTNAME)
        assert path is not None and sender is not None
        source = f"[{session['source']}]" if ":" in session["source"] else session["source"]
        asked = replace(envelope(rcpt), tag=session["tag"], helo=session["helo"], hostname=session["rdns"],
                        source=source, smtpname=HOSTNAME, sender=sender[0], rcpt=path[0], dest=path[0])
        expansion = self.expander.expansion(asked, tls=False, local=False)
        expanded = expansion.run(Memo())
        if expanded.reply:
            reply = expanded.reply if expanded.whole else f"{expanded.reply}: <{rcpt}>"
            return Judged((reply, []), expansion, expanded)
        ends = sorted(self.delivery(one) for one in expanded.envelopes if one.agent is not Agent.BOUNCE)
        return Judged(("250", ends), expansion, expanded)

    def delivery(self, one: Envelope) -> tuple[str, ...]:
        command = one.command.replace(str(self.directory), "@D@")
        user = one.user if one.agent is Agent.MDA else ""
        return one.agent.name.lower(), str(one.dest).lower(), user, one.action, command


def nodes(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for child in node.children:
        yield from nodes(child)


def leads_back(node: Node) -> bool:
    """Whether a node was left out because it is above itself; ``bob+t`` is as ``bob`` there."""
    if node.note.startswith("loop"):
        return True
    name, above = node.name.partition("+")[0], node.parent
    while node.note and above is not None and above.name.partition("+")[0] != name:
        above = above.parent
    return bool(node.note) and above is not None


def folded(ends: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    return {(agent, dest, user.lower(), action, command) for agent, dest, user, action, command in ends}


def known(there: Verdict, ours: Judged) -> str:
    """The key in ROWS of why verdicts differ, or an empty string."""
    here, tree = ours.verdict, list(nodes(ours.expanded.root))
    failures = [refusal.reply for _, refusal in ours.expansion._failed]
    if there[0] == here[0] == "250" and folded(there[1]) == folded(here[1]):
        return "two copies" if len(there[1]) != len(here[1]) else "case"
    if there[0] == here[0] == "250" and any(node.forwarded for node in tree):
        users = {node.name for node in tree if node.forwarded}
        more = folded(there[1]) - folded(here[1])
        return "forwarded" if folded(here[1]) < folded(there[1]) and {end[2] for end in more} <= users else ""
    if any(node.kind.value == "bad member" for node in tree):
        return "bad address"
    if any(node.direct for node in tree):
        return "direct"
    if any(node.kind.value == "include" and node.error for node in tree) or "No such file" in ours.expanded.why:
        return "include"
    if there[0] == "250":
        refused = [node.error for node in tree if node.same]
        return "no delivery" if any("forward-only" in why or "expand-only" in why for why in refused) else ""
    if there[0].startswith("424") and any(node.forwarded for node in tree) and len(tree) > 60:
        return "nodes"
    if there[0].startswith("524") and any(map(leads_back, tree)):
        return "loop"
    if here[0] == "250":
        return "bad member" if any(map(there[0].startswith, failures)) else ""
    return "many failures" if sum(not node.children for node in tree) > 1 else ""
