"""Questions to lka whether a table has an address: of clients that have no session yet."""

from collections.abc import Callable

from pysmtpd.messages import Found, SmtpLookup
from pysmtpd.privsep.mproc import Peer

LOOKUPS_MAX = 4096                 # that are out at once


class Lookups:
    """Those that are out."""

    def __init__(self, lka: Peer, new_id: Callable[[], int]) -> None:
        self._lka = lka
        self._new_id = new_id
        self._then: dict[int, Callable[[Found], None]] = {}

    @property
    def full(self) -> bool:
        """Whether there are too many; then none may be asked."""
        return len(self._then) >= LOOKUPS_MAX

    def ask(self, table: str, address: str, then: Callable[[Found], None]) -> None:
        """Whether a table has this address."""
        reqid = self._new_id()
        self._then[reqid] = then
        self._lka.send(SmtpLookup(reqid, "netaddr", table, address))

    def answered(self, reqid: int, found: Found) -> bool:
        """An answer came; False when the question was none of these."""
        then = self._then.pop(reqid, None)
        if then is not None:
            then(found)
        return then is not None
