"""Static tables: all entries in memory, from smtpd.conf or from a file."""

from collections.abc import Callable, Iterable

from pysmtpd.lookup.match import BadPattern, ExactIndex, HostIndex, MailIndex, NetIndex, RegexIndex
from pysmtpd.lookup.service import Service, TableError

Find = Callable[[str], str | None]


class StaticTable:
    """Entries with values (of a list: empty ones).  Of equal keys the last one counts."""

    def __init__(self, name: str, backend: str = "static", delimiter: str = "+") -> None:
        self.name = name
        self.backend = backend
        self._delimiter = delimiter
        self.fill(())

    def fill(self, entries: Iterable[tuple[str, str]]) -> None:
        """Replace the content."""
        folded: dict[str, tuple[str, str]] = {}
        for key, value in entries:
            folded[key.lower()] = (key, value)
        self._values = dict(folded.values())
        self._order = sorted(key for key, _ in folded.values())
        self._finders: dict[Service, Find] = {}
        self._next = 0

    def match(self, service: Service, key: str) -> bool:
        """Whether an entry matches."""
        find = self._finders.get(service) or self._finder(service)
        return find(key) is not None

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry that matches; a list has none."""
        find = self._finders.get(service) or self._finder(service)
        entry = find(key)
        return None if entry is None else self._values[entry]

    def fetch(self, service: Service) -> str | None:
        """The next key in the order of their bytes, then from the first again."""
        if not self._order:
            return None
        self._next = self._next % len(self._order) + 1
        return self._order[self._next - 1]

    def values(self) -> list[str]:
        """All values, in no order."""
        return list(self._values.values())

    def bad_patterns(self) -> list[BadPattern]:
        """Regular expressions among the entries that can never match."""
        return RegexIndex(self._values).bad

    def _finder(self, service: Service) -> Find:
        """An index is made when the table is first asked in its way, and kept."""
        find = self._finders[service] = self._index(service)
        return find

    def _index(self, service: Service) -> Find:
        if service is Service.DOMAIN:
            return HostIndex(self._values).find
        if service is Service.NETADDR:
            return NetIndex(self._values).find
        if service is Service.MAILADDR:
            return MailIndex(self._values, self._delimiter).find
        if service is Service.REGEX:
            return RegexIndex(self._values).find
        return ExactIndex(self._values).find


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
