"""From what was said to what holds: names are looked up, files judged, defaults filled in."""

from collections.abc import Mapping

from pysmtpd.base.struct import replace
from pysmtpd.conf.config import ClientLimits, Config, Limits, MtaLimits, Shape, Table, local_keys
from pysmtpd.conf.diagnostic import about, did_you_mean, shown
from pysmtpd.conf.draft import Draft, FileUse
from pysmtpd.conf.files import Files
from pysmtpd.conf.grammar_match import ANYDESTINATION, ANYHOST
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.listeners import Listeners
from pysmtpd.conf.source import Source
from pysmtpd.conf.table_programs import TablePrograms
from pysmtpd.maps import bdb, cdb
from pysmtpd.maps.text import LOOK_MAX, look

GETPWNAM = "<getpwnam>"
MODE_MAX = {"cert": 0o755, "ca": 0o755, "key": 0o740}
MODE_GOOD = {"cert": "0644", "ca": "0644", "key": "0600"}


class Check:
    """Completes a draft.  What is wrong goes to its errors, and then the Config is of no use."""

    def __init__(self, draft: Draft, source: Source, user: str, state_dir: str) -> None:
        """user: without root the one user there is; else empty."""
        self._draft = draft
        self._source = source
        self._user = user
        self._state_dir = state_dir

    def config(self) -> Config:
        """The whole configuration."""
        draft = self._draft
        hostname = self._hostname()
        self._outside_tables()
        self._references()
        self._shapes()
        self._pkis()
        Files(draft, self._source, self._user).check(self._files())
        self._users()
        self._chains()
        self._srs()
        listeners = Listeners(draft, self._source, hostname).make()
        tables = {**builtin_tables(hostname, self._source), **draft.tables}
        return Config(
            hostname=hostname, listeners=listeners, tables=tables, actions=draft.actions, rules=tuple(draft.rules),
            pkis=draft.pkis, cas=draft.cas, limits=Limits(**draft.limits),
            client_limits=ClientLimits(**draft.client_limits), mta_limits=self._mta_limits(),
            wrappers=draft.wrappers, processors=draft.processors, table_programs=draft.table_programs,
            filters=draft.filters, user=self._user,
            state_dir=self._state_dir, expectations=tuple(one for one, _ in draft.expectations),
            **draft.settings,
        )

    def _error(self, token: Token, message: str, *notes: str) -> None:
        self._draft.errors.append(about(token, message, notes))

    def _warning(self, token: Token, message: str, *notes: str) -> None:
        self._draft.warnings.append(about(token, message, notes, warning=True))

    def _forbidden(self, token: Token, path: str) -> None:
        """What the caller may not look at, root may: only for a daemon that is the caller it is an error."""
        if self._user:
            self._error(token, f"{path}: Permission denied", f"the daemon runs without root, as {self._user}")
        else:
            self._warning(token, f"not checked: {path}: need root")

    def _hostname(self) -> str:
        return self._source.hostname()

    # names

    def _references(self) -> None:
        draft = self._draft
        known: dict[str, Mapping[str, object]] = {
            "action": draft.actions, "pki": draft.pkis, "ca": draft.cas, "filter": draft.filters,
            "proc": draft.processors, "mda wrapper": draft.wrappers,
        }
        for kind, name, token in draft.references:
            if name not in known[kind] and not self._may_be_there(kind, name):
                near = did_you_mean(name, known[kind])
                self._error(token, f"no such {kind}: {shown(name)}{near}",
                            f"declare it with: {_DECLARATIONS[kind].format(name)}")

    def _may_be_there(self, kind: str, name: str) -> bool:
        """Whether what is not declared is so because of an error that was told already."""
        return self._draft.incomplete or (kind, name) in self._draft.mentioned

    def _shapes(self) -> None:
        tables = self._draft.tables
        for name, token, use in self._draft.table_uses:
            table = tables.get(name)
            if table is None and self._may_be_there("table", name):
                continue
            if table is None:
                names = [one for one in tables if not one.startswith("<")]
                self._error(token, f"no such table: {shown(name)}{did_you_mean(name, names)}",
                            f"declare it with: table {name} file:PATH, or with its entries between braces")
            elif table.shape not in use.shapes:
                is_list = table.shape is Shape.LIST
                what = "a list, and here a mapping (key = value) is needed" if is_list else \
                    "a mapping (key = value), and here a list is needed"
                title = "this table" if name.startswith("<") else f'table "{name}"'
                self._error(token, f"{title} may not be used for {use.words} lookups: it is {what}",
                            *self._brackets(table))
            elif table.backend == "getpwnam" and not use.users:
                self._error(token, f'table "{name}" may not be used for {use.words} lookups: getpwnam is for userbase '
                                   "only")

    def _brackets(self, table: Table) -> list[str]:
        """One value that stands in the place of a table has the name of another one."""
        if len(table.keys) != 1 or not table.name.startswith("<") or table.keys[0] not in self._draft.tables:
            return []
        return [f"one value was written here; the table of that name is <{table.keys[0]}>"]

    def _chains(self) -> None:
        filters = self._draft.filters
        for _, tokens in self._draft.chain_tokens:
            programs: dict[str, str] = {}
            for token in tokens:
                member = filters.get(token.text)
                if member is None:
                    continue
                if member.chain:
                    self._error(token, f"no filter chain allowed within a filter chain: {shown(token.text)}")
                elif member.proc in programs:
                    self._warning(token, f"proc {shown(member.proc)} is twice in this chain, and will see all twice",
                                  f"filter {shown(programs[member.proc])} uses it too")
                elif member.proc:
                    programs[member.proc] = token.text

    def _users(self) -> None:
        for token in self._draft.users:
            if self._user and token.text != self._user:
                self._error(token, f"cannot deliver as {shown(token.text)}: the daemon runs without root, as "
                                   f"{self._user}")

    def _srs(self) -> None:
        if "srs_key" not in self._draft.settings and not self._draft.unread:
            for token in self._draft.srs_users:
                self._error(token, "an srs key is required for srs to be specified in an action",
                            "declare it with: srs key SECRET")

    # files

    def _outside_tables(self) -> None:
        """Files of tables must be there; they tell their shape."""
        for name, token in self._draft.table_tokens.items():
            table = self._draft.tables.get(name)
            if table is None or not self._backend(table, token):
                continue
            if table.backend == "file" and (shape := self._look(table, token)) is not None:
                self._draft.tables[name] = replace(table, shape=shape)
            elif table.backend == "db":
                self._map(table, token)

    def _map(self, table: Table, token: Token) -> None:
        """Whether the file of a table was made by makemap."""
        try:
            start = self._source.read(table.path, cdb.HEADER)
        except PermissionError:
            self._forbidden(token, table.path)
            return
        except OSError as error:
            self._error(token, f"invalid configuration file {table.path} for table {shown(table.name)}: "
                               f"{error.strerror}")
            return
        if not cdb.begins(start) and bdb.find_reader(start) is None:
            source = table.path.removesuffix(".db") if table.path.endswith(".db") else "FILE"
            self._error(token, f"{table.path} is not a file that makemap made",
                        f"make it with: makemap -o {table.path} {source}")

    def _backend(self, table: Table, token: Token) -> bool:
        if table.backend in ("file", "getpwnam", "db"):
            return True
        return TablePrograms(self._draft, self._source, self._user).add(table, token)

    def _look(self, table: Table, token: Token) -> Shape | None:
        try:
            data = self._source.read(table.path, LOOK_MAX)
        except PermissionError:
            self._forbidden(token, table.path)
            return None
        except OSError as error:
            self._error(token, f"invalid configuration file {table.path} for table {shown(table.name)}: "
                               f"{error.strerror}")
            return None
        is_list, bad = look(data, table.path)
        if bad is not None:
            more = ": a key and a value are expected" if bad.what == "invalid map entry" else ""
            self._error(token, f"invalid configuration file {table.path} for table {shown(table.name)}",
                        f"{table.path}:{bad.line}: {bad.what}{more}")
        return Shape.LIST if is_list else Shape.HASH

    def _pkis(self) -> None:
        for name, token in self._draft.pki_tokens.items():
            pki = self._draft.pkis.get(name)
            if pki is None or name in self._draft.unfinished or self._draft.incomplete:
                continue
            for kind, path in (("cert", pki.cert), ("key", pki.key)):
                if not path:
                    self._error(token, f"pki {shown(name)} has no {kind}", f"declare it with: pki {name} {kind} FILE")

    def _files(self) -> set[str]:
        """Judges each file of a pki or ca, and returns those that are as they should be."""
        kinds = {(kind, use.path): use for (kind, _), use in reversed(self._draft.files.items())}
        judged = {(kind, path): self._file(kind, use) for (kind, path), use in reversed(kinds.items())}
        return {path for (_, path), sound in judged.items() if sound}

    def _file(self, kind: str, use: FileUse) -> bool:
        """Whether a certificate or key is there, ours, and not open to those who should not write or read it."""
        path, token = use
        try:
            found = self._source.stat(path)
        except PermissionError:
            self._forbidden(token, path)
            return False
        except OSError as error:
            self._error(token, f"{path}: {error.strerror}")
            return False
        owners = {0, self._source.user_id()} if self._user else {0}
        if not found.is_file:
            self._error(token, f"{path} is not a file")
        elif found.uid not in owners:
            owner = self._user or "root"
            self._error(token, f"{path} is not owned by {owner}", f"mend it with: chown {owner} {path}")
        elif found.mode & ~MODE_MAX[kind]:
            self._error(token, f"{path} has insecure permissions: {found.mode:04o}",
                        f"mend it with: chmod {MODE_GOOD[kind]} {path}")
        else:
            return True
        return False

    def _mta_limits(self) -> dict[str, MtaLimits]:
        """Each domain's limits are the default ones but for those it sets."""
        said = self._draft.mta_limits
        default = said.get("", {})
        return {name: MtaLimits(**{**default, **own}) for name, own in {"": default, **said}.items()}


_DECLARATIONS = {
    "action": 'action "{}" ...',
    "pki": "pki {} cert FILE key FILE",
    "ca": "ca {} cert FILE",
    "filter": 'filter "{}" ...',
    "proc": 'proc "{}" COMMAND',
    "mda wrapper": 'mda wrapper "{}" COMMAND',
}


def builtin_tables(hostname: str, source: Source) -> dict[str, Table]:
    """The tables behind local, any and the system's users."""
    keys = {
        **local_keys(hostname, [address for found in source.interfaces().values() for address in found]),
        ANYHOST: ("local", "0.0.0.0/0", "::/0"),
        ANYDESTINATION: ("*",),
    }
    tables = {name: Table(name=name, keys=found) for name, found in keys.items()}
    return {**tables, GETPWNAM: Table(name=GETPWNAM, backend="getpwnam", shape=Shape.DYNAMIC)}
