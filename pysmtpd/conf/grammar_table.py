"""Tables: their declaration, and the places that take one."""

from pysmtpd.conf.config import Position, Processor, Secret, Shape, Table
from pysmtpd.conf.diagnostic import shown
from pysmtpd.conf.draft import TableUse, Use
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser

FILE_BACKENDS = ("static", "file")


def table_statement(p: Parser, word: Token) -> None:
    """table-statement = "table" NAME ( STRING | "{" entries "}" | "proc" NAME | "proc-exec" STRING { proc-option } )

    STRING is an absolute path, or the name of a back end, a colon and an absolute path; after "proc-exec" a command
    without shell, whose first word is an absolute path."""
    name = p.string("the name of the table")
    p.declares("table", name.text)
    if p.at_string:
        made = _outside(p, name, p.string("a path"))
    elif (kind := p.word("proc", "proc-exec")) is not None:
        made = _program(p, name, kind)
    else:
        if not p.mark("{"):
            p.word("a path", "backend:path")
            p.fail()
        made = entries(p, name.text, word.at)
    before = p.draft.tables.get(name.text)
    if before is not None:
        p.refuse(name, f"table {shown(name.text)} already defined", f"at {before.at}")
    if name.text.startswith("<") or not name.text:
        p.refuse(name, "the name of a table cannot be empty or begin with <")
    p.draft.tables[name.text] = made


def _outside(p: Parser, name: Token, where: Token) -> Table:
    """A table kept in a file or behind a program."""
    backend, colon, path = ("file", ":", where.text) if where.text.startswith("/") else where.text.partition(":")
    if colon and not path.startswith("/"):
        p.refuse(where, f"invalid backend parameter for table: {shown(name.text)}",
                 f"what follows {backend}: must be an absolute path, and {shown(path)} is none")
    if backend in ("proc", "proc-exec"):
        p.refuse(where, f'a program is named apart from its kind: table {name.text} proc-exec "/path"')
    if backend == "getpwnam" and colon:
        p.refuse(where, "the backend getpwnam takes no path")
    if backend in FILE_BACKENDS and not colon:
        p.refuse(where, f"invalid backend parameter for table: {shown(name.text)}",
                 f"expected {backend}:/path, or entries between braces")
    p.draft.table_tokens[name.text] = where
    kind = "file" if backend in FILE_BACKENDS else backend
    return Table(name=name.text, backend=kind, shape=Shape.DYNAMIC, path=path, at=name.at)


def _program(p: Parser, name: Token, kind: Token) -> Table:
    """A table behind a program that smtpd.conf names."""
    if kind.text == "proc":
        p.draft.table_procs[name.text] = p.name("proc", "the name of a proc")
    else:
        command = p.string("a command")
        p.draft.table_commands[name.text] = processor(p, name.text, command.text, kind)
    p.draft.table_tokens[name.text] = kind
    return Table(name=name.text, backend=kind.text, shape=Shape.DYNAMIC, at=name.at)


def processor(p: Parser, name: str, command: str, word: Token) -> Processor:
    """proc-option = ( "user" | "group" | "chroot" ) STRING"""
    seen: dict[str, Token] = {}
    fields: dict[str, str] = {}
    while (option := p.word("user", "group", "chroot")) is not None:
        p.once(seen, option.text, option, f"{option.text} already specified for this proc")
        fields[option.text] = p.string("its value").text
    p.end()
    return Processor(
        name=name, command=command, user=fields.get("user", ""), group=fields.get("group", ""),
        chroot=fields.get("chroot", ""), at=word.at,
    )


def entries(p: Parser, name: str, at: Position) -> Table:
    """entries = STRING { [ "," ] STRING } | pair { [ "," ] pair } .
    pair = STRING ( "=" | "=>" ) STRING"""
    keys: list[str] = []
    pairs: list[tuple[str, Secret]] = []
    p.new_lines()
    while True:
        key = p.string("an entry")
        if p.token.kind is Kind.MARK and p.token.text in ("=", "=>"):
            _shape(p, bool(keys), "this is a key with a value, and the entries before it have none")
            p.advance()
            pairs.append((key.text, Secret(p.secret("a value").text)))
        else:
            _shape(p, bool(pairs), "an entry without a value after entries that have one", key)
            keys.append(key.text)
        comma = p.comma()
        if not comma and p.mark("}"):
            break
        if comma and p.token.is_mark("}"):
            p.refuse(p.token, "unexpected '}' after a comma: another entry must follow, or the comma go")
    shape = Shape.HASH if pairs else Shape.LIST
    return Table(name=name, shape=shape, keys=tuple(keys), pairs=tuple(pairs), at=at)


def _shape(p: Parser, wrong: bool, message: str, token: Token | None = None) -> None:
    if wrong:
        p.refuse(token or p.token, message, "a table is either a list or a mapping")


def table_follows(p: Parser) -> bool:
    """Whether a table stands here, where one may be left out."""
    if p.at_string or p.token.is_mark("<") or p.token.is_mark("{"):
        return True
    p.word("a table")
    return False


def table(p: Parser, use: Use) -> str:
    """table = "<" NAME ">" | STRING | "{" entries "}"

    The name of the table; one that is written in place gets one."""
    token = p.token
    if token.is_mark("<"):
        p.advance()
        named = p.string("the name of a table")
        p.must_mark(">")
        p.draft.table_uses.append(TableUse(named.text, named, use))
        return named.text
    if not token.is_mark("{"):
        p.word("a table")
        return single(p, p.string("a value"), use)
    name = p.draft.dynamic_name()
    p.advance()
    p.draft.tables[name] = entries(p, name, token.at)
    p.draft.table_uses.append(TableUse(name, token, use))
    return name


def single(p: Parser, value: Token, use: Use) -> str:
    """A table of one value that was taken already; its name."""
    name = p.draft.dynamic_name()
    p.draft.tables[name] = Table(name=name, keys=(value.text,), at=value.at)
    p.draft.table_uses.append(TableUse(name, value, use))
    return name
