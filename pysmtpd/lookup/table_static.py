"""Static tables: all entries in memory, from smtpd.conf or from a file."""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property

from pysmtpd.lookup.match import BadPattern, ExactIndex, HostIndex, MailIndex, NetIndex, RegexIndex
from pysmtpd.lookup.service import Service, TableError

Find = Callable[[str], str | None]


class Held:
    """Entries and their indexes, which never change; an index is made when a table is first asked in its way."""

    def __init__(self, entries: Iterable[tuple[str, str]], lines: Sequence[int], delimiter: str) -> None:
        """Of keys that differ in nothing but case the last one counts."""
        folded: dict[str, tuple[str, str, int]] = {}
        for number, (key, value) in enumerate(entries):
            folded[key.lower()] = (key, value, lines[number] if lines else 0)
        self.values = {key: value for key, value, _ in folded.values()}
        self.lines = array("I", (line for _, _, line in folded.values())) if lines else array("I")
        self.finders: dict[Service, Find] = {}
        self._delimiter = delimiter

    @cached_property
    def order(self) -> list[str]:
        """All keys, in the order of their bytes."""
        return sorted(self.values)

    def finder(self, service: Service) -> Find:
        """What finds the entry that a key matches."""
        find = self.finders.get(service)
        if find is None:
            find = self.finders[service] = self._index(service)
        return find

    def _index(self, service: Service) -> Find:
        if service is Service.DOMAIN:
            return HostIndex(self.values).find
        if service is Service.NETADDR:
            return NetIndex(self.values).find
        if service is Service.MAILADDR:
            return MailIndex(self.values, self._delimiter).find
        if service is Service.REGEX:
            return RegexIndex(self.values).find
        return ExactIndex(self.values).find


class StaticTable:
    """Entries with values (of a list: empty ones)."""

    def __init__(self, name: str, backend: str = "static", delimiter: str = "+", at: str = "") -> None:
        """at: where it is declared."""
        self.name = name
        self.backend = backend
        self._at = at
        self._delimiter = delimiter
        self._next = 0
        self._held = Held((), (), delimiter)

    def fill(self, entries: Iterable[tuple[str, str]]) -> None:
        """Replace the content."""
        self.install(self.prepare(entries))

    def prepare(self, entries: Iterable[tuple[str, str]], lines: Sequence[int] = ()) -> Held:
        """Content to be installed, with the indexes that were in use so far.  Changes nothing, so that a thread may."""
        held = Held(entries, lines, self._delimiter)
        for service in tuple(self._held.finders):
            held.finder(service)
        return held

    def install(self, held: Held) -> None:
        """From now on this is the content."""
        self._held = held

    @property
    def entries(self) -> Mapping[str, str]:
        """All of them; another object whenever the content is another."""
        return self._held.values

    def match(self, service: Service, key: str) -> bool:
        """Whether an entry matches."""
        held = self._held
        find = held.finders.get(service) or held.finder(service)
        return find(key) is not None

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry that matches; a list has none."""
        held = self._held
        find = held.finders.get(service) or held.finder(service)
        entry = find(key)
        return None if entry is None else held.values[entry]

    def fetch(self, service: Service) -> str | None:
        """The next key in the order of their bytes, then from the first again."""
        order = self._held.order
        if not order:
            return None
        self._next = self._next % len(order) + 1
        return order[self._next - 1]

    def values(self) -> list[str]:
        """All values, in no order."""
        return list(self._held.values.values())

    def where(self, key: str) -> str:
        """The place of the entry with this key, for those who ask why; as slow as the table is long."""
        return self._at

    def line(self, key: str) -> int:
        """The line of the entry with this key, 0 when it has none."""
        if self._held.lines:
            folded = key.lower()
            for entry, line in zip(self._held.values, self._held.lines, strict=True):
                if entry.lower() == folded:
                    return line
        return 0

    def bad_patterns(self) -> list[BadPattern]:
        """Regular expressions among the entries that can never match."""
        return RegexIndex(self._held.values).bad


class UnknownTable:
    """A table whose back end is not there: every look-up fails for now, none is ever answered wrongly."""

    def __init__(self, name: str, backend: str, why: str = "") -> None:
        self.name = name
        self.backend = backend
        self._why = why or f"table {name}: backend {backend} does not exist"

    def match(self, service: Service, key: str) -> bool:
        raise self._error()

    def lookup(self, service: Service, key: str) -> str | None:
        raise self._error()

    def fetch(self, service: Service) -> str | None:
        raise self._error()

    def _error(self) -> TableError:
        return TableError(self._why)
