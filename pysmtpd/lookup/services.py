"""What mta looks up in tables: where to relay, from which address, under which name, as whom."""

from binascii import b2a_base64

from pysmtpd.lookup.match import parse_address
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.records import address_of, is_hostname
from pysmtpd.lookup.table import Service, TableError, Tables

VALUE_MAX = 1024                   # characters, as of messages.MtaLookedUp


def look_up(tables: Tables, service: str, table: str, key: str, memo: Memo | None = None) -> str | None:
    """The value for mta, checked; None when there is none.  Raises TableError, also for a value that is wrong, and
    Pending when a slow table has to be asked first."""
    value = _SERVICES[service](tables, table, key, memo)
    if value is not None and (len(value) > VALUE_MAX or not value.isprintable()):
        raise TableError(f"table {table}: value for {key or 'the next entry'} is not one short line")
    return value


def _relayhost(tables: Tables, table: str, key: str, memo: Memo | None) -> str | None:
    if not key:
        return tables.fetch(table, Service.RELAYHOST, memo)
    return tables.lookup(table, Service.RELAYHOST, key, memo)


def _source(tables: Tables, table: str, _key: str, memo: Memo | None) -> str | None:
    value = tables.fetch(table, Service.SOURCE, memo)
    if value is None:
        return None
    address = address_of(value)
    if address is None:
        raise TableError(f"table {table}: {value} is no address")
    return address


def _addrname(tables: Tables, table: str, key: str, memo: Memo | None) -> str | None:
    bare = key.strip("[]")
    for spelling in (f"[{bare}]", bare) if ":" in bare else (bare,):
        value = tables.lookup(table, Service.ADDRNAME, spelling, memo)
        if value is not None:
            if not is_hostname(value) and parse_address(value) is None:
                raise TableError(f"table {table}: {value} is no host name")
            return value
    return None


def _netaddr(tables: Tables, table: str, key: str, memo: Memo | None) -> str | None:
    """Nothing but whether the address is in one of its networks."""
    return "" if tables.match(table, Service.NETADDR, key, memo) else None


def _credentials(tables: Tables, table: str, key: str, memo: Memo | None) -> str | None:
    """What AUTH PLAIN says (RFC 4616): base64 of NUL user NUL password.

    The table has ``user:password``; a value without a colon is the password of the user named like the key."""
    value = tables.lookup(table, Service.CREDENTIALS, key, memo)
    if value is None:
        return None
    user, _, password = value.partition(":") if ":" in value else (key.lower(), ":", value)
    if len(value) < 3 or not user or not password:
        raise TableError(f"table {table}: the credentials of {key} are incomplete")
    if not value.isprintable():
        raise TableError(f"table {table}: the credentials of {key} are not one line")
    return b2a_base64(f"\0{user}\0{password}".encode(), newline=False).decode()


_SERVICES = {"relayhost": _relayhost, "source": _source, "addrname": _addrname, "credentials": _credentials,
             "netaddr": _netaddr}
SERVICES = frozenset(_SERVICES)
