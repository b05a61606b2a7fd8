"""What the grammar makes of a file: everything that was said, before names are looked up and defaults filled in."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pysmtpd.conf.config import (
    Action,
    Ca,
    Expectation,
    Filter,
    Pki,
    Position,
    Processor,
    Rule,
    Shape,
    Table,
    TableProgram,
)
from pysmtpd.conf.diagnostic import Diagnostic
from pysmtpd.conf.lexer import File, Token


class Use(NamedTuple):
    """What a table is wanted for: how errors call it, and the shapes that can serve."""

    words: str
    shapes: frozenset[Shape]
    users: bool = False            # also the back end getpwnam, which knows nothing but users


_LIST = frozenset({Shape.LIST, Shape.DYNAMIC})
_MAPPING = frozenset({Shape.HASH, Shape.DYNAMIC})
_EITHER = _LIST | _MAPPING


def listing(words: str) -> Use:
    """A use that needs a list."""
    return Use(words, _LIST)


def mapping(words: str) -> Use:
    """A use that needs keys with values."""
    return Use(words, _MAPPING)


def either(words: str) -> Use:
    """A use that only asks for keys, and takes both."""
    return Use(words, _EITHER)


def userinfo(words: str) -> Use:
    """A use that needs users with their uid, gid and home."""
    return Use(words, _MAPPING, users=True)


def anything(words: str) -> Use:
    """A use that OpenSMTPD does not check."""
    return Use(words, _EITHER, users=True)


class TableUse(NamedTuple):
    """A place that uses a table."""

    name: str
    token: Token
    use: Use


class Reference(NamedTuple):
    """A place that names something else than a table."""

    kind: str                      # action, pki, ca, filter, proc, mda wrapper
    name: str
    token: Token


class Said(NamedTuple):
    """A token of a rewritten statement.  ``copied``: it stands so in the file."""

    token: Token
    copied: bool


class FileUse(NamedTuple):
    """A file that must be there."""

    path: str
    token: Token


class Rewritten(NamedTuple):
    """A statement in the language before 6.4, and what says the same now."""

    first: Token                   # of the statement
    last: Token
    statements: tuple[tuple[Said, ...], ...]
    notes: tuple[str, ...] = ()    # what the administrator should know


class Facts:
    """What is known once all of the files were read, and a rewritten statement may depend on."""

    def __init__(self, draft: "Draft", hostname: str) -> None:
        self.hostname = hostname
        self.pkis = draft.pkis
        self.pki_cas = draft.pki_cas
        self.tags = draft.tags_of_interfaces
        self.has_socket = False                    # a statement says how it listens on the socket
        self.auth = False                          # somebody may log in
        self.actions: dict[tuple[str, ...], str] = {}  # the names of those that were made, by what they say
        self.taken = {*draft.actions}


class Deferred(NamedTuple):
    """A rewritten statement that can only be understood once all of the files are known.

    place: how many of its kind stand before it.  write: its statements, and notes for the administrator."""

    place: int
    first: Token
    last: Token
    write: Callable[[Facts], tuple[list[tuple[Said, ...]], list[str]]]


class Listen:
    """One ``listen on``."""

    def __init__(self, at: Token, where: Token | None) -> None:
        """where: None for the socket."""
        self.at = at
        self.where = where
        self.family = ""
        self.fields: dict[str, Any] = {}
        self.seen: dict[str, Token] = {}


class Draft:
    """Everything that was said."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}          # fields of Config
        self.tables: dict[str, Table] = {}
        self.table_tokens: dict[str, Token] = {}    # where the file or the name of a table stands
        self.table_commands: dict[str, Processor] = {}  # of tables that say their program themselves
        self.table_procs: dict[str, str] = {}       # the proc of tables that name one
        self.table_programs: dict[str, TableProgram] = {}
        self.actions: dict[str, Action] = {}
        self.rules: list[Rule] = []
        self.pkis: dict[str, Pki] = {}
        self.pki_tokens: dict[str, Token] = {}
        self.unfinished: list[str] = []             # the pki of each line that has an error
        self.cas: dict[str, Ca] = {}
        self.wrappers: dict[str, str] = {}
        self.listens: list[Listen] = []
        self.limits: dict[str, int] = {}
        self.client_limits: dict[str, Any] = {}
        self.mta_limits: dict[str, dict[str, Any]] = {}
        self.processors: dict[str, Processor] = {}
        self.filters: dict[str, Filter] = {}
        self.chain_tokens: list[tuple[Filter, list[Token]]] = []
        self.mentioned: set[tuple[str, str]] = set()  # kind and name of what is declared, even if wrongly
        self.declared: dict[tuple[str, str], Token] = {}  # the same, and where its name stands
        self.users: list[Token] = []                # of actions
        self.srs_users: list[Token] = []            # actions that need a key
        self.expectations: list[tuple[Expectation, Token]] = []
        self.table_uses: list[TableUse] = []
        self.references: list[Reference] = []
        self.lmtp: list[tuple[Token, str, dict[str, Any]]] = []  # where it goes, and the fields of its action
        self.log_file: Token | None = None
        self.tls_lists: list[tuple[str, Token]] = []  # of ciphers or curves
        self.keys: list[Token] = []                 # secrets that stand in a file
        self.incomplete = False                     # something was not read: what is missing may be there
        self.broken_macros: set[str] = set()        # whose definition is wrong
        self.macro_tokens: dict[str, Token] = {}
        self.files: dict[tuple[str, str], FileUse] = {}  # by kind (cert, key, ca) and the name of its pki or ca
        self.not_in_effect: list[tuple[Position, str]] = []
        self.included: list[File] = []
        self.to_quote: list[Token] = []             # words that are reserved now and were not before 6.4
        self.rewritten: list[Rewritten] = []
        self.pki_cas: set[str] = set()              # those with a ca of their own, in the language before 5.7
        self.tags_of_interfaces: set[str] = set()   # what a rule before 5.3 said after "on"; "local" of the socket
        self.deferred_listens: list[Deferred] = []
        self.deferred_rules: list[Deferred] = []
        self.errors: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.unprivileged = False                   # the daemon will be who reads
        self.unread: list[str] = []                 # included files that only the daemon may read
        self._dynamic = 0
        self._chains = 0

    def dynamic_name(self) -> str:
        """The name of the next table without one."""
        self._dynamic += 1
        return f"<dynamic:{self._dynamic - 1}>"

    def chain_name(self) -> str:
        """The name of the next filter chain without one."""
        self._chains += 1
        return f"<dynchain:{self._chains - 1:08x}>"
