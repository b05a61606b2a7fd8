"""From a file in the language before 6.4 to the same in today's: ``smtpctl config migrate``.

What conf/classic*.py wrote for each statement is put in its place.  All else stays as it is: comments, macros, tables,
and statements that were today's already.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from pysmtpd.conf import grammar
from pysmtpd.conf.classic import finish
from pysmtpd.conf.diagnostic import Diagnostic
from pysmtpd.conf.draft import Draft, Rewritten, Said
from pysmtpd.conf.lexer import File, Kind, Scanner, Token, scan_macro
from pysmtpd.conf.load import open_file
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.source import Source

MOVED = "# note: moved below its pki, because that must be declared first"
_BLANK = re.compile(r"[ \t]*")
_BEFORE_BLANK = re.compile(r"\\(?=[ \t])")
_BARE = re.compile(r"[A-Za-z0-9:_][A-Za-z0-9:_.+*/@-]*")


class Migrated(NamedTuple):
    """text: of use only without errors."""

    text: str
    errors: list[Diagnostic]
    warnings: list[Diagnostic]


class Edit(NamedTuple):
    """What stands in a file from start to end becomes text."""

    start: int
    end: int
    text: str


def migrate(path: str, source: Source, macros: Mapping[str, str] | None = None) -> Migrated:
    """What a file says, in today's language.  Only its words are judged, not whether what it names is there.

    A file that it includes is put in the place of the include, if it is in yesterday's language too."""
    draft = Draft()
    file = open_file(path, source, draft)
    if file is None:
        return Migrated("", draft.errors, [])
    parser = Parser(source, macros or {}, draft)
    parser.read(file, grammar.statement)
    finish(parser)
    if draft.errors:
        return Migrated("", draft.errors, draft.warnings)
    return Migrated(_Writer(draft, parser.macros).file(file), [], draft.warnings)


class _Writer:
    """Writes files anew."""

    def __init__(self, draft: Draft, macros: Mapping[str, str]) -> None:
        self._draft = draft
        self._macros = macros
        self._told: set[str] = set()

    def file(self, file: File) -> str:
        """The text of a file, and of what it includes."""
        text, at, parts = file.text, 0, list[str]()
        for edit in sorted([*self._statements(file), *self._quotes(file), *self._includes(file)]):
            if edit.start >= at:           # not a word within a statement
                parts += [text[at:edit.start], edit.text]
                at = edit.end
        return "".join([*parts, text[at:]])

    def _statements(self, file: File) -> Iterator[Edit]:
        here = sorted(self._statements_of(file), key=lambda one: one.first.start)
        waiting: dict[int, list[str]] = {}
        for number, one in enumerate(here):
            start = one.first.start
            before = file.text[file.start(file.position(start).line):start]
            indent = before if _BLANK.fullmatch(before) else ""
            lines = self._lines(one)
            later = _declared_later(here, number)
            if later is not None:
                waiting.setdefault(later, []).extend(lines)
                lines = [MOVED]
            yield Edit(start, one.last.end, f"\n{indent}".join(lines))
            if number in waiting:
                end = file.text.find("\n", one.last.end)
                end = end if end >= 0 else len(file.text)
                yield Edit(end, end, "".join(f"\n{indent}{line}" for line in waiting[number]))

    def _lines(self, one: Rewritten) -> list[str]:
        new = [note for note in dict.fromkeys(one.notes) if note not in self._told]
        self._told.update(new)
        lines = [f"# note: {note}" for note in new]
        if not one.statements:
            said = one.first.file.text[one.first.start:one.last.end]
            return [*lines, *(f"# {line}" for line in said.split("\n"))]
        return [*lines, *(self._statement(statement) for statement in one.statements)]

    def _quotes(self, file: File) -> Iterator[Edit]:
        for token in self._draft.to_quote:
            if token.file is file and not token.macro:
                yield Edit(token.start, token.end, f'"{token.text}"')

    def _includes(self, file: File) -> Iterator[Edit]:
        """Includes of files that are not in today's language."""
        by_place: dict[int, list[File]] = {}
        for one in self._draft.included:
            if one.included is not None and one.included.file is file:
                by_place.setdefault(one.included.start, []).append(one)
        for place, files in by_place.items():
            if any(self._is_classic(one) for one in files):
                assert files[0].included is not None
                start = file.text.rfind("include", 0, place)
                text = "\n".join(f"# from {one.name}:\n{self.file(one).rstrip()}" for one in files)
                yield Edit(start, files[0].included.end, f"{text}\n# end of what was included")

    def _is_classic(self, file: File) -> bool:
        inside = [one for one in self._draft.included if one.included is not None and one.included.file is file]
        edits = [*self._statements_of(file), *self._quotes(file)]
        return bool(edits) or any(self._is_classic(one) for one in inside)

    def _statements_of(self, file: File) -> list[Rewritten]:
        return [one for one in self._draft.rewritten if one.first.file is file]

    # statements

    def _statement(self, statement: tuple[Said, ...]) -> str:
        parts: list[str] = []
        before: Token | None = None
        rest = list(statement)
        while rest:
            text, used = self._macro(rest)
            token = rest[0].token
            if before is not None:
                parts.append(_gap(before, token))
            parts.append(text or _shown(rest[0]))
            before = rest[used - 1].token
            del rest[:used]
        return "".join(parts)

    def _macro(self, rest: list[Said]) -> tuple[str, int]:
        """The macro that stands here with all of its words, if there is one, and how many tokens it makes."""
        said = rest[0]
        name = said.token.macro
        if not name or not said.copied or name not in self._macros:
            return "", 1
        whole, _ = scan_macro(self._macros[name], name, said.token)
        here = [one.token for one in rest[:len(whole)]]
        if all(one.copied for one in rest[:len(whole)]) and here == whole:
            return f"${name}", len(whole)
        return "", 1


def _declared_later(statements: list[Rewritten], number: int) -> int | None:
    """The last pki statement that a listener needs, if that comes after it."""
    used = {name.token.text.lower() for one in statements[number].statements if one[0].token.text == "listen"
            for word, name in pairwise(one) if word.token.text == "pki"}
    later = [at for at, other in enumerate(statements) if at > number for one in other.statements
             if one[0].token.text == "pki" and one[1].token.text.lower() in used]
    return later[-1] if later else None


def _gap(before: Token, after: Token) -> str:
    """What stands between two tokens: what stood there, if they were neighbours."""
    if before.file is after.file and before.end <= after.start and before.start != after.start:
        between = before.file.text[before.end:after.start]
        scanner = Scanner(File("", between))
        kind = Kind.NEWLINE
        while kind is Kind.NEWLINE:
            kind = scanner.next().kind
        if kind is Kind.END and (between or before.kind is Kind.MARK or after.kind is Kind.MARK):
            return between
    near = (before.kind is Kind.MARK and before.text in "<!") or (after.kind is Kind.MARK and after.text in ">,")
    return "" if near else " "


def _shown(said: Said) -> str:
    """A token as it is written."""
    token = said.token
    if said.copied and not token.macro:
        return token.file.text[token.start:token.end]
    if token.kind is Kind.QUOTED or (token.kind is Kind.WORD and not _BARE.fullmatch(token.text)):
        return quote(token.text)
    return token.text


def quote(text: str) -> str:
    """A string as the grammar reads it back."""
    mark = "'" if '"' in text and "'" not in text else '"'
    body = text.replace(mark, f"\\{mark}")
    # Within quotes a backslash vanishes before a blank, and another one saves it.
    return mark + _BEFORE_BLANK.sub(r"\\\\", body) + mark
