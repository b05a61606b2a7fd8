"""What becomes of the recipients of a case (tests/lookup/cases.py) here, in the words of OpenSMTPD's verdicts.

A verdict is the reply to RCPT, and with 250 the deliveries: agent, destination, user, action, command or file,
sub-address.
"""

import contextlib
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pysmtpd.base.envelope import Agent, Envelope, Flag
from pysmtpd.base.struct import replace
from pysmtpd.conf.load import load
from pysmtpd.lookup import rewritten as rewriting
from pysmtpd.lookup.build import build_tables
from pysmtpd.lookup.expand import Expander, Expansion
from pysmtpd.lookup.facts import LOCAL
from pysmtpd.lookup.forward import ABSENT, Forward, Included, Opening, User, read_file
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.node import Expanded
from pysmtpd.lookup.ruleset import Ruleset
from pysmtpd.lookup.table import Tables
from pysmtpd.lookup.table_slow import Answer, Question, SlowTable
from pysmtpd.maps import cdb
from pysmtpd.maps.text import parse
from pysmtpd.session.path import parse_path
from pysmtpd.tables.sqlite import Sqlite
from tests.conf.machine import PATH, Machine
from tests.lookup.cases import UIDS
from tests.lookup.judging import Session
from tests.lookup.made import envelope, settled, static
from tests.lookup.walked import ALL, Book, Verdict, read_table, rows_between

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


class Asked(SlowTable):
    """A program, without the pipe."""

    def __init__(self, name: str, program: Callable[[str], str | None] | Sqlite) -> None:
        super().__init__(name, "program")
        self.program = program

    async def ask(self, question: Question) -> Answer:
        if isinstance(self.program, Sqlite):
            return self.program.lookup(question.service.value, question.key)
        return self.program(question.key)


def make_sqlite(text: str, path: Path) -> None:
    """A database of the entries of a table: a row for each member that is plain."""
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE entry (key TEXT, value TEXT)")
        database.execute("CREATE TABLE user (name TEXT, uid INTEGER, gid INTEGER, home TEXT)")
        for key, value in parse(text, str(path)).entries:
            rows = [value] if set(value) & set("\"'|\\:") else value.split(", ")
            database.executemany("INSERT INTO entry VALUES (?, ?)", [(key.lower(), row) for row in rows])
            if value.count(":") == 2:
                database.execute("INSERT INTO user VALUES (?, ?, ?, ?)", (key.lower(), *value.split(":")))


def make_map(source: Path, database: Path) -> None:
    """As makemap does."""
    entries = parse(source.read_text(), str(source)).entries
    *pieces, header = cdb.build((key.lower().encode(), value.encode()) for key, value in entries)
    database.write_bytes(header + b"".join(pieces)[len(header):])


def _source(session: dict[str, Any]) -> str:
    source: str = session["source"]
    return f"[{source}]" if ":" in source else source


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
        conf = self.put(case["conf"])
        # A program that knows whole keys and no more: its questions are answered here.
        programs = set(re.findall(r"^table (\w+) plain:", conf, re.MULTILINE))
        sqlite = dict(re.findall(r"^table (\w+) sqlite:(.*)", conf, re.MULTILINE))
        machine = Machine(re.sub(r"^(table \w+) (?:plain:(.*)|sqlite:(.*)\.sqlite\.conf)", r"\1 file:\2\3", conf,
                                 flags=re.MULTILINE))
        machine.name = HOSTNAME
        machine.addresses = {"lo": ["127.0.0.1", "::1"]}
        for name, text in case["files"].items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.put(text))
            machine.put(str(path), self.put(text))
            if name in sqlite:
                make_sqlite(self.put(text), directory / f"{name}.sqlite")
            database = directory / f"{name}.db"
            if f"db:{database}\n" in conf:
                if not database.exists():
                    make_map(path, database)
                machine.put(str(database), database.read_bytes())
        for name in ("mx.crt", "mx.key"):
            machine.put(str(directory / name), "x")
        loaded = load(PATH, machine)
        assert loaded.config is not None, "\n".join(map(str, loaded.errors))
        users = static("<getpwnam>")
        users.fill((user, f"{UIDS[user]}:{UIDS[user]}:{directory}/home/{user}") for user in case["users"])
        made = [Asked(one.name, read_table(loaded.config.tables[one.name]).get) if one.name in programs else
                Asked(one.name, Sqlite(sqlite[one.name])) if one.name in sqlite else one
                for one in build_tables(loaded.config) if one.name != users.name]
        tables = Tables([users, *made])
        self.expander = Expander(loaded.config, Ruleset(loaded.config.rules, tables), tables, Homes(), Files())
        passwd = {user: f"{UIDS[user]}:{UIDS[user]}:{directory}/home/{user}" for user in case["users"]}
        found = {name: read_table(table) for name, table in loaded.config.tables.items()}
        self.book = Book(loaded.config, found, passwd, case["now"])
        rewritten = rewriting.of(loaded.config, lambda: case["now"], lambda _text: None)
        if rewritten is not None:
            self.expander.reverse = rewritten.reverse

    def put(self, text: str) -> str:
        return text.replace("@D@", str(self.directory))

    def foretold(self, session: dict[str, Any], rcpt: str, there: Verdict) -> Foretold:
        """What the book says of both.  there: their verdict, where it has to choose."""
        who = Session(_source(session), session["rdns"], session["helo"], session["tag"], session["sender"],
                      session["username"], session["tls"])
        here, quirks = self.there(self.book.walk(who, rcpt, frozenset())), ALL
        foretold = self.there(self.book.walk(who, rcpt, quirks))
        if foretold[0] != there[0]:
            quirks = ALL | {"errno"}
            foretold = self.there(self.book.walk(who, rcpt, quirks))
        rows = rows_between(self.book, who, rcpt, quirks) if foretold != here else []
        if set(map(tuple, there[1])) == set(foretold[1]) and len(there[1]) != len(foretold[1]):
            # How many copies there are depends on where nodes were in OpenSMTPD's memory (tests/lookup/ordered.py).
            foretold = foretold[0], [(*one,) for one in there[1]]
            rows = rows if "two copies" in rows or foretold == here else [*rows, "two copies"]
        return Foretold(foretold, here, rows)

    def there(self, verdict: Verdict) -> Verdict:
        """With the directory of the case as it is written there."""
        reply, ends = verdict
        return reply, [tuple(field.replace(str(self.directory), "@D@") for field in end) for end in ends]

    def judge(self, session: dict[str, Any], rcpt: str) -> Judged:
        path, sender = parse_path(f"<{rcpt}>", HOSTNAME), parse_path(f"<{session['sender']}>", HOSTNAME)
        assert path is not None and sender is not None
        asked = replace(envelope(rcpt), tag=session["tag"], helo=session["helo"], hostname=session["rdns"],
                        source=_source(session), smtpname=HOSTNAME, sender=sender[0], rcpt=path[0], dest=path[0],
                        username=session["username"],
                        flags=int(Flag.AUTHENTICATED) if session["username"] or session["source"] == LOCAL else 0)
        expansion = self.expander.expansion(asked, tls=session["tls"], local=session["source"] == LOCAL)
        try:
            expanded = expansion.run(Memo())
        except Pending:
            expanded = settled(expansion.run)
        if expanded.reply:
            reply = expanded.reply if expanded.whole else f"{expanded.reply}: <{rcpt}>"
            return Judged((reply, []), expansion, expanded)
        ends = sorted(self.delivery(one) for one in expanded.envelopes if one.agent is not Agent.BOUNCE)
        return Judged(("250", ends), expansion, expanded)

    def delivery(self, one: Envelope) -> tuple[str, ...]:
        command = one.command.replace(str(self.directory), "@D@")
        user = one.user if one.agent is Agent.MDA else ""
        return one.agent.name.lower(), str(one.dest).lower(), user, one.action, command, one.subaddress
