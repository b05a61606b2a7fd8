"""Tables whose back end answers exact keys at once and can list all of them: files with an index on disk.

Aliases, credentials and users are asked for by their exact keys, however many there are.  What rules compare in other
ways (domains, networks, addresses, expressions) is read once, as long as the content is the same.
"""

from collections.abc import Hashable, Iterable, Iterator

from pysmtpd.lookup.service import Service
from pysmtpd.lookup.table_static import Held, StaticTable

COMPARED = frozenset({Service.DOMAIN, Service.NETADDR, Service.MAILADDR, Service.REGEX})


class KeyedTable:
    """The base of such tables.  Subclasses define get, entries and version, each of which may raise TableError."""

    def __init__(self, name: str, backend: str, delimiter: str = "+") -> None:
        self.name = name
        self.backend = backend
        self._delimiter = delimiter
        self._compared: frozenset[Service] = frozenset()   # in which ways it is asked
        self._read = StaticTable(name, backend, delimiter)
        self._read_state: tuple[Hashable, frozenset[Service]] = (None, frozenset())

    # for subclasses to define

    def get(self, key: str) -> str | None:
        """The value of a key in lower case."""
        raise NotImplementedError

    def entries(self) -> Iterator[tuple[str, str]]:
        """All keys and values."""
        raise NotImplementedError

    def version(self) -> Hashable:
        """Something else whenever the content is."""
        raise NotImplementedError

    def may_read(self, version: Hashable) -> None:
        """All of it would be read now.  Raises TableError if that takes too long, and has it read by a thread."""

    # as every table

    def match(self, service: Service, key: str) -> bool:
        """Whether an entry matches."""
        return self._all(service).match(service, key) if service in COMPARED else self.get(key) is not None

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry that matches."""
        return self._all(service).lookup(service, key) if service in COMPARED else self.get(key)

    def fetch(self, service: Service) -> str | None:
        """The next key in the order of their bytes, then from the first again."""
        return self._all(service).fetch(service)

    def expect(self, service: Service) -> None:
        """It will be asked so.  Takes as long as it takes.  Raises TableError."""
        if service in COMPARED:
            self._compared |= {service}
            version = self.version()
            if self._read_state != (version, self._compared & COMPARED):
                self.hold(version, self.held(self.entries()))

    def held(self, entries: Iterable[tuple[str, str]]) -> Held:
        """All entries, with what finds them in the ways that the table is asked; changes nothing."""
        held = Held(entries, (), self._delimiter)
        for service in self._compared & COMPARED:
            held.finder(service)
        return held

    def hold(self, version: Hashable, held: Held) -> None:
        """These are all entries of that version."""
        self._read.install(held)
        self._read_state = (version, frozenset(held.finders))

    def _all(self, service: Service) -> StaticTable:
        version = self.version()
        held, finders = self._read_state
        if version != held or (service not in finders and service in COMPARED):
            self._compared |= {service}
            self.may_read(version)
            self.hold(version, self.held(self.entries()))
        return self._read
