"""Addresses out of a header field or an operand (RFC 5322 3.4): comments, quotes, routes, groups and folding."""

import re

ADDRESS_MAX = 1000

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<quoted>"(?:[^"\\]|\\.)*")
      | (?P<special>[<>(),:;])
      | (?P<atom>(?:[^\s"<>(),:;\\]|\\.)+)""",
    re.VERBOSE | re.DOTALL,
)


class SyntaxFault(ValueError):
    """This is no list of addresses: why."""


def parse(text: str) -> list[str]:
    """The addresses of a list, without names and comments; ``<>`` is the empty one.  Raises SyntaxFault."""
    return _List(_tokens(text)).addresses()


def _tokens(text: str) -> list[str]:
    """Quoted strings, specials, atoms, and ``" "`` for any space between them; no comments."""
    tokens: list[str] = []
    at, depth = 0, 0
    while at < len(text):
        if depth:
            # Inside a comment only its parentheses and what is escaped count.
            step = 2 if text[at] == "\\" else 1
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            at += step
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise SyntaxFault("syntax error in address")
        at = match.end()
        if match.lastgroup == "space":
            tokens.append(" ")
        elif match.group() == "(":
            depth = 1
            tokens.append(" ")
        elif match.group() == ")":
            raise SyntaxFault("syntax error in address")
        else:
            tokens.append(match.group())
    if depth:
        raise SyntaxFault("syntax error in address")
    return tokens


class _List:
    """A list while it is read: address *("," address), group = name ":" [list] ";"."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._found: list[str] = []
        self._words: list[str] = []     # since the last comma
        self._angle: str | None = None  # the address that stood in <>
        self._in_group = False

    def addresses(self) -> list[str]:
        tokens = iter(self._tokens)
        for token in tokens:
            if token == "<":
                if self._angle is not None:
                    raise SyntaxFault("syntax error in address")
                self._angle = self._until_closed(tokens)
            elif token == ">":
                raise SyntaxFault("syntax error in address")
            elif token == ",":
                self._end()
            elif token == ":":
                if self._in_group or self._angle is not None or not "".join(self._words).strip():
                    raise SyntaxFault("syntax error in address")
                self._in_group = True
                self._words.clear()
            elif token == ";":
                self._end()
                self._in_group = False
            else:
                self._words.append(token)
        self._end()
        return self._found

    def _until_closed(self, tokens: "object") -> str:
        inside: list[str] = []
        for token in tokens:  # type: ignore[attr-defined]  # an iterator, shared with the caller
            if token == ">":
                address = "".join(inside).replace(" ", "")
                # A source route is read and dropped (RFC 5321 4.1.1.3).
                return address.rpartition(":")[2] if address.startswith("@") else address
            if token in "<;":
                break
            inside.append(token)
        raise SyntaxFault("syntax error in address")

    def _end(self) -> None:
        """One address is complete."""
        text = "".join(self._words).strip()
        address = self._angle
        if address is None:
            if not text:
                return
            address = text.replace(" @ ", "@").replace(" @", "@").replace("@ ", "@")
            if " " in _unquoted(address):
                raise SyntaxFault("syntax error in address")
        if len(address) > ADDRESS_MAX:
            raise SyntaxFault("address exceeds buffer size")
        self._found.append(address)
        self._words.clear()
        self._angle = None


def _unquoted(text: str) -> str:
    return re.sub(r'"(?:[^"\\]|\\.)*"', "q", text)
