"""What becomes of the recipients of a case (tests/lookup/cases.py) here, in the words of OpenSMTPD's verdicts.

A verdict is the reply to RCPT, and with 250 the deliveries: agent, destination, user, action, command or file.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.base.struct import replace
from pysmtpd.conf.load import load
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.expand import Expander, Expansion
from pysmtpd.lookup.forward import ABSENT, Forward, Included, Opening, User, read_file
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.node import Expanded
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Tables
from pysmtpd.session.path import parse_path
from tests.conf.machine import PATH, Machine
from tests.lookup.cases import UIDS
from tests.lookup.judging import Session
from tests.lookup.made import envelope, static
from tests.lookup.walked import ALL, Book, Verdict, read_tables, rows_between

HOSTNAME = "mx.example.org"

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


class Foretold(NamedTuple):
    """What OpenSMTPD has to say, and what we have to, and the rows that the difference is made of."""

    there: Verdict
    here: Verdict
    rows: list[str]


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
        passwd = {user: f"{UIDS[user]}:{UIDS[user]}:{directory}/home/{user}" for user in case["users"]}
        self.book = Book(loaded.config, read_tables(loaded.config), passwd)

    def put(self, text: str) -> str:
        return text.replace("@D@", str(self.directory))

    def foretold(self, session: dict[str, Any], rcpt: str) -> Foretold:
        """What the book says of both."""
        who = Session(session["source"] if ":" not in session["source"] else f"[{session['source']}]",
                      session["rdns"], session["helo"], session["tag"], session["sender"])
        there = self.there(self.book.walk(who, rcpt, ALL))
        here = self.there(self.book.walk(who, rcpt, frozenset()))
        return Foretold(there, here, rows_between(self.book, who, rcpt) if there != here else [])

    def there(self, verdict: Verdict) -> Verdict:
        """With the directory of the case as it is written there."""
        reply, ends = verdict
        return reply, [(*end[:4], end[4].replace(str(self.directory), "@D@")) for end in ends]

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
