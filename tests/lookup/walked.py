"""What becomes of a recipient, by the book: a second implementation in plain Python, of OpenSMTPD 7.8 and of this.

The two are one walk with a switch for each difference that docs/differences.md has a row for.  With all switches on
it has to give OpenSMTPD's verdict, with all off ours: a defect on either side is a verdict that was not foretold, and
which rows explain a difference is found by turning the switches off one after the other.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from pysmtpd.conf.config import Action, Config, Method, Rule, Table
from tests.lookup.judging import Entries, Session, Tests
from tests.lookup.ordered import Ordered
from tests.lookup.rewriting import Scheme
from tests.lookup.written import ADDRESS, BAD, COMMAND, ERROR, FILE, INCLUDE, USER, Bad, Item, items, lines_of

Verdict = tuple[str, list[tuple[str, ...]]]

# Switches, in the order in which they are turned off, and the rows of docs/differences.md, as they begin.
ROWS = {
    "errno": "| `reject` is 451 when the last system call had to wait |",
    "tls": "| `match tls` is always a temporary failure |",
    "rdns": "| `from rdns <t>` compares for equality |",
    "star": "| `*` in a pattern is about one label, ",
    "brackets": "| a network `[2001:db8::]/32` ",
    "everybody": "| an address entry `@` matches everybody |",
    "regex": "| regular expressions are put into lower case, ",
    "srs": "| SRS: what was rewritten twice is taken back once |",
    "literal": "| `for local` does not match `user@[192.0.2.1]` |",
    "no delivery": "| `forward-only` and `expand-only` deliver to a user whose `.forward` names that user",
    "include": "| an `:include:` that cannot be read is empty |",
    "bad address": "| in a list `user@bad domain`, ",
    "empty command": "| a `\\|` without a command is accepted in a list |",
    "nodes": "| more than 100 members of all lists together, once a `.forward` was read: 424 |",
    "forwarded": "| a `.forward` whose members are all there already is taken for an empty one",
    "loop": "| an alias that leads back to itself through addresses ",
    "bad member": "| a bad member of a list refuses the list |",
    "many failures": "| when all members of a list fail, ",
    "direct": "| `\\user` is `user` |",
    "tag kept": "| `bob+tag` loses its sub-address ",
    "tag case": "| a sub-address is in small letters, ",
    "case": "| a member `BOB` is another user than `bob`, ",
    "two copies": "| a user that two members lead to may get two copies |",
}
# What OpenSMTPD does each time; "errno" depends on what it did before.
ALL = frozenset(ROWS) - {"errno"}

# Those that rules are about.
JUDGING = frozenset({"tls", "rdns", "star", "brackets", "everybody", "regex", "literal"})

PERM, TEMP = "550 Invalid recipient", "451 Temporary failure"
LIST_PERM, LIST_TEMP = "524 5.2.4 Mailing list expansion problem", "424 4.2.4 Mailing list expansion problem"
DEPTH_MAX = 10
HOPS = 3
FORWARD_MAX, NODES_MAX = 4096, 100
STEPS_MAX = 50_000                 # of one walk: nobody waits for a model


class Failed(Exception):
    """A reply that refuses; alone: only when there is nobody else."""

    def __init__(self, reply: str, *, alone: bool = False) -> None:
        super().__init__(reply)
        self.reply = reply
        self.alone = alone


class Step:
    """One place of the walk."""

    def __init__(self, item: Item, above: "Step | None", key: str = "") -> None:
        """key: that of the entry it stands in."""
        self.kind, self.text, self.direct = item.kind, item.text, item.direct
        self.user, self.domain = item.user, item.domain
        self.why = item.why
        self.above = above
        self.depth: int = 0 if above is None else above.depth + (above.kind is not INCLUDE)
        self.same = above is not None and item.kind is USER is above.kind and above.text == item.text
        self.address: Step = self
        if item.kind is not ADDRESS:
            assert above is not None
            self.address = above.address
        self.action: Action | None = above.action if above is not None else None
        self.uid: int | None = None
        self.forwarded = False
        self.key = key
        self.tag = ""
        self.octets, self.order = item.octets, item.kind.value

    @property
    def dest(self) -> str:
        return f"{self.address.user}@{self.address.domain}"

    def stands_for(self) -> tuple[str, str]:
        """The user above it, and its sub-address."""
        above = self.above
        while above is not None and above.kind is INCLUDE:
            above = above.above
        assert above is not None
        name, _, tag = (above.text if above.kind is USER else above.user.lower()).partition("+")
        return name, tag or above.tag

    def identity(self) -> tuple[object, ...]:
        """Ours: equal for those that would become the same."""
        program = self.kind in (COMMAND, FILE)
        owner = self.above.text if program and self.above is not None and self.above.forwarded else ""
        action = self.action.name if self.action is not None and self.kind is not ADDRESS else ""
        return (self.kind, self.text, self.address.user, self.address.domain.lower(), action, owner, self.direct,
                self.same, self.above is None)


def read_table(table: Table) -> Entries:
    """The entries of a table.  A map has its keys in lower case."""
    pairs = [*((key, "") for key in table.keys), *((key, value.value) for key, value in table.pairs)]
    if table.path:
        pairs = list(_read_file(Path(table.path.removesuffix(".db")).read_text()))
    entries = Entries((key.lower(), value) for key, value in pairs)
    entries.written = list(entries) if table.backend == "db" else [key for key, _ in pairs]
    return entries


def _read_file(text: str) -> Iterator[tuple[str, str]]:
    mapping: bool | None = None
    for line in map(str.strip, text.split("\n")):
        if not line or line.startswith("#"):
            continue
        key, value = [*re.split(r"[ \t:]+", line, maxsplit=1), ""][:2]
        mapping = bool(value) if mapping is None else mapping
        yield (key, value) if mapping else (line, "")


def rows_between(book: "Book", session: Session, rcpt: str, quirks: frozenset[str]) -> list[str]:
    """Which of these switches make the difference between OpenSMTPD's verdict and ours."""
    on, rows, verdict = set(quirks), [], book.walk(session, rcpt, quirks)
    for switch in ROWS:
        if switch not in quirks:
            continue
        on.remove(switch)
        if (other := book.walk(session, rcpt, frozenset(on))) != verdict:
            rows.append(switch)
            verdict = other
    return rows


class Book:
    """The rules and tables of one configuration."""

    def __init__(self, config: Config, tables: dict[str, Entries], users: dict[str, str], now: int) -> None:
        self.config = config
        self.tables = tables
        self.users = users
        self.decided: dict[tuple[Session, str, bool, frozenset[str]], tuple[Rule | None, bool]] = {}
        keys = tuple(key.value for key in (config.srs_key, config.srs_backup) if key is not None)
        self.rewritten = Scheme(keys, config.srs_ttl, now) if config.srs_key is not None else None

    def decide(self, session: Session, dest: str, internal: bool, quirks: frozenset[str]) -> tuple[Rule | None, bool]:
        """The rule for an address, and whether nobody can tell now."""
        key = session, dest, internal, quirks
        if key not in self.decided:
            tests = Tests(session, dest, internal, self.tables, quirks)
            self.decided[key] = tests.first(self.config.rules), tests.unknown
        return self.decided[key]

    def reverse(self, rcpt: str, sender: str, quirks: frozenset[str]) -> str:
        """Whom a bounce to a rewritten address is for."""
        for _ in range(1 if "srs" in quirks else HOPS):
            if sender or self.rewritten is None or rcpt[:5].upper() not in ("SRS0=", "SRS1="):
                break
            rcpt = self.rewritten.decode(rcpt) or rcpt
        return rcpt

    def walk(self, session: Session, rcpt: str, quirks: frozenset[str]) -> Verdict:
        walk = _Walk(self, session, rcpt, quirks)
        try:
            return walk.all()
        except Failed as failed:
            return f"{failed.reply}: <{rcpt}>", []


class _Walk:
    def __init__(self, book: Book, session: Session, rcpt: str, quirks: frozenset[str]) -> None:
        self.book, self.session, self.quirks = book, session, quirks
        found = book.reverse(rcpt, session.sender, quirks)
        self.internal = found != rcpt
        user, _, domain = found.rpartition("@")
        root = Step(Item(ADDRESS, f"{user}@{domain}", user, domain), None)
        self.queue = [root]
        self.known = Ordered()
        self.seen = {root.identity()}
        self.known.add(root)
        self.ends: list[tuple[str, ...]] = []
        self.delivered: set[tuple[str, ...]] = set()
        self.failed: list[Failed] = []

    def all(self) -> Verdict:
        for count, step in enumerate(self._following()):
            if count > STEPS_MAX:
                raise Failed("the walk does not end")
            try:
                self._step(step)
            except Failed as failed:
                if not failed.alone or "bad member" in self.quirks:
                    raise
                self.failed.append(failed)
        if not self.ends:
            if self.failed and "many failures" in self.quirks:
                raise self.failed[0]
            raise next((one for one in self.failed if one.reply[0] == "4"), (*self.failed, Failed(LIST_PERM))[0])
        return "250", sorted(self.ends)

    def _following(self) -> Iterator[Step]:
        at = 0
        while at < len(self.queue):
            yield self.queue[at]
            at += 1

    # what is below a step

    def _insert(self, found: list[Item], above: Step, key: str = "") -> int:
        """How many of them are new."""
        new = 0
        for item in found:
            step = Step(item, above, key)
            if "two copies" in self.quirks:
                here = not self.known.add(step) or ("loop" not in self.quirks and self._leads_back(step))
            else:
                here = step.identity() in self.seen
                self.seen.add(step.identity())
            if not here:
                self.queue.append(step)
                new += 1
        return new

    def _leads_back(self, step: Step) -> bool:
        above = step.above
        while above is not None:
            if above.identity()[:5] == step.identity()[:5]:
                return True
            above = above.above
        return False

    def _sorted(self, found: list[Item], *, anyway: bool = False) -> list[Item]:
        """As a list of OpenSMTPD: by kind and octets, each once."""
        if "many failures" not in self.quirks and not anyway:
            return found
        return sorted({(one.kind.value, one.octets): one for one in reversed(found)}.values(),
                      key=lambda one: (one.kind.value, one.octets))

    def _list(self, value: str) -> list[Item]:
        found: list[Item] = []
        for one in items(value, self.quirks):
            if isinstance(one, Bad):
                if "bad member" in self.quirks:
                    raise Failed(LIST_TEMP)
                one = Item(BAD, one.text, why=one.text)
            found.append(one)
        return found

    def _expanded(self, entry: tuple[str, str], above: Step) -> int:
        key, value = entry
        count = 0
        for one in self._sorted(self._list(value)):
            if one.kind is INCLUDE and "include" in self.quirks:
                count += self._included(one.text, above)
            else:
                self._insert([one], above, key)
                count += 1
        return count

    def _included(self, path: str, above: Step) -> int:
        """A file in a list, as OpenSMTPD reads it: 1, or 0 when it cannot be opened."""
        try:
            text = Path(path).read_text()
        except OSError:
            return 0
        for line in lines_of(text, continued="#", comment=""):
            for one in items(line, self.quirks):
                if isinstance(one, Bad):
                    break
                if one.kind is not INCLUDE:
                    self._insert([one], above)
        return 1

    # what a step becomes

    def _step(self, step: Step) -> None:
        if step.depth >= DEPTH_MAX:
            raise Failed(LIST_PERM, alone=True)
        if step.kind is ADDRESS:
            self._address(step)
        elif step.kind is USER:
            self._user(step)
        elif step.kind is INCLUDE:
            self._include(step)
        elif step.kind is BAD:
            raise Failed(LIST_TEMP, alone=True)
        else:
            self._program(step)

    def _address(self, step: Step) -> None:
        internal = step.above is not None or self.internal
        rule, unknown = self.book.decide(self.session, f"{step.user}@{step.domain}", internal, self.quirks & JUDGING)
        if rule is None:
            raise Failed(TEMP if unknown else PERM, alone=not unknown)
        if not rule.action:
            raise Failed(TEMP if "errno" in self.quirks else PERM, alone=True)
        action = step.action = self.book.config.actions[rule.action]
        if action.is_relay:
            self._end(step, "mta", "", "")
        elif action.virtual:
            self._virtual(step, action)
        else:
            self._insert([Item(USER, step.user.lower())], step)

    def _virtual(self, step: Step, action: Action) -> None:
        user, domain = step.user.lower(), step.domain.lower()
        bare, _, tag = user.partition("+")
        names = [f"{bare}+{tag}"] * bool(tag) + [bare]
        keys = [f"{name}@{domain}" for name in names] + names + [f"@{domain}", "@"]
        entry = self._first(action.virtual, keys)
        if entry is None or not self._expanded(entry, step):
            raise Failed(LIST_PERM, alone=True)

    def _first(self, table: str, keys: list[str]) -> tuple[str, str] | None:
        entries = self.book.tables[table]
        return next(((key, entries[key]) for key in keys if key in entries), None)

    def _aliased(self, step: Step, action: Action) -> bool:
        name = step.text.lower()
        bare, plus, tag = name.partition("+")
        names = [name] * bool(plus) + [bare]
        keys = names
        if action.virtual:
            names = [name] * bool(tag) + [bare]
            keys = [f"{one}@" for one in names] + names
        entry = self._first(action.alias or action.virtual, keys) if action.alias or action.virtual else None
        return entry is not None and self._expanded(entry, step) > 0

    def _user(self, step: Step) -> None:
        action = step.action
        assert action is not None
        direct = step.direct and "direct" not in self.quirks
        step.tag = self._tag(step)
        if not step.same and not direct and self._aliased(step, action):
            return
        name, _, _ = step.text.partition("+")
        entries = self.book.tables[action.userbase] if action.userbase else self.book.users
        info = entries.get(name.lower())
        if info is None:
            raise Failed(PERM, alone=True)
        step.text, step.octets = name, step.octets.replace(b"+", b"\0", 1)
        step.uid = int(info.split(":")[0])
        above = step.above
        known = step.same and above is not None and above.forwarded
        if known and "no delivery" in self.quirks:
            self._end(step, "mda", name, "")
        elif direct or known or (action.user and action.user != name):
            self._final(step, action)
        else:
            self._forward(step, action, info.split(":")[2])

    def _tag(self, step: Step) -> str:
        """bob in an entry of bob+tag is bob+tag, unless it is one for bob+tag alone."""
        _, _, tag = step.text.partition("+")
        if "tag case" not in self.quirks:
            tag = tag.lower()
        if tag or "tag kept" in self.quirks or step.above is None:
            return tag
        user, tag = step.stands_for()
        return tag if user == step.text and not step.key.partition("@")[0].partition("+")[2] else ""

    def _final(self, step: Step, action: Action) -> None:
        if action.method is Method.FORWARD_ONLY:
            raise Failed(LIST_TEMP)
        if action.method is Method.EXPAND_ONLY:
            raise Failed(LIST_PERM, alone=True)
        self._end(step, "mda", step.text, "")

    def _forward(self, step: Step, action: Action, home: str) -> None:
        try:
            content = Path(home, ".forward").read_bytes()
        except FileNotFoundError:
            return self._final(step, action)
        if len(content) >= FORWARD_MAX:
            raise Failed(LIST_TEMP)
        found: list[Item] = []
        for line in lines_of(content.decode(), continued="\\", comment="#"):
            for one in items(line, self.quirks):
                if isinstance(one, Bad):
                    raise Failed(LIST_TEMP)
                if one.kind is not INCLUDE:
                    found.append(one)
        if not found:
            return self._final(step, action)
        step.forwarded = True
        new = self._insert(found, step)
        if (len(self.queue) if "nodes" in self.quirks else len(found)) > NODES_MAX:
            raise Failed(LIST_TEMP)
        if not new and "forwarded" in self.quirks:
            self._final(step, action)
        return None

    def _include(self, step: Step) -> None:
        try:
            text = Path(step.text).read_text()
        except OSError:
            raise Failed(LIST_TEMP) from None
        found: list[Item] = []
        for line in text.split("\n"):
            if line.strip() and not line.strip().startswith("#"):
                for one in items(line, self.quirks):
                    bad = isinstance(one, Bad) or one.kind is INCLUDE
                    found.append(Item(BAD, one.text) if bad or isinstance(one, Bad) else one)
        self._insert(found, step, step.key)

    def _program(self, step: Step) -> None:
        action, above = step.action, step.above
        assert action is not None and above is not None
        if step.kind is not ERROR and above.uid == 0:
            raise Failed(TEMP)
        if action.method is Method.FORWARD_ONLY:
            raise Failed(TEMP)
        if step.kind is ERROR:
            raise Failed(step.text)
        step.tag = "" if "tag kept" in self.quirks else step.stands_for()[1]
        user = above.text if above.uid is not None else "nobody"
        self._end(step, "mda", user, step.text if step.kind is FILE else step.text.strip() and f"|{step.text.strip()}")

    def _end(self, step: Step, agent: str, user: str, command: str) -> None:
        assert step.action is not None
        end = (agent, step.dest.lower(), user, step.action.name, command, step.tag)
        # The case of a local part counts, that of the name of a host does not.
        once = (*end, step.address.user)
        if "two copies" in self.quirks or once not in self.delivered:
            self.ends.append(end)
        self.delivered.add(once)
