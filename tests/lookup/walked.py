"""What becomes of a recipient, by the book: a second implementation in plain Python, of OpenSMTPD 7.8 and of this.

The two are one walk with a switch for each difference that docs/differences.md has a row for.  With all switches on
it has to give OpenSMTPD's verdict, with all off ours: a defect on either side is a verdict that was not foretold, and
which rows explain a difference is found by turning the switches off one after the other.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pysmtpd.conf.config import Action, Config, Method
from tests.lookup.judging import Session, Tests
from tests.lookup.ordered import Ordered
from tests.lookup.written import ADDRESS, BAD, COMMAND, ERROR, FILE, INCLUDE, USER, Bad, Item, items, lines_of

Verdict = tuple[str, list[tuple[str, ...]]]

# Switches, in the order in which they are turned off, and the rows of docs/differences.md, as they begin.
ROWS = {
    "tls": "| `match tls` is always a temporary failure |",
    "rdns": "| `from rdns <t>` compares for equality |",
    "star": "| `*` in a pattern is about one label, ",
    "everybody": "| an address entry `@` matches everybody |",
    "regex": "| regular expressions are put into lower case, ",
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
    "case": "| a member `BOB` is another user than `bob`, ",
    "two copies": "| a user that two members lead to may get two copies |",
}
ALL = frozenset(ROWS)

PERM, TEMP = "550 Invalid recipient", "451 Temporary failure"
LIST_PERM, LIST_TEMP = "524 5.2.4 Mailing list expansion problem", "424 4.2.4 Mailing list expansion problem"
DEPTH_MAX = 10
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

    def __init__(self, item: Item, above: "Step | None") -> None:
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
        self.octets = item.octets

    @property
    def dest(self) -> str:
        return f"{self.address.user}@{self.address.domain}"

    def identity(self) -> tuple[object, ...]:
        """Ours: equal for those that would become the same."""
        program = self.kind in (COMMAND, FILE)
        owner = self.above.text if program and self.above is not None and self.above.forwarded else ""
        action = self.action.name if self.action is not None and self.kind is not ADDRESS else ""
        return (self.kind, self.text, self.address.user, self.address.domain.lower(), action, owner, self.direct,
                self.same, self.above is None)


def read_tables(config: Config) -> dict[str, dict[str, str]]:
    """The entries of each table, by key."""
    found: dict[str, dict[str, str]] = {}
    for table in config.tables.values():
        pairs = [*((key, "") for key in table.keys), *((key, value.value) for key, value in table.pairs)]
        if table.backend == "file":
            pairs = list(_read_file(Path(table.path).read_text()))
        found[table.name] = {key.lower(): value for key, value in pairs}
    return found


def _read_file(text: str) -> Iterator[tuple[str, str]]:
    mapping: bool | None = None
    for line in map(str.strip, text.split("\n")):
        if not line or line.startswith("#"):
            continue
        key, value = [*re.split(r"[ \t:]+", line, maxsplit=1), ""][:2]
        mapping = bool(value) if mapping is None else mapping
        yield (key, value) if mapping else (line, "")


def rows_between(book: "Book", session: Session, rcpt: str) -> list[str]:
    """Which switches make the difference between OpenSMTPD's verdict and ours."""
    on, rows, verdict = set(ALL), [], book.walk(session, rcpt, ALL)
    for switch in ROWS:
        on.remove(switch)
        if (other := book.walk(session, rcpt, frozenset(on))) != verdict:
            rows.append(switch)
            verdict = other
    return rows


class Book:
    """The rules and tables of one configuration."""

    def __init__(self, config: Config, tables: dict[str, dict[str, str]], users: dict[str, str],
                 reverse: Callable[[str, frozenset[str]], str] | None = None) -> None:
        """reverse: whom a rewritten address stands for, or the same."""
        self.config = config
        self.tables = tables
        self.users = users
        self.reverse = reverse

    def walk(self, session: Session, rcpt: str, quirks: frozenset[str]) -> Verdict:
        walk = _Walk(self, session, rcpt, quirks)
        try:
            return walk.all()
        except Failed as failed:
            return f"{failed.reply}: <{rcpt}>", []


class _Walk:
    def __init__(self, book: Book, session: Session, rcpt: str, quirks: frozenset[str]) -> None:
        self.book, self.session, self.quirks = book, session, quirks
        self.internal = False
        user, _, domain = rcpt.rpartition("@")
        if book.reverse is not None and not session.sender and user[:5].upper() in ("SRS0=", "SRS1="):
            found = book.reverse(rcpt, quirks)
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

    def _insert(self, found: list[Item], above: Step) -> int:
        """How many of them are new."""
        new = 0
        for item in found:
            step = Step(item, above)
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

    def _expanded(self, found: list[Item], above: Step) -> int:
        count = 0
        for one in found:
            if one.kind is INCLUDE and "include" in self.quirks:
                count += self._included(one.text, above)
            else:
                self._insert([one], above)
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
        tests = Tests(self.session, f"{step.user}@{step.domain}", internal, self.book.tables, self.quirks)
        rule = tests.first(self.book.config.rules)
        if rule is None:
            raise Failed(TEMP if tests.unknown else PERM, alone=not tests.unknown)
        if not rule.action:
            raise Failed(PERM, alone=True)
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
        value = self._first(action.virtual, keys)
        if value is None or not self._expanded(self._sorted(self._list(value)), step):
            raise Failed(LIST_PERM, alone=True)

    def _first(self, table: str, keys: list[str]) -> str | None:
        entries = self.book.tables[table]
        return next((entries[key] for key in keys if key in entries), None)

    def _aliased(self, step: Step, action: Action) -> bool:
        name = step.text.lower()
        bare, plus, tag = name.partition("+")
        names = [name] * bool(plus) + [bare]
        keys = names
        if action.virtual:
            names = [name] * bool(tag) + [bare]
            keys = [f"{one}@" for one in names] + names
        value = self._first(action.alias or action.virtual, keys) if action.alias or action.virtual else None
        return value is not None and self._expanded(self._sorted(self._list(value)), step) > 0

    def _user(self, step: Step) -> None:
        action = step.action
        assert action is not None
        direct = step.direct and "direct" not in self.quirks
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
        self._insert(found, step)

    def _program(self, step: Step) -> None:
        action, above = step.action, step.above
        assert action is not None and above is not None
        if step.kind is not ERROR and above.uid == 0:
            raise Failed(TEMP)
        if action.method is Method.FORWARD_ONLY:
            raise Failed(TEMP)
        if step.kind is ERROR:
            raise Failed(step.text)
        user = above.text if above.uid is not None else "nobody"
        self._end(step, "mda", user, step.text if step.kind is FILE else step.text.strip() and f"|{step.text.strip()}")

    def _end(self, step: Step, agent: str, user: str, command: str) -> None:
        assert step.action is not None
        end = (agent, step.dest.lower(), user, step.action.name, command)
        # The case of a local part counts, that of the name of a host does not.
        once = (*end, step.address.user)
        if "two copies" in self.quirks or once not in self.delivered:
            self.ends.append(end)
        self.delivered.add(once)
