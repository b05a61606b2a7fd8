"""The back ends of the listeners that authenticate; those that are the same are one."""

from collections.abc import Callable, Sequence

from pysmtpd.conf.config import Listener
from pysmtpd.lookup import credentials
from pysmtpd.lookup.auth import Backend, TableBackend, Threads
from pysmtpd.lookup.auth_dovecot import DovecotBackend
from pysmtpd.lookup.auth_saslauthd import SaslauthdBackend
from pysmtpd.lookup.auth_system import Children, SystemBackend
from pysmtpd.lookup.table import Tables


def build(listeners: Sequence[Listener], tables: Tables, children: Children, random: Callable[[int], bytes],
          ) -> dict[int, Backend]:
    """Each listener's, by its number.  Called before the jail: it loads what comparing hashes needs."""
    made: dict[tuple[str, str], Backend] = {}
    threads = Threads()

    def make(listener: Listener) -> Backend:
        if listener.auth_backend == "dovecot":
            return DovecotBackend(listener.auth_path)
        if listener.auth_backend == "saslauthd":
            return SaslauthdBackend(listener.auth_path, random)
        if listener.auth_table:
            credentials.preload()
            return TableBackend(listener.auth_table, tables, threads, random)
        return SystemBackend(children, tables, random)

    found: dict[int, Backend] = {}
    for number, listener in enumerate(listeners):
        if listener.auth:
            key = listener.auth_backend, listener.auth_path or listener.auth_table
            if key not in made:
                made[key] = make(listener)
            found[number] = made[key]
    return found
