"""What smtpd.conf means: one frozen Config, and the view of it that each process gets.

Nothing here reads text.  The grammar makes a Config, check.py completes it, and ``view`` cuts out the
fields one process may know.  A field that may hold a secret has the type Secret, whose repr never shows it.
Times are whole seconds, sizes octets.
"""

import enum
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from pysmtpd.base.procs import PROCS, Proc
from pysmtpd.base.struct import Frozen, Wire

LOCALNAMES, LOCALHOST = "<localnames>", "<localhost>"
ALIAS_USER = "nobody"              # as whom commands and files of aliases are run and written


class Secret(Wire):
    """A value that is never shown."""

    value: str

    def __repr__(self) -> str:
        return "Secret(...)"

    __str__ = __repr__


class Position(Wire):
    """Where something stands; line and column count from 1."""

    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Tls(enum.StrEnum):
    """When a listener speaks TLS."""

    NO = "no"
    OFFERED = "tls"
    REQUIRED = "tls-require"
    SMTPS = "smtps"


class Shape(enum.StrEnum):
    """What a table holds.  DYNAMIC is known to its back end only."""

    LIST = "list"
    HASH = "hash"
    DYNAMIC = "dynamic"


class Table(Frozen):
    """A named set of keys, or of keys with values.  Built-in names start with ``<``."""

    name: str
    backend: str = "static"                 # static, file, getpwnam, db, sqlite, proc ...
    shape: Shape = Shape.LIST
    path: str = ""                          # file, db: where it is
    keys: tuple[str, ...] = ()              # static lists
    pairs: tuple[tuple[str, Secret], ...] = ()  # static mappings; a value may be a password
    at: Position = Position()


class TableProgram(Frozen):
    """The program behind a table: one at ``path``, or one that comes with the daemon."""

    table: str
    path: str = ""
    arguments: tuple[str, ...] = ()         # the first is its own name
    built_in: str = ""
    user: str = ""                          # empty: _smtpd
    group: str = ""
    chroot: str = ""
    at: Position = Position()


class Pki(Frozen):
    """A certificate and its key, by path; the files are opened by the parent."""

    name: str
    cert: str = ""
    key: str = ""
    dhe: str = "none"
    at: Position = Position()


class Ca(Frozen):
    """Certificates to verify a peer with."""

    name: str
    cert: str
    at: Position = Position()


# What EHLO offers by default and a listener may leave out, as ``no-KEYWORD``; no-dsn is the only one of OpenSMTPD's.
LEFT_OUT = ("pipelining", "8bitmime", "chunking", "binarymime", "smtputf8", "enhancedstatuscodes", "size", "limits",
            "help")
_NOTHING: frozenset[str] = frozenset()
_NO_DSN = frozenset({"DSN"})
_NEEDED: dict[str, tuple[str, ...]] = {"binarymime": ("chunking",), "smtputf8": ("8bitmime",)}


class Listener(Frozen):
    """One address and port, or the socket (``address`` is ``socket``)."""

    address: str
    port: int = 0
    hostname: str = ""
    hostnames: str = ""                     # table
    tag: str = ""
    tls: Tls = Tls.NO
    tls_verify: bool = False
    pki: tuple[str, ...] = ()
    ca: str = ""
    ciphers: str = ""
    curves: str = ""                        # ours
    protocols: str = ""
    auth: str = ""                          # "", "required" or "optional"
    auth_table: str = ""                    # empty: system users, or
    auth_backend: str = ""                  # ours: dovecot or saslauthd, at
    auth_path: str = ""
    senders: str = ""                       # table
    masquerade: bool = False
    filter: str = ""
    mask_src: bool = False
    no_dsn: bool = False
    without: tuple[str, ...] = ()           # ours: of LEFT_OUT
    received_auth: bool = False
    lmtp: bool = False                      # ours: speaks LMTP
    proxy_v2: bool = False
    proxy_from: str = ""                    # ours: table of proxies, which may speak version 1 too
    at: Position = Position()

    @property
    def lacking(self) -> frozenset[str]:
        """Keywords, in upper case, that EHLO does not offer: those left out, and those that need one of them
        (RFC 3030 3, RFC 6531 3.1)."""
        without = (*self.without, "chunking") if self.lmtp else self.without
        if not without:
            return _NO_DSN if self.no_dsn else _NOTHING
        gone = {*without, *(word for word, needs in _NEEDED.items() if {*needs} & {*without})}
        return frozenset(word.upper() for word in gone) | (_NO_DSN if self.no_dsn else _NOTHING)

    @property
    def is_socket(self) -> bool:
        return self.address == "socket"

    @property
    def is_local(self) -> bool:
        """Whether missing headers are completed as for a user's own mail."""
        return self.address in ("socket", "127.0.0.1", "::1")


EVERYWHERE = ("0.0.0.0", "::")


def within(listeners: Sequence[Listener]) -> dict[int, dict[str, int]]:
    """For each listener on all addresses, those for one address and the same port: their numbers, by address.

    The socket of all addresses cannot be beside them: it accepts for them."""
    found: dict[int, dict[str, int]] = {}
    for number, everywhere in enumerate(listeners):
        if everywhere.address in EVERYWHERE:
            found[number] = {}
            for other, one in enumerate(listeners):
                if one.port == everywhere.port and one.address not in ("socket", *EVERYWHERE) \
                        and (":" in one.address) is (":" in everywhere.address):
                    found[number].setdefault(one.address, other)
    return found


class Method(enum.StrEnum):
    """How an action delivers."""

    MBOX = "mbox"
    MAILDIR = "maildir"
    MDA = "mda"
    LMTP = "lmtp"
    FORWARD_ONLY = "forward-only"
    EXPAND_ONLY = "expand-only"
    RELAY = "relay"


def _within(bounds: tuple[int, int] | None, number: int) -> bool:
    return bounds is None or bounds[0] <= number <= bounds[1]


class Action(Frozen):
    """An ``action``: how accepted mail goes on.  Empty strings mean "not given"."""

    name: str
    method: Method
    ttl: int = 0                            # 0: queue ttl
    # local methods
    argument: str = ""                      # maildir path, mda command, lmtp destination
    junk: bool = False                      # maildir
    lmtp_rcpt_to: bool = False
    user: str = ""
    alias: str = ""                         # tables
    virtual: str = ""
    userbase: str = ""
    uids: tuple[int, int] | None = None     # from and to, of the userbase's users
    gids: tuple[int, int] | None = None
    wrapper: str = ""
    # relay
    host: str = ""                          # table of relay URLs
    domain: str = ""                        # table: recipient domain to relay URL
    backup: bool = False
    backup_mx: str = ""
    helo: str = ""
    helo_src: str = ""                      # tables
    src: str = ""
    mail_from: str = ""
    tls: str = ""                           # "", "verify" or "no-verify"
    pki: str = ""
    ca: str = ""
    ciphers: str = ""
    protocols: str = ""
    auth: str = ""                          # table
    filter: str = ""
    srs: bool = False
    at: Position = Position()

    @property
    def is_relay(self) -> bool:
        return self.method is Method.RELAY

    def bounds(self, uid: int, gid: int | None = None) -> bool:
        """Whether a user of the userbase may have these ids."""
        return _within(self.uids, uid) and (gid is None or _within(self.gids, gid))


class Criterion(Frozen):
    """One test of a rule.

    ``kind`` is tag, from, from-rdns, from-socket, for, helo, auth, tls, mail-from or rcpt-to; ``table``
    is empty where the kind needs none (``auth``, ``tls``, ``from rdns``, ``from socket``).
    """

    kind: str
    table: str = ""
    regex: bool = False
    negated: bool = False
    at: Position = Position()


class Rule(Frozen):
    """A ``match``: all its criteria must hold, in this order; the first rule that matches decides."""

    criteria: tuple[Criterion, ...]
    action: str = ""                        # empty: reject
    reply: str = ""                         # ours: of reject or tempfail, with format specifiers; empty: the usual one
    at: Position = Position()


class Expectation(Frozen):
    """A ``test``, ours: what the rules shall say about one recipient of one client."""

    sender: str                             # empty: the null reverse-path
    rcpt: str
    verdict: str                            # action, reject or tempfail
    text: str = ""                          # the action's name, or how the reply begins
    source: str = "local"                   # the client's address; local: the socket
    rdns: str = ""                          # its name, if it has one
    helo: str = ""
    username: str = ""                      # empty: not authenticated
    tls: bool = False
    tag: str = ""
    at: Position = Position()


class Processor(Frozen):
    """A ``proc``: a program that filters, or several filters."""

    name: str
    command: str
    user: str = ""                          # empty: _smtpd
    group: str = ""
    chroot: str = ""
    at: Position = Position()


class Filter(Frozen):
    """A ``filter``: one step of a program, a built-in test in one phase, or a chain of others.

    ``proc``, ``phase`` or ``chain`` says which of the three it is; the other two are empty.
    """

    name: str
    proc: str = ""
    chain: tuple[str, ...] = ()
    phase: str = ""                         # connect, helo, ehlo, auth, mail-from, rcpt-to, data, commit
    condition: Criterion | None = None      # kind is fcrdns, rdns, src, helo, auth, mail-from or rcpt-to
    verdict: str = ""                       # reject, disconnect, rewrite, report, junk, bypass
    text: str = ""                          # of the first four verdicts
    at: Position = Position()


class Limits(Frozen):
    """The limit directives, with OpenSMTPD's defaults."""

    smtp_max_rcpt: int = 1000
    smtp_max_mails: int = 100
    smtp_max_errors: int = 100              # ours, and what follows
    smtp_max_refused: int = 0
    smtp_max_commands: int = 1000
    smtp_error_delay: int = 1
    mda_max_session: int = 50
    mda_max_session_per_user: int = 7
    mda_task_hiwat: int = 50
    mda_task_lowat: int = 30
    mda_task_release: int = 10
    scheduler_max_inflight: int = 5000
    scheduler_max_schedule: int = 10
    scheduler_max_evp_batch: int = 256
    scheduler_max_msg_batch: int = 1024


class Rate(Frozen):
    """So many in so much time; none at all is no limit."""

    count: int = 0
    seconds: int = 60


class ClientLimits(Frozen):
    """Ours: what ``smtp limit`` says of a client's connections; 0 is no limit.  Each smtp process counts its own."""

    max_conn: int = 0                       # of all clients
    max_conn_per_client: int = 0
    conn_rate: Rate = Rate()
    auth_fail: Rate = Rate()
    exempt: str = ""                        # table of addresses and networks


class MtaLimits(Frozen):
    """``mta limit``: one set by default, and one for each domain that has its own."""

    max_conn_per_host: int = 10
    max_conn_per_route: int = 5
    max_conn_per_source: int = 100
    max_conn_per_connector: int = 20
    max_conn_per_relay: int = 100
    max_conn_per_domain: int = 100
    conn_delay_host: int = 0
    conn_delay_route: int = 5
    conn_delay_source: int = 0
    conn_delay_connector: int = 0
    conn_delay_relay: int = 2
    conn_delay_domain: int = 0
    reconn_delay_route: int = 3
    session_mail_max: int = 100
    session_transaction_delay: int = 0
    session_keepalive: int = 10
    max_failures_per_session: int = 25
    task_hiwat: int = 50
    task_lowat: int = 30
    task_release: int = 10
    family: str = ""                        # "", inet4 or inet6


class Config(Frozen):
    """All of smtpd.conf.  Order matters only in ``rules``."""

    hostname: str                           # the server's name
    listeners: tuple[Listener, ...] = ()
    tables: dict[str, Table] = {}
    actions: dict[str, Action] = {}
    rules: tuple[Rule, ...] = ()
    pkis: dict[str, Pki] = {}
    cas: dict[str, Ca] = {}
    limits: Limits = Limits()
    client_limits: ClientLimits = ClientLimits()
    mta_limits: dict[str, MtaLimits] = msgspec.field(default_factory=lambda: {"": MtaLimits()})  # by domain
    wrappers: dict[str, str] = {}
    processors: dict[str, Processor] = {}
    table_programs: dict[str, TableProgram] = {}  # by table
    filters: dict[str, Filter] = {}
    queue_ttl: int = 4 * 86400
    queue_compression: bool = False
    queue_encryption: bool = False
    queue_key: Secret | None = None         # None: asked for at the start
    queue_key_stdin: bool = False           # read from standard input at the start
    warn_intervals: tuple[int, ...] = (4 * 3600,)
    max_message_size: int = 35 * 1024 * 1024
    max_deferred: int = 100
    sub_addr_delim: str = "+"               # any of these characters
    smtp_ciphers: str = ""
    normalize_newlines: bool = False        # ours: bare CR and LF, and NUL, of messages; otherwise refused
    xclient_from: str = ""                  # ours: tables of proxies that may say XCLIENT, and XFORWARD
    xforward_from: str = ""
    smtp_workers: int = 1                   # ours: processes that share the listeners
    srs_key: Secret | None = None
    srs_backup: Secret | None = None
    srs_ttl: int = 4
    expectations: tuple[Expectation, ...] = ()  # ours: the tests
    resolvers: tuple[str, ...] = ()         # ours: address or address:port, [v6]:port
    admd: str = ""                          # empty: not said, the server's name then
    log_format: str = "text"                # ours: text or json
    log_destination: str = "syslog"         # ours: syslog, stderr or file
    log_file: str = ""
    user: str = ""                          # without root: the one user there is
    state_dir: str = ""                     # without root: where the spool is


def local_keys(hostname: str, addresses: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What is in the built-in tables behind ``local``, when these are the addresses of this machine."""
    bare = [address.partition("%")[0] for address in addresses]
    texts = [f"[{address}]" if ":" in address else address for address in bare]
    names = [name for name in ("localhost", hostname, hostname.partition(".")[0]) if name]
    return {LOCALNAMES: tuple(dict.fromkeys([*names, *texts])), LOCALHOST: tuple(dict.fromkeys(["local", *texts]))}


def spool_name(name: str) -> str:
    """A key that file systems and tables agree on."""
    return name.lower()


# Which fields of Config a process gets.  What is not named here stays at its default in the view.
VIEWS: dict[Proc, frozenset[str]] = {
    Proc.PARENT: frozenset({"listeners", "smtp_workers", "actions", "pkis", "cas", "limits", "table_programs"}),
    Proc.CONTROL: frozenset(),
    Proc.LKA: frozenset({"tables", "actions", "rules", "sub_addr_delim", "srs_key", "srs_backup", "srs_ttl",
                         "resolvers", "queue_ttl", "listeners"}),
    Proc.QUEUE: frozenset({"actions", "queue_ttl", "queue_compression", "queue_key", "warn_intervals"}),
    Proc.SCHEDULER: frozenset({"limits", "warn_intervals"}),
    Proc.SMTP: frozenset({"listeners", "pkis", "cas", "limits", "client_limits", "max_message_size", "smtp_ciphers",
                          "xclient_from", "xforward_from", "normalize_newlines", "admd"}),
    Proc.MTA: frozenset({"actions", "pkis", "cas", "mta_limits", "max_deferred", "smtp_ciphers"}),
    Proc.MDA: frozenset({"actions", "limits", "wrappers", "sub_addr_delim"}),
}
_EVERYONE = frozenset({"hostname", "user", "state_dir", "log_format", "log_destination", "log_file"})


def view(config: Config, proc: Proc) -> Config:
    """Only what ``proc`` uses; everything else is at its default."""
    fields = VIEWS[proc] | _EVERYONE
    kept: dict[str, Any] = {name: getattr(config, name) for name in Config.__struct_fields__ if name in fields}
    return Config(**kept)


def encode(config: Config) -> bytes:
    """For the socket to the process that gets this view, and for nothing else."""
    return msgspec.msgpack.encode(config)


def decode(data: bytes) -> Config:
    """Raises msgspec.ValidationError for anything that encode() did not make."""
    return msgspec.msgpack.decode(data, type=Config)


assert VIEWS.keys() <= PROCS.keys()
