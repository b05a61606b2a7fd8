"""The DNS: queries, their cache, and which name servers are asked.  The only module that knows dnspython.

Whatever goes wrong on the way to an answer (a time-out, SERVFAIL, REFUSED, nonsense) is temporary; only what an
answer says is permanent.  Names are absolute: there is no search list.
"""

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterable, Sequence

import dns.asyncbackend
import dns.asyncquery
import dns.asyncresolver
import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.rdatatype
import dns.rdtypes.ANY.MX
import dns.rdtypes.ANY.PTR
import dns.resolver
import idna

from pysmtpd.lookup.hosts import HostsFile, Watched
from pysmtpd.lookup.records import Records, Status, is_hostname

RESOLV_CONF = "/etc/resolv.conf"
QUERY_TIMEOUT = 5.0                # seconds for one question to one server
TOTAL_TIMEOUT = 20.0               # for all attempts
CACHE_MAX = 10_000
TTL_MAX = 86_400
NEGATIVE_TTL_MAX = 900
FAILURE_TTL = 5                    # a failure is not asked for again at once
QUERIES_MAX = 256                  # sockets at a time
RECORDS_MAX = 256                  # of one answer

_LOOPBACK = ("127.0.0.1", "::1")


def preload() -> None:
    """Import everything dnspython would import when it is first needed: later nothing may be importable.

    Its record types are found by name; one that cannot be imported would silently become opaque."""
    dns.rdata.load_all_types()  # type: ignore[no-untyped-call]
    dns.asyncbackend.get_backend("asyncio")
    idna.encode("bücher.example", uts46=True)


class NameServers:
    """Whom to ask: the addresses of the configuration, or those of resolv.conf as it is now."""

    def __init__(self, configured: Sequence[str], clock: Callable[[], float], path: str = RESOLV_CONF) -> None:
        self._file = None if configured else Watched(path, clock)
        self._resolver = _resolver([_server(text) for text in configured])

    def resolver(self) -> dns.asyncresolver.Resolver:
        """A resolver for these servers."""
        if self._file is not None and self._file.changed():
            self._resolver = _resolver([(address, 53) for address in nameservers_of(self._file.read())])
        return self._resolver


def nameservers_of(text: str) -> list[str]:
    """The servers of a resolv.conf(5); this machine's own when it names none."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver" and dns.inet.is_address(words[1]):
            found.append(words[1])
    return found[:3] or ["127.0.0.1"]


def _server(text: str) -> tuple[str, int]:
    """``addr``, ``addr:port`` or ``[addr]:port``; the grammar has checked it."""
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        return address, int(port[1:]) if port else 53
    if text.count(":") == 1:
        address, _, port = text.partition(":")
        return address, int(port)
    return text, 53


def _resolver(servers: Iterable[tuple[str, int]]) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in servers]
    resolver.timeout = QUERY_TIMEOUT
    resolver.lifetime = TOTAL_TIMEOUT
    resolver.cache = None
    return resolver


class Resolver:
    """Answers queries from its cache, or by asking; equal queries at the same time are asked once."""

    def __init__(self, servers: NameServers, hosts: HostsFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._servers = servers
        self._hosts = hosts
        self._clock = clock
        self._cache: dict[tuple[str, str], tuple[float, Records]] = {}
        self._asking: dict[tuple[str, str], asyncio.Task[Records]] = {}
        self._room = asyncio.Semaphore(QUERIES_MAX)

    async def query(self, name: str, kind: str) -> Records:
        """See records.Dns."""
        key = (name.lower().rstrip("."), kind)
        kept = self._cache.get(key)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.get_running_loop().create_task(self._fill(key))
            task.add_done_callback(_seen)
        # Shielded: one who gives up must not end the query of the others.
        return await asyncio.shield(task)

    async def addresses(self, name: str) -> Records:
        """See records.Dns."""
        host = name.lower().rstrip(".")
        known = self._hosts.hosts().addresses.get(host)
        if known is not None:
            return Records(Status.FOUND, tuple(known))
        if host == "localhost" or host.endswith(".localhost"):
            return Records(Status.FOUND, _LOOPBACK)   # RFC 6761 6.3
        v6, v4 = await asyncio.gather(self.query(host, "AAAA"), self.query(host, "A"))
        return _both(v6, v4)

    async def reverse(self, address: str) -> Records:
        """The names of an address, /etc/hosts first."""
        name = self._hosts.hosts().name(address)
        if name is not None:
            return Records(Status.FOUND, (name,))
        return await self.query(ipaddress.ip_address(address).reverse_pointer, "PTR")

    async def _fill(self, key: tuple[str, str]) -> Records:
        try:
            records, ttl = await self._ask(*key)
        finally:
            del self._asking[key]
        self._cache.pop(key, None)
        if ttl > 0:
            if len(self._cache) >= CACHE_MAX:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (self._clock() + ttl, records)
        return records

    async def _ask(self, name: str, kind: str) -> tuple[Records, float]:
        """Records, and for how many seconds they hold."""
        question = question_of(name)
        if question is None:
            return Records(Status.INVALID), TTL_MAX
        try:
            async with asyncio.timeout(TOTAL_TIMEOUT), self._room:
                answer = await self._servers.resolver().resolve(
                    question, kind, search=False, raise_on_no_answer=False, lifetime=TOTAL_TIMEOUT)
        except dns.resolver.NXDOMAIN as error:
            return Records(Status.NXDOMAIN), _negative_ttl(error, question)
        except (TimeoutError, dns.exception.Timeout):
            return _failure(f"{kind} {name}: no answer within {TOTAL_TIMEOUT:.0f} s")
        except dns.resolver.NoNameservers as error:
            return _failure(f"{kind} {name}: {_reason(error)}")
        except (dns.exception.DNSException, OSError, EOFError) as error:
            return _failure(f"{kind} {name}: {type(error).__name__}")
        if answer.rrset is None:
            return Records(Status.NODATA), min(answer.chaining_result.minimum_ttl, NEGATIVE_TTL_MAX)
        records = _records(list(answer.rrset)[:RECORDS_MAX], kind)
        return records, min(answer.chaining_result.minimum_ttl, TTL_MAX)


def question_of(name: str) -> dns.name.Name | None:
    """The absolute name to ask for, with IDNA (UTS 46) for labels that need it; None for one that cannot be."""
    try:
        labels = [label.encode() if label.isascii() else idna.encode(label, uts46=True) for label in name.split(".")]
        return dns.name.Name([*labels, b""])
    except (idna.IDNAError, UnicodeError, dns.exception.DNSException):
        return None


def _seen(task: asyncio.Task[Records]) -> None:
    """Whoever waits is told of a bug; if nobody does, it must not be reported as nobody's."""
    if not task.cancelled():
        task.exception()


def _failure(text: str) -> tuple[Records, float]:
    return Records(Status.TEMPFAIL, text=text), FAILURE_TTL


def _reason(error: dns.resolver.NoNameservers) -> str:
    """What the last server said, without what a stranger could put into it."""
    errors = error.kwargs.get("errors") or []
    last = errors[-1][3] if errors else "no name server"
    return last if isinstance(last, str) else type(last).__name__


def _negative_ttl(error: dns.resolver.NXDOMAIN, question: dns.name.Name) -> float:
    try:
        response: dns.message.QueryMessage = error.response(question)  # type: ignore[no-untyped-call]
        return min(response.resolve_chaining().minimum_ttl, NEGATIVE_TTL_MAX)
    except (KeyError, dns.exception.DNSException):
        return FAILURE_TTL


def _records(rdatas: Sequence[dns.rdata.Rdata], kind: str) -> Records:
    if kind == "MX":
        exchanges = [(rdata.preference, _name(rdata.exchange)) for rdata in rdatas
                     if isinstance(rdata, dns.rdtypes.ANY.MX.MX)]
        return Records(Status.FOUND, exchanges=tuple((number, name) for number, name in exchanges if name is not None))
    if kind == "PTR":
        names = [_name(rdata.target) for rdata in rdatas if isinstance(rdata, dns.rdtypes.ANY.PTR.PTR)]
        return Records(Status.FOUND, tuple(name for name in names if name))
    return Records(Status.FOUND, tuple(rdata.to_text() for rdata in rdatas))


def _name(name: dns.name.Name) -> str | None:
    """A name as text; "" for the root, None for what cannot be the name of a host."""
    try:
        text = b".".join(name.labels).decode("ascii").removesuffix(".")
    except UnicodeDecodeError:
        return None
    return text if not text or is_hostname(text) else None


def _both(v6: Records, v4: Records) -> Records:
    """One answer of two: what was found counts, then a failure, then that the name exists."""
    if v6.values or v4.values:
        return Records(Status.FOUND, v6.values + v4.values)
    for status in (Status.TEMPFAIL, Status.INVALID, Status.NXDOMAIN):
        for records in (v4, v6):
            if records.status is status:
                return records
    return Records(Status.NODATA)
