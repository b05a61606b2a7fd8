"""Tables whose back end answers exact keys at once and can list all of them: files with an index on disk.

Aliases, credentials and users are asked for by their exact keys, however many there are.  What rules compare in other
ways (domains, networks, addresses, expressions) is read once, as long as the content is the same.
"""

from collections.abc import Hashable, Iterator

from pysmtpd.lookup.service import Service
from pysmtpd.lookup.table_static import StaticTable

COMPARED = frozenset({Service.DOMAIN, Service.NETADDR, Service.MAILADDR, Service.REGEX})


class KeyedTable:
    """The base of such tables.  Subclasses define get, entries and version, each of which may raise TableError."""

    def __init__(self, name: str, backend: str, delimiter: str = "+") -> None:
        self.name = name
        self.backend = backend
        self._read = StaticTable(name, backend, delimiter)
        self._read_version: Hashable = None

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

    # as every table

    def match(self, service: Service, key: str) -> bool:
        """Whether an entry matches."""
        return self._all().match(service, key) if service in COMPARED else self.get(key) is not None

    def lookup(self, service: Service, key: str) -> str | None:
        """The value of the entry that matches."""
        return self._all().lookup(service, key) if service in COMPARED else self.get(key)

    def fetch(self, service: Service) -> str | None:
        """The next key in the order of their bytes, then from the first again."""
        return self._all().fetch(service)

    def _all(self) -> StaticTable:
        version = self.version()
        if version != self._read_version:
            self._read.fill(self.entries())
            self._read_version = version
        return self._read
