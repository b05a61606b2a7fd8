"""The machinery of a recursive descent: one token ahead, and what could have stood in its place.

The grammar itself is in the modules grammar*.py, one function per production.  A production asks for words in
turn; those that were asked for in vain are remembered until the next token is taken, so that an error can tell
what was expected.  An error ends its statement, and the next statement is read as if nothing had happened.
"""

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from pysmtpd.base.format import FormatError
from pysmtpd.base.format import parse as parse_format
from pysmtpd.conf.diagnostic import Diagnostic, Refused, about, closest, did_you_mean, inside, one_of, shown
from pysmtpd.conf.draft import Draft, Reference
from pysmtpd.conf.effect import NOT_IN_EFFECT
from pysmtpd.conf.hints import hints
from pysmtpd.conf.lexer import File, Kind, Scanner, Token, scan_macro
from pysmtpd.conf.source import Source
from pysmtpd.conf.words import CLASSIC_INSIDE, CLASSIC_STATEMENTS, RESERVED

ERRORS_MAX = 50
# What tells that a file is in the language before 6.4: a rule of it at the beginning of a line.
_CLASSIC = re.compile(
    r"(?<!\\\n)^[ \t]*(?:(?:accept|reject)[ \t]+(?:\\\n[ \t]*)?"
    r"(?:[!$]|(?:from|for|on|tagged|authenticated|sender|recipient|alias|virtual|deliver|relay)\b)"
    r"|reject[ \t]*(?:#|$))", re.MULTILINE)
_INCLUDE = re.compile(
    r"""^[ \t]*include[ \t]+(?:["']([^"'\x00-\x1f]+)["']|\$(\w+)|([A-Za-z0-9_:][^\s#"'(){}<>!=,]*))""",
    re.MULTILINE | re.ASCII)
_MACRO = re.compile(r"""^[ \t]*["']?(\w+)["']?[ \t]*=[ \t]*(["']?)([^\n]*)\2[ \t]*(?:#.*)?$""", re.MULTILINE | re.ASCII)
_LOOKED_INTO_MAX = 64              # included files that are searched for rules
_NO_MACRO = re.compile("macro '.*' not defined")
_DOLLAR = re.compile(r"\$([A-Za-z0-9_]+)")
T = TypeVar("T")
Value = TypeVar("Value")


class NotAgain(Exception):
    """Ends the parsing of a statement whose error was told where it comes from."""


class Parser:
    """Reads statements into a Draft."""

    def __init__(self, source: Source, macros: Mapping[str, str], draft: Draft) -> None:
        self.source = source
        self.draft = draft
        self.macros: dict[str, str] = dict(macros)
        self.fixed = frozenset(macros)         # by -D: a file does not change them
        self.used: set[str] = set()
        self.classic = False                   # a file was found to be in the language before 6.4
        self.replaying = False                 # this statement was written by conf/classic*.py
        self.reserved = RESERVED               # in this statement
        self.token = Token(Kind.END, "", File("", ""), 0, 0)
        self._before: Token | None = None
        self._scanner = Scanner(self.token.file)
        self._pending: deque[Token] = deque()
        self._want: list[str] = []
        self._wants_string = False
        self._statement: Callable[[Parser], None] = Parser.end
        self._braces: list[Token] = []         # those that are open in this statement

    # files and statements

    def read(self, file: File, statement: Callable[["Parser"], None]) -> None:
        """All statements of a file."""
        self._statement = statement
        if file.included is not None:
            self.draft.included.append(file)
        self.classic = self.classic or self._is_classic(file.text, set())
        kept = self.token, self._before, self._scanner, self._pending
        self._scanner, self._pending = Scanner(file), deque()
        self.advance()
        while self.token.kind is not Kind.END and len(self.draft.errors) < ERRORS_MAX:
            self._one(statement)
        self.draft.incomplete = self.draft.incomplete or self.token.kind is not Kind.END
        for at in self._scanner.joined_comments:
            self._warn_comment(file, at)
        self.token, self._before, self._scanner, self._pending = kept

    def replay(self, tokens: list[Token]) -> None:
        """One statement that these tokens make, where they stand now."""
        kept = self.token, self._before, self._scanner, self._pending, self.reserved
        last = tokens[-1]
        self._scanner = Scanner(File(last.file.name, ""))
        self._pending = deque([*tokens, Token(Kind.NEWLINE, "", last.file, last.end, last.end)])
        self.advance()
        self.replaying = True
        self._one(self._statement)
        self.replaying = False
        self.token, self._before, self._scanner, self._pending, self.reserved = kept

    def _is_classic(self, text: str, seen: set[str]) -> bool:
        """Whether a text, or a file that it includes, has a rule of the language before 6.4."""
        if _CLASSIC.search(text):
            return True
        macros = {found[1]: found[3] for found in _MACRO.finditer(text)} | self.macros
        for found in _INCLUDE.finditer(text):
            named = found[1] or found[3] or macros.get(found[2], "").strip("\\\"' \t")
            for path in self.source.glob(named) if set(named) & set("*?[") else [named]:
                if path in seen or len(seen) >= _LOOKED_INTO_MAX:
                    continue
                seen.add(path)
                try:
                    data = self.source.read(path)
                except OSError:
                    continue               # whoever reads the include will say so
                if self._is_classic(data.decode("utf-8", "replace"), seen):
                    return True
        return False

    def _one(self, statement: Callable[["Parser"], None]) -> None:
        self._braces.clear()
        self.reserved = RESERVED
        try:
            if self.token.kind is not Kind.NEWLINE:
                statement(self)
                self.end()
        except Refused as refused:
            self._record(refused.diagnostic)
            self._skip()
        except NotAgain:
            self._skip()
        if self.token.kind is Kind.NEWLINE:
            self.advance()

    def _record(self, found: Diagnostic) -> None:
        """An error; but a macro that is not defined may be in a file that could not be read."""
        if self.draft.unread and _NO_MACRO.match(found.message):
            message = f"not checked: {found.message} but perhaps in {self.draft.unread[0]}"
            self.draft.warnings.append(found._replace(message=message, warning=True))
        else:
            self.draft.errors.append(found)

    def end(self) -> None:
        """The statement must be over."""
        if self.token.kind not in (Kind.NEWLINE, Kind.END):
            self._want.append("end of line")
            self.fail()

    def _skip(self) -> None:
        """To the end of the statement: of its line, or of the braces it has opened."""
        while self.token.kind is not Kind.END:
            if self.token.kind is Kind.NEWLINE:
                if not self._braces:
                    return
                self.advance()
                if self._begins_statement():
                    return
            else:
                self.advance()

    def _begins_statement(self) -> bool:
        """Whether a line inside of braces looks as if they had been closed."""
        text = self.token.text
        return self.token.kind is Kind.WORD and (text in RESERVED or (self.classic and text in CLASSIC_STATEMENTS))

    def _warn_dollar(self, token: Token) -> None:
        """A macro is only replaced where a word begins."""
        for name in _DOLLAR.findall(token.text):
            if name in self.macros:
                self.draft.warnings.append(about(
                    token, f"${name} stays as it is: inside of words and quotes macros are not replaced", warning=True
                ))

    def _warn_comment(self, file: File, at: int) -> None:
        token = Token(Kind.MARK, "\\", file, at, at + 1)
        self.draft.warnings.append(
            about(token, "this backslash makes the next line part of the comment", warning=True)
        )

    # tokens

    def advance(self) -> Token:
        """Take the current token."""
        taken = self.token
        self._want.clear()
        self._wants_string = False
        if taken.is_mark("{"):
            self._braces.append(taken)
        elif taken.is_mark("}") and self._braces:
            self._braces.pop()
        self._before = taken
        self.token = self._next()
        return taken

    def _next(self) -> Token:
        while True:
            if self._pending:
                return self._pending.popleft()
            token = self._scanner.next()
            if token.kind is not Kind.MACRO:
                return token
            self._expand(token)

    def rest_of_line(self) -> list[Token]:
        """What follows in this line, from the current token on; it is read again."""
        tokens = [self.token]
        while tokens[-1].kind not in (Kind.NEWLINE, Kind.END):
            tokens.append(self._next())
        self._pending.extendleft(reversed(tokens[1:]))
        return tokens

    def _expand(self, token: Token) -> None:
        """Put the text of a macro in the place of its name."""
        name = token.text
        if name not in self.macros:
            broken = name in self.draft.broken_macros
            text = "" if broken else f"macro '{name}' not defined{did_you_mean(name, self.macros)}"
            self._pending.append(token._replace(kind=Kind.BAD, text=text))
            return
        self.used.add(name)
        tokens, commented = scan_macro(self.macros[name], name, token)
        if commented:
            self._scanner.skip_line()
        elif tokens and tokens[-1].kind in (Kind.WORD, Kind.NUMBER):
            rest = self._scanner.rest_of_word()
            if rest:
                tokens[-1] = tokens[-1]._replace(kind=Kind.WORD, text=tokens[-1].text + rest, end=self._scanner.at)
        self._pending.extend(tokens)

    def next_ends_statement_or_is_quoted(self) -> bool:
        """Whether behind the current token nothing more follows, or a quoted string."""
        following = self._next()
        self._pending.appendleft(following)
        return following.kind in (Kind.QUOTED, Kind.NEWLINE, Kind.END)

    # what productions ask for

    def word(self, *words: str) -> Token | None:
        """One of these words, unquoted, or None."""
        token = self.token
        if token.kind is Kind.WORD and token.text in words:
            return self.advance()
        self._want.extend(words)
        return None

    def must(self, *words: str) -> Token:
        """One of these words."""
        return self.word(*words) or self.fail()

    def mark(self, *marks: str) -> bool:
        """A punctuation mark, if it is there."""
        if self.token.kind is Kind.MARK and self.token.text in marks:
            self.advance()
            return True
        self._want.extend(f"'{mark}'" for mark in marks)
        return False

    def must_mark(self, *marks: str) -> None:
        if not self.mark(*marks):
            self.fail()

    @property
    def at_string(self) -> bool:
        """Whether a string stands here: quoted, or a word that is not reserved."""
        kind = self.token.kind
        return kind is Kind.QUOTED or (kind is Kind.WORD and self.token.text not in self.reserved)

    def string(self, what: str) -> Token:
        """A string; ``what`` tells an error what it would have been."""
        if self.at_string:
            self._warn_dollar(self.token)
            if self.token.kind is Kind.WORD and self.token.text in RESERVED:
                self.draft.to_quote.append(self.token)
            return self.advance()
        self._want.append(what)
        self._wants_string = True
        return self.fail()

    def secret(self, what: str) -> Token:
        """A string that no error shows, not even one that says it should have been quoted."""
        if not self.at_string and self.token.kind in (Kind.WORD, Kind.NUMBER):
            self.refuse(self.token, f"expected {what}", "a number or a reserved word must be quoted here")
        return self.string(what)

    def key(self, what: str) -> Token:
        """A secret that stands in the file itself."""
        token = self.secret(what)
        self.draft.keys.append(token)
        return token

    def number(self, what: str, least: int, most: int) -> int:
        """A number within bounds."""
        if self.token.kind is not Kind.NUMBER:
            self._want.append(f"a number for {what}")
            self.fail()
        token = self.advance()
        value = int(token.text) if len(token.text) < 21 else most + 1
        if not least <= value <= most:
            self.refuse(token, f"{what} must be from {least} to {most}")
        return value

    def value(self, what: str, read: Callable[[str], Value]) -> Value:
        """A string, or number, that means something; ``read`` raises ValueError for what does not."""
        token = self.advance() if self.token.kind is Kind.NUMBER else self.string(what)
        try:
            return read(token.text)
        except ValueError as error:
            self.refuse(token, f"{shown(token.text)} is not {what}: {error}")

    def options(self, family: str, table: Mapping[str, Callable[["Parser", T, Token], None]], subject: T) -> None:
        """Any number of options, each by its word."""
        while (word := self.word(*table)) is not None:
            self.later(f"{family} {word.text}", word)
            table[word.text](self, subject, word)

    def later(self, what: str, token: Token) -> None:
        """Remember what is understood, and not acted on yet."""
        if what in NOT_IN_EFFECT:
            self.draft.not_in_effect.append((token.at, what))

    def format(self, what: str, names: frozenset[str]) -> str:
        """A string that may have format specifiers, of which there are these here."""
        token = self.string(what)
        try:
            parse_format(token.text, names)
        except FormatError as error:
            self.refuse(inside(token, error.offset, error.length), str(error))
        return token.text

    def name(self, kind: str, what: str) -> str:
        """The name of something that is declared anywhere."""
        token = self.string(what)
        name = token.text.lower() if kind in ("pki", "ca") else token.text
        self.draft.references.append(Reference(kind, name, token))
        return name

    def declares(self, kind: str, name: str) -> None:
        """A declaration of this name begins: whatever becomes of it, it is not missing."""
        self.draft.mentioned.add((kind, name))
        if self._before is not None:
            self.draft.declared.setdefault((kind, name), self._before)

    @property
    def last(self) -> Token:
        """The token before the current one."""
        return self._before or self.token

    def new_lines(self) -> bool:
        """Line ends, which mean nothing between braces; whether there were any."""
        first = self.token
        while self.token.kind is Kind.NEWLINE:
            self.advance()
        return self.token is not first

    def comma(self) -> Token | None:
        """What may stand between two entries of braces: a comma, line ends behind it, line ends alone, or nothing."""
        lines = self.new_lines()
        if lines and self.token.is_mark(","):
            self.refuse(self.token, "a comma cannot begin a line", "it follows its entry directly, or is left out")
        token = self.token
        comma = self.mark(",")
        self.new_lines()
        return token if comma else None

    # errors

    def refuse(self, token: Token, message: str, *notes: str) -> NoReturn:
        """End the statement with an error at a token."""
        raise Refused(about(token, message, notes))

    def once(self, seen: dict[str, Token], key: str, token: Token, message: str) -> None:
        """Refuse an option that was given before."""
        before = seen.setdefault(key, token)
        if before is not token:
            self.refuse(token, message, f"it was given at {before.at}")

    def fail(self) -> NoReturn:
        """The current token is none of those that were asked for."""
        token, want = self.token, self._want
        if token.kind is Kind.BAD and not token.text:
            raise NotAgain
        if token.kind is Kind.BAD:
            self.refuse(token, token.text)
        notes = self._hints(token)
        expected = f"expected {one_of(want)}" if want else ""
        near = closest(token.text, [word for word in want if word.replace("-", "").isalnum()])
        if token.kind is Kind.WORD and near:
            self.refuse(token, f"unknown word {shown(token.text)}, did you mean \"{near}\"?", expected, *notes)
        if len(expected) < 60:
            self.refuse(token, f"unexpected {describe(token)}{', ' if expected else ''}{expected}", *notes)
        self.refuse(token, f"unexpected {describe(token)}", expected, *notes)

    def _hints(self, token: Token) -> list[str]:
        notes = []
        strings = self._wants_string
        if token.kind is Kind.WORD and token.text in self.reserved and strings:
            notes.append(f'{token.text} is a reserved word; as a name or value it must be quoted: "{token.text}"')
        if token.kind is Kind.WORD and token.text in CLASSIC_INSIDE and self.reserved is RESERVED:
            notes.append(f"{token.text} is a word of smtpd.conf before 6.4; it is now: {CLASSIC_INSIDE[token.text]}")
        if token.kind is Kind.NUMBER and strings:
            notes.append(f'a number must be quoted here: "{token.text}"')
        if token.kind is Kind.MARK and token.text in "/@*[+-.%~?&|;":
            notes.append(f"what begins with {token.text} must be quoted")
        notes += hints(token, self._before, self._want)
        before = self._before
        if before is not None and before.kind is Kind.QUOTED and not before.macro:
            first, last = before.at.line, before.file.position(before.end).line
            if first != last:
                notes.append(f"the string before it begins in line {first}; is its closing quote missing?")
        if self._braces and self._braces[-1].at.line != token.at.line:
            notes.append(f"inside of braces since {self._braces[-1].at}; is their end missing?")
        return notes


def describe(token: Token) -> str:
    """A token as an error names it."""
    if token.kind in (Kind.NEWLINE, Kind.END):
        return "end of line" if token.kind is Kind.NEWLINE else "end of file"
    if token.kind is Kind.MARK:
        return f"'{token.text}'" if token.text.isprintable() else f"character U+{ord(token.text[0]):04X}"
    if token.kind is Kind.QUOTED:
        return f"string {shown(token.text)}"
    return shown(token.text)
