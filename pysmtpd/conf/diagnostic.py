"""What is said about a configuration: where, what, and the way out.

The first line is ``file:line:column: message``; then come the line itself, a caret under the place, and notes.
"""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from pysmtpd.conf.config import Position
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.veil import shown_line

LINE_MAX = 200                     # characters of the line that are shown
SHOWN_MAX = 40                     # characters of a word that are shown


class Diagnostic(NamedTuple):
    """An error or a warning."""

    at: Position
    message: str
    line: str = ""
    width: int = 1                 # characters under which the caret stands
    notes: tuple[str, ...] = ()
    warning: bool = False

    def __str__(self) -> str:
        lines = [f"{self.at}: {'warning: ' if self.warning else ''}{self.message}"]
        if self.line:
            lines += [f"    {printable(self.line[:LINE_MAX])}"]
            if self.at.column <= LINE_MAX:
                before = "".join("\t" if char == "\t" else " " for char in self.line[: self.at.column - 1])
                room = max(1, min(len(self.line), LINE_MAX) - len(before))
                lines += [f"    {before}{'^' * min(self.width, room)}"]
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


class Refused(Exception):
    """Ends the parsing of one statement, or the making of one part of the Config."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(str(diagnostic))
        self.diagnostic = diagnostic


def about(token: Token, message: str, notes: Iterable[str] = (), *, warning: bool = False) -> Diagnostic:
    """A diagnostic that points at a token, and says how that came to be read."""
    at = token.at
    line = shown_line(token.file, at.line)
    width = min(token.end - token.start, len(line) - at.column + 1)
    more = [f"in the text of macro ${token.macro}"] if token.macro else []
    file = token.file
    while file.included is not None:
        more.append(f"included from {file.included.at}")
        file = file.included.file
    return Diagnostic(at, message, line, max(1, width), (*notes, *more), warning)


def inside(token: Token, offset: int, length: int) -> Token:
    """The part of a token that stands where these characters of its text do, where that can be told."""
    begin = token.file.text.find(token.text, token.start, token.end)
    if begin < 0:                  # there are escapes in it, or it is not where its macro is used
        return token
    return token._replace(start=begin + offset, end=begin + offset + length)


def printable(text: str) -> str:
    """A line of a file as it may be shown on a terminal: what cannot be printed becomes ``?``."""
    return "".join(char if char.isprintable() or char == "\t" else "?" for char in text)


def shown(text: str) -> str:
    """A word of a file in quotes, cut when it is long."""
    cut = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
    return f'"{printable(cut)}"'


def closest(word: str, known: Iterable[str]) -> str:
    """Of the known words the one that was probably meant, or an empty string."""
    found = difflib.get_close_matches(word.lower()[:64], list(known), n=1, cutoff=0.7)
    return found[0] if found else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean "x"?`` or nothing."""
    near = closest(word, known)
    return f', did you mean "{near}"?' if near and near != word else ""


def one_of(words: Iterable[str]) -> str:
    """``a, b or c``."""
    listed = list(dict.fromkeys(words))
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} or {listed[-1]}"
