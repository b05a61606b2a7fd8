"""The words of smtpd.conf(5).

A Scanner cuts one text into tokens, one at a time, because a macro is replaced by its text before the rest of the
line is looked at.  The rules are OpenSMTPD's:

* statements end with the line; a backslash before the end of a line joins the next one, also in a comment;
* both kinds of quotes; inside them only the quote, space and tab can be escaped, and line ends vanish;
* an unquoted word begins with a letter, a digit, ``:`` or ``_`` and goes on with all but ``(){}<>!=#,``;
* digits are a number only before a blank or one of ``),/}=``.

What cannot be a token becomes one of kind BAD, whose text says why.
"""

import enum
import re
from bisect import bisect_right
from typing import NamedTuple

from pysmtpd.conf.config import Position

TOKEN_MAX = 8095                   # octets
_INSIDE = r"[A-Za-z0-9:_\"$%&'*+\-./;?@\[\]^`|~]"
# No possessive quantifier over alternatives: Python 3.11.2, which Debian 12 has, gets those wrong (gh-106052).  The
# alternatives exclude each other, so there is nothing to come back to.
_CONTINUED = rf"(?:{_INSIDE}|\\\n|\\(?:{_INSIDE}|\\))*"
_SKIPPED = re.compile(r"(?:[ \t]|\\\n|\\(?=[^\\\n]))*(?P<comment>#(?:[^\\\n]|\\[\s\S]|\\\Z)*)?")
_TOKEN = re.compile(
    rf"""(?P<number>-?[0-9]+(?=(?:\\\n)*(?:[ \t\n\r\f\v),/}}=]|\Z)))
      | (?P<word>[A-Za-z0-9:_]{_CONTINUED})
      | "(?P<double>(?:[^"\\]|\\"|\\(?!"))*)"
      | '(?P<single>(?:[^'\\]|\\'|\\(?!'))*)'
      | \$(?P<macro>[A-Za-z0-9_]*)
      | (?P<newline>\n)
      | (?P<arrow>=>)
      | (?P<mark>\\\\|[\s\S])""",
    re.VERBOSE,
)
_REST_OF_WORD = re.compile(_CONTINUED)
_REST_OF_LINE = re.compile(r"(?:[^\\\n]|\\[\s\S]|\\\Z)*")
_ESCAPE = re.compile(r"\\(\n|.)")
_ESCAPES = {'"': re.compile(r'\n|\\(["\t \n])'), "'": re.compile(r"\n|\\(['\t \n])")}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Kind(enum.Enum):
    """What a token is."""

    WORD = enum.auto()             # not quoted: reserved or not
    QUOTED = enum.auto()
    NUMBER = enum.auto()
    MARK = enum.auto()             # one character, or =>
    MACRO = enum.auto()            # its text is the name
    NEWLINE = enum.auto()
    END = enum.auto()
    BAD = enum.auto()


class File:
    """One text, and where in it a line begins."""

    def __init__(self, name: str, text: str, included: "Token | None" = None) -> None:
        """included: what names it in an include, if it is not the first file."""
        self.name = name
        self.text = text
        self.included = included
        self.secrets: list[tuple[int, int]] | None = None   # where they begin and end, once somebody asked
        self._lines = [0]
        self._lines += (match.end() for match in re.finditer("\n", text))

    def position(self, offset: int) -> Position:
        """Line and column, counted from 1."""
        line = bisect_right(self._lines, offset)
        return Position(self.name, line, offset - self._lines[line - 1] + 1)

    def start(self, number: int) -> int:
        """Where a line begins."""
        return self._lines[number - 1]

    def line(self, number: int) -> str:
        """The text of a line without its end."""
        start = self.start(number)
        end = self.text.find("\n", start)
        return self.text[start:] if end == -1 else self.text[start:end]


class Token(NamedTuple):
    """The smallest thing of the grammar.  A token of a macro stands where the macro was used."""

    kind: Kind
    text: str
    file: File
    start: int
    end: int
    macro: str = ""

    @property
    def at(self) -> Position:
        return self.file.position(self.start)

    def is_mark(self, text: str) -> bool:
        return self.kind is Kind.MARK and self.text == text


class Scanner:
    """Cuts a file into tokens."""

    def __init__(self, file: File) -> None:
        self.file = file
        self._at = 0
        self.joined_comments: list[int] = []   # where a comment goes on in the next line
        self.ends_in_comment = False
        self._line_is_open = True              # no NEWLINE since the last token

    def next(self) -> Token:
        """The next token; at the end a NEWLINE if the last line has none, then END for ever."""
        text = self.file.text
        skipped = _SKIPPED.match(text, self._at)
        assert skipped is not None
        comment = skipped["comment"]
        if comment is not None and "\\\n" in comment:
            self.joined_comments.append(skipped.start("comment") + comment.index("\\\n"))
        start = skipped.end()
        self.ends_in_comment = comment is not None and start == len(text)
        match = _TOKEN.match(text, start)
        if match is None:
            return self._end()
        self._at = match.end()
        kind = match.lastgroup
        self._line_is_open = kind != "newline"
        if kind == "newline":
            return Token(Kind.NEWLINE, "", self.file, start, self._at)
        if kind == "mark":
            return self._mark(match[0], start)
        if kind == "macro":
            return Token(Kind.MACRO, match["macro"], self.file, start, self._at)
        return self._text(kind or "", match)

    @property
    def at(self) -> int:
        """How far it has read."""
        return self._at

    def rest_of_word(self) -> str:
        """What follows directly and would belong to an unquoted word; it is passed over."""
        match = _REST_OF_WORD.match(self.file.text, self._at)
        assert match is not None
        self._at = match.end()
        return _unescape(match[0])

    def skip_line(self) -> None:
        """Pass over the rest of the line, as after the beginning of a comment."""
        match = _REST_OF_LINE.match(self.file.text, self._at)
        assert match is not None
        self._at = match.end()

    def _end(self) -> Token:
        kind = Kind.NEWLINE if self._line_is_open else Kind.END
        self._line_is_open = False
        self._at = end = len(self.file.text)
        return Token(kind, "", self.file, end, end)

    def _mark(self, found: str, start: int) -> Token:
        if found in "\"'":
            return self._bad("this quote is never closed", start)
        if found == "\ufeff":
            return self._bad("the file begins with a byte order mark; save it as UTF-8 without one", start)
        if found == "\0":
            return self._bad("NUL octet", start)
        if found == "\r":
            return self._bad("carriage return: lines end with LF alone", start)
        if _SURROGATE.match(found):
            return self._bad(f"octet 0x{ord(found) & 0xFF:02X}: this is not UTF-8", start)
        if found == "\u00a0":
            return self._bad("this is a no-break space; use a plain one", start)
        return Token(Kind.MARK, found[-1], self.file, start, self._at)

    def _text(self, kind: str, match: re.Match[str]) -> Token:
        start = match.start()
        if kind == "number":
            text = match[0]
        elif kind == "word":
            text = _unescape(match[0])
        elif kind == "arrow":
            return Token(Kind.MARK, "=>", self.file, start, self._at)
        else:
            quote = match[0][0]
            text = _ESCAPES[quote].sub(_unquote, match[kind])
            if "\0" in text:
                return self._bad("NUL octet in a string", start)
        if _SURROGATE.search(text):
            return self._bad("this string is not UTF-8", start)
        if len(text) * 4 > TOKEN_MAX and len(text.encode()) > TOKEN_MAX:
            return self._bad(f"string too long: more than {TOKEN_MAX} octets", start)
        named = Kind.NUMBER if kind == "number" else Kind.WORD if kind == "word" else Kind.QUOTED
        return Token(named, text, self.file, start, self._at)

    def _bad(self, why: str, start: int) -> Token:
        return Token(Kind.BAD, why, self.file, start, self._at)


def _unescape(word: str) -> str:
    return _ESCAPE.sub(_unquote, word) if "\\" in word else word


def _unquote(match: re.Match[str]) -> str:
    escaped: str | None = match[1]
    return "" if escaped is None or escaped == "\n" else escaped


def scan_macro(value: str, name: str, use: Token) -> tuple[list[Token], bool]:
    """The tokens of a macro's text, and whether it ends in a comment.

    They stand at its use.  A macro is not looked for inside another: its ``$`` is a mark like any other.
    """
    file = File(use.file.name, value)
    scanner = Scanner(file)
    tokens: list[Token] = []
    while True:
        token = scanner.next()
        if token.kind is Kind.END or (token.kind is Kind.NEWLINE and token.start == len(value)):
            break
        kind, text = token.kind, token.text
        if kind is Kind.MACRO:
            kind, text = Kind.BAD, f"macro '{name}' holds a $: a macro cannot use another one"
        elif kind is Kind.BAD:
            text = f"macro '{name}': {text}"
        tokens.append(Token(kind, text, use.file, use.start, use.end, name))
    return tokens, scanner.ends_in_comment
