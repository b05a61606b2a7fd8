"""Lines of smtpd.conf as they may be shown: with stars for what may be a password or a key.

Errors go to terminals, to logs and from there to whoever is asked for help.  Stars stand for the values of mappings,
quoted texts of macros, the keys of srs and queue encryption, passwords within URLs, and what commands call a password,
one for each character, so that a caret stays where it was.
"""

import re

from pysmtpd.conf.lexer import File, Kind, Scanner, Token

_REST = re.compile(r"[^\s}]*")
_LINE = re.compile(r"[^\n]*")
_IN_URL = re.compile(r"(?<=://)([^@\s/:\"']*:)([^@\s\"']+)(?=@)")
# Of a command: --password X, TOKEN=X; and the second half of -u name:X, as curl has it.
_CALLED = r"(?:pass(?:w(?:or)?d|phrase)?|pwd|secret|token|api[-_]?key|credentials?)"
_IN_COMMAND = re.compile(
    rf"(?i)((?:(?<![\w-])--?(?:[\w-]*[-_])?{_CALLED}(?:=|[ \t]+)|(?<![a-z0-9]){_CALLED}=)[\"']?)([^\s\"'=-][^\s\"']*)")
_LOGIN = re.compile(r"((?:(?<!\S)-u\s*|--user(?:name)?[=\s]+)[\"']?[^\s:\"']+:)([^\s\"']+)")
_STRINGS = (Kind.WORD, Kind.QUOTED, Kind.NUMBER, Kind.BAD)


def shown_line(file: File, number: int) -> str:
    """A line without its end and without secrets."""
    start, line = file.start(number), file.line(number)
    if file.secrets is None:
        file.secrets = _secrets(file)
    for first, last in file.secrets:
        begin, end = max(first - start, 0), last - start
        if end > begin:
            line = line[:begin] + re.sub(r"[^\t]", "*", line[begin:end]) + line[end:]
    return veiled(line)


def veiled(text: str) -> str:
    """A text with stars for passwords in URLs, and for what follows the word password or its like in a command."""
    for pattern in (_IN_URL, _IN_COMMAND, _LOGIN):
        text = pattern.sub(lambda match: match[1] + "*" * len(match[2]), text)
    return text


def _secrets(file: File) -> list[tuple[int, int]]:
    """Where secrets begin and end."""
    found: list[tuple[int, int]] = []
    scanner = Scanner(file)
    before: list[Token] = []           # of this statement
    depth = 0
    while (token := scanner.next()).kind is not Kind.END:
        if token.kind is Kind.NEWLINE:
            before = before if depth else []
            continue
        depth = max(0, depth + token.is_mark("{") - token.is_mark("}"))
        if token.kind in _STRINGS and _is_secret(before, token, depth):
            found.append(_extent(file, token))
        before = [*before[-2:], token]
    return found


def _is_secret(before: list[Token], token: Token, depth: int) -> bool:
    words = [one.text.lower() for one in before]
    if before and before[-1].kind is Kind.MARK and words[-1] in ("=", "=>"):
        return depth > 0 or token.kind in (Kind.QUOTED, Kind.BAD)
    return words[-2:] in (["srs", "key"], ["queue", "encryption"], ["encryption", "key"]) or (
        words == ["srs", "key", "backup"])


def _extent(file: File, token: Token) -> tuple[int, int]:
    """A quoted text without its quotes; an unquoted one as far as somebody would take it for one."""
    if token.kind is Kind.QUOTED:
        return token.start + 1, token.end - 1
    match = (_LINE if token.kind is Kind.BAD else _REST).match(file.text, token.end)
    assert match is not None
    return token.start + (token.kind is Kind.BAD), match.end()
