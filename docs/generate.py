"""Prints what follows from a declaration: docs/privsep.md, docs/imsg.md, and parts of the manual pages.

``python docs/generate.py`` writes them; tests/test_docs.py and tests/test_man.py fail while they differ from the
declarations.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import FunctionType, ModuleType

import msgspec

from pysmtpd import imsg, messages
from pysmtpd.base import logline, stats
from pysmtpd.base.procs import PROCS, Jail, Proc, Role, User
from pysmtpd.conf import (
    grammar,
    grammar_action,
    grammar_expect,
    grammar_filter,
    grammar_limit,
    grammar_listen,
    grammar_log,
    grammar_match,
    grammar_reply,
    grammar_table,
)
from pysmtpd.conf.effect import NOT_IN_EFFECT
from pysmtpd.imsg import BODY_MAX, BULK_MAX, HEADER_SIZE, Spec
from smtpctl import commands

HERE = Path(__file__).parent
MANUALS = sorted((HERE.parent / "man").glob("*.[1-9]"))
MADE = "<!-- Made by docs/generate.py. Change the declaration instead. -->"
_USERS = {User.ROOT: "root", User.RECIPIENT: "the recipient", User.CALLER: "the caller"}
_JAILS = {Jail.NONE: "-", Jail.EMPTY: "chroot, empty", Jail.SPOOL: "chroot, the spool"}

PRIVSEP = """# Who runs as whom, where, and speaks with whom

{made}

Every process but the parent is executed anew (`python -I -m`), so that no two share a memory layout. Each has a
title, `pysmtpd: queue`; the parent is `pysmtpd: [priv]`, the second smtp process `pysmtpd: smtp 1`, and a worker names
its user: `pysmtpd: worker joe`. All but parent, conf and worker have `NoNewPrivs` set and
cannot be traced or dumped. Without root all of them run as the invoking user, without chroot.

| process | user | jail | speaks with | imports besides the common part | may hold | job |
|---|---|---|---|---|---|---|
{rows}

The common part is `base`, `imsg`, `messages`, `conf.config` and `privsep`. *May hold* names the kinds of secret that
may ever be in the memory of a process; whatever is not listed there must not be found in it.

Two roles are no process of the daemon's own: *client* is `smtpctl` under each of its names, and *worker* is whatever
the recipient makes of it. Both are hostile peers: a bad frame of theirs ends that one connection.

## What smtp carries and cannot make

smtp speaks with everybody, and hands queue the envelopes of each message. It neither makes nor reads them: lka seals
them (`base/seal.py`: a keyed BLAKE2b of 16 octets) with a key that it makes at each start and tells queue alone, over
their own socket. queue stores nothing that does not open.

A smtp process that an attacker has taken over can therefore not name a user, an action, a command or a file of its own
choice: only what the rules and tables make of some recipient. Each envelope holds the id of its message and its number
in it, and message ids are given by queue, to one smtp process each, and are taken once: so what was sealed cannot be
used again, for another message, for another process, twice in a message, or after a restart.

What is not prevented: lka believes smtp about the session. A smtp process that is taken over can claim any client
address, HELO, sender, user or TLS, and gets what the rules give such a client: it can send as anybody who may send. It
can also put another body under the envelopes of its own message, and forget, or not ask for, recipients.

## What lka says, and the parent judges

lka decides where mail goes and as whom it is delivered; it makes the envelopes, with the commands and files in them. A
lka that is taken over can therefore deliver as any user whom a local action could deliver as, and run commands as that
user, as a hijacked mda could. What it cannot have, because the parent judges it again:

* A user of the system who is another than the system says; root, but for appending to `/var/mail/root`; `_smtpd` and
  `_smtpq`. An action with `user` delivers as that user alone, whom the parent looks up itself.
* From a `userbase`, which lka looks up: ids outside of `ids`, where the action has that. Where every local action has
  `user`, or `userbase` with `ids`, no other account of the system can be reached. A group below 1000 that the system
  does not give the user, unless `ids` names it: such groups (disk, shadow, docker) are as good as root. A mailbox in
  `/var/mail` with the name of another user of the system.
* A file other than `.forward`, or one that its owner alone cannot have written: it is opened below a home that belongs
  to the user or root and that nobody else can write to, no symbolic link in its place is followed, it must be a regular
  file of the user, and 4096 octets of it are handed on. It can have the `.forward` of any user whose home it names.
* Any other program than those that `smtpd.conf` names for tables.

What may hang is not done by the parent: a process `home` of its own asks the name service, goes into homes and makes
mailboxes, for one question at a time, and is killed after 10 seconds. It is root, but nobody speaks with it except the
parent, and what users wrote it hands on unread.
"""

IMSG = """# Who says what to whom

{made}

A frame is {header} octets of header (type, flags, length with header, peer id, process id; network byte order) and a
body: the fields as a MessagePack array, at most {body} octets, of *bulk* messages {bulk}. A message marked *fd*
carries one file descriptor. What is short, long, unknown, off its route or ill-typed is refused by the receiver: from
a process of ours that is fatal, from a client or a worker it ends that connection.

| from | to | messages |
|---|---|---|
{matrix}
"""


def privsep() -> str:
    """docs/privsep.md: the privilege table of base/procs.py."""
    rows = [_row(role) for role in PROCS.values()]
    return PRIVSEP.format(made=MADE, rows="\n".join(rows))


def _row(role: Role) -> str:
    user = _USERS.get(role.user, f"`{role.user.value}`")
    peers = " ".join(proc.value for proc in Proc if proc in role.peers)
    packages = " ".join(f"`{name}`" for name in sorted(role.packages)) or "-"
    return (f"| {role.proc.value} | {user} | {_JAILS[role.jail]} | {peers} | {packages} | "
            f"{' '.join(sorted(role.secrets)) or '-'} | {role.job} |")


def imsg_page() -> str:
    """docs/imsg.md: every message, its routes and its fields."""
    specs = [spec for _, spec in sorted(imsg.BY_NUMBER.items())]
    lines = [IMSG.format(made=MADE, header=HEADER_SIZE, body=BODY_MAX, bulk=BULK_MAX, matrix="\n".join(_matrix(specs)))]
    for title, group in _groups(specs):
        lines += [f"## {title}", ""]
        for spec in group:
            lines += _message(spec)
    return "\n".join(lines)


def _matrix(specs: list[Spec]) -> Iterator[str]:
    for src in Proc:
        for dst in Proc:
            names = [spec.cls.__name__ for spec in specs if src >> dst in spec.routes]
            if names:
                yield f"| {src.value} | {dst.value} | {', '.join(names)} |"


def _groups(specs: list[Spec]) -> Iterator[tuple[str, list[Spec]]]:
    """The conversations of messages.py, by the comments that open them."""
    source = inspect.getsource(messages)
    where = {node.name: node.lineno for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    lines = enumerate(source.split("\n"), 1)
    titles = [(number, line.strip("# -")) for number, line in lines if line.startswith("# ---")]
    for at, (start, title) in enumerate(titles):
        end = titles[at + 1][0] if at + 1 < len(titles) else 1 << 30
        group = [spec for spec in specs if start < where[spec.cls.__name__] < end]
        if group:
            yield title[0].upper() + title[1:], group


def _message(spec: Spec) -> Iterator[str]:
    marks = "".join(f", *{mark}*" for mark, on in (("fd", spec.fd), ("bulk", spec.bulk)) if on)
    yield f"### `{spec.number:#04x}` {spec.cls.__name__}"
    yield ""
    yield f"{', '.join(_routes(spec))}{marks}. {' '.join(inspect.getdoc(spec.cls).split())}"  # type: ignore[union-attr]
    yield ""
    fields = msgspec.structs.fields(spec.cls)  # type: ignore[arg-type]
    for field in fields:
        yield f"- `{field.name}`: {imsg.type_name(field.type)}"
    if fields:
        yield ""


def _routes(spec: Spec) -> Iterator[str]:
    """``control → lka queue mta``: one entry for all senders that send to the same."""
    senders: dict[str, list[str]] = {}
    for src in Proc:
        targets = " ".join(dst.value for dst in Proc if src >> dst in spec.routes)
        if targets:
            senders.setdefault(targets, []).append(src.value)
    for targets, names in senders.items():
        yield f"{' '.join(names)} → {targets}"


PAGES = {"privsep.md": privsep, "imsg.md": imsg_page}


# Parts of the manual pages.

GRAMMAR = (grammar, grammar_listen, grammar_action, grammar_match, grammar_reply, grammar_expect, grammar_table,
           grammar_filter, grammar_limit, grammar_log)
# Productions that are a choice of options, each with a production of its own.
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "socket-option": grammar_listen.SOCKET_OPTIONS,
    "listen-option": grammar_listen.LISTEN_OPTIONS,
}
_PRODUCTION = re.compile(r"([a-z-]+) = (.+)", re.DOTALL)
_BLOCK = re.compile(r'^(\.\\" generated: ([a-z ]+)\n).*?^(\.\\" end\n)', re.DOTALL | re.MULTILINE)
_WORDS = re.compile(r'"[^"]+"( \| "[^"]+")*')
_BRACKET = re.compile(r"(?<=[\[{(]) | (?=[\]})])")
_NO_BREAK = "\u00a0"
_COLUMNS = 72


def productions() -> dict[str, list[str]]:
    """What each name of the grammar may be: the EBNF in the docstrings of the functions that read it."""
    found: dict[str, list[str]] = {}
    for name, rule in (one for module in GRAMMAR for one in _rules(module)):
        found.setdefault(name, []).append(rule)
    for name, options in FAMILIES.items():
        found[name] = [" | ".join(dict.fromkeys(_option(*option) for option in options.items()))]
    used = " ".join(rule for rules in found.values() for rule in rules)
    return {name: rules for name, rules in found.items() if name == "statement" or name in re.split("[^a-z-]", used)}


def _rules(module: ModuleType) -> Iterator[tuple[str, str]]:
    for function in vars(module).values():
        if isinstance(function, FunctionType) and function.__module__ == module.__name__:
            yield from _ebnf(function)


def _ebnf(function: FunctionType) -> Iterator[tuple[str, str]]:
    """The productions at the beginning of a docstring; a point stands between them."""
    text = (inspect.getdoc(function) or "").split("\n\n")[0]
    for part in text.split(" .\n"):
        match = _PRODUCTION.fullmatch(part.strip())
        if match is not None:
            yield match[1], " ".join(match[2].split())


def _option(word: str, read: object) -> str:
    """The production of an option, or its word where that is all there is."""
    assert isinstance(read, FunctionType)
    name, rule = next(_ebnf(read))
    return f'"{word}"' if _WORDS.fullmatch(rule) else name


def _grammar() -> Iterator[str]:
    yield ".Bd -literal"
    for name, rules in productions().items():
        for number, rule in enumerate(rules):
            begin = f"{name} = " if not number else " " * len(name) + " | "
            lines = textwrap.wrap(_BRACKET.sub(_NO_BREAK, rule), _COLUMNS, initial_indent=begin,
                                  subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)
            yield from (line.replace(_NO_BREAK, " ") for line in lines)
    yield ".Ed"


def _not_in_effect() -> Iterator[str]:
    yield ".Bd -ragged -offset indent"
    names = sorted(NOT_IN_EFFECT)
    yield from (f'.Ql {name}{" ," if name != names[-1] else " ."}' for name in names)
    yield ".Ed"


def _log_lines() -> Iterator[str]:
    yield ".Bd -literal"
    for name, line in vars(logline).items():
        if name.isupper() and isinstance(line, str):
            shown = re.sub(r"\{(\w+)[^}]*\}", lambda field: _field(field[1]), line)
            yield from textwrap.wrap(shown, _COLUMNS, subsequent_indent=" " * 8, break_on_hyphens=False)
    yield ".Ed"


def _field(name: str) -> str:
    return {"s": "s", "schema": "SCHEMA://"}.get(name, name.upper())


def _keys(keys: Iterable[str]) -> Callable[[], Iterator[str]]:
    def made() -> Iterator[str]:
        names = sorted(keys)
        yield from (f'.Cm {name}{" ," if name != names[-1] else " ."}' for name in names)

    return made


def _commands_not_yet() -> Iterator[str]:
    yield ".Bd -literal -offset indent"
    yield from (re.sub("[<>]", "", line) for line, action in commands.tree.lines() if commands.is_later(action))
    yield ".Ed"


BLOCKS: Mapping[str, Callable[[], Iterator[str]]] = {
    "grammar": _grammar, "not in effect": _not_in_effect, "log lines": _log_lines, "gauges": _keys(stats.GAUGES),
    "counters": _keys(stats.COUNTERS), "commands not yet": _commands_not_yet,
}


def manual(text: str) -> str:
    """A manual page with what is generated made anew."""
    def block(match: re.Match[str]) -> str:
        lines = "".join(f"{line}\n" for line in BLOCKS[match[2]]())
        return f"{match[1]}{lines}{match[3]}"

    return _BLOCK.sub(block, text)


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
    for path in MANUALS:
        path.write_text(manual(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
