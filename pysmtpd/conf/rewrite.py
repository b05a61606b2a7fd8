"""Statements of today's language, made of the tokens of yesterday's.

The language before 6.4 has no productions that fill in the Draft: a statement of it is read by conf/classic*.py,
written down again in today's words, and that is what the grammar reads.  So both mean the same by construction, and
``smtpctl config migrate`` only has to print what was written.  Each token keeps its place in the file, for errors.
"""

from collections.abc import Iterable

from pysmtpd.conf.draft import Rewritten, Said
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.words import RESERVED

Statement = tuple[Said, ...]


def word(text: str, at: Token) -> Said:
    """A keyword in the place of a token."""
    return Said(Token(Kind.WORD, text, at.file, at.start, at.end), copied=False)


def words(text: str, at: Token) -> list[Said]:
    """Keywords in the place of a token."""
    return [word(one, at) for one in text.split()]


def quoted(text: str, at: Token) -> Said:
    """A string in the place of a token."""
    return Said(Token(Kind.QUOTED, text, at.file, at.start, at.end), copied=False)


def kept(token: Token) -> Said:
    """A token as it is; what is reserved now, and was not then, gets quotes."""
    if token.kind is Kind.WORD and token.text in RESERVED:
        return quoted(token.text, token)
    return Said(token, copied=True)


def keyword(token: Token) -> Said:
    """A word that both languages have."""
    return Said(token, copied=True)


def mark(text: str, at: Token) -> Said:
    """A punctuation mark in the place of a token."""
    return Said(Token(Kind.MARK, text, at.file, at.start, at.end), copied=False)


def table(p: Parser) -> list[Said]:
    """table = "<" NAME ">" | STRING | "{" entries "}" | "map" NAME"""
    if p.token.is_mark("<"):
        opened = p.advance()
        name = p.string("the name of a table")
        p.must_mark(">")
        return [keyword(opened), kept(name), keyword(p.last)]
    if p.token.is_mark("{") or p.token.is_mark("("):
        return entries(p)
    if p.token.kind is Kind.WORD and p.token.text == "map":
        p.advance()
        return named(p.string("the name of a map"))
    p.word("a table")
    return [kept(p.string("a value"))]


def mapping(p: Parser) -> list[Said]:
    """table, but a STRING names it, as before 5.3: one value would be no mapping."""
    if p.at_string and not (p.token.kind is Kind.WORD and p.token.text == "map"):
        return named(p.advance())
    return table(p)


def named(name: Token) -> list[Said]:
    """A reference to a table."""
    return [mark("<", name), Said(kept(name).token, copied=False), mark(">", name)]


def table_follows(p: Parser) -> bool:
    """Whether a table stands here, where one may be left out."""
    if p.at_string or p.token.is_mark("<") or p.token.is_mark("{"):
        return True
    p.word("a table")
    return False


def entries(p: Parser) -> list[Said]:
    """entries = entry { [ "," ] entry } .
    entry = STRING [ ( "=" | "=>" ) STRING ]

    Between braces, or parentheses before 5.3."""
    opened = p.advance()
    closing = "}" if opened.text == "{" else ")"
    found = [keyword(opened) if closing == "}" else mark("{", opened)]
    while True:
        p.new_lines()
        found.append(kept(p.string("an entry")))
        if p.token.is_mark("=") or p.token.is_mark("=>"):
            found.append(keyword(p.advance()))
            found.append(kept(p.secret("a value")))
        comma = p.comma()
        if comma is not None:
            found.append(keyword(comma))
        elif p.mark(closing):
            found.append(keyword(p.last) if closing == "}" else mark("}", p.last))
            return found


def now(p: Parser, first: Token, statements: Iterable[Iterable[Said]], *notes: str) -> None:
    """The statement is over; it says this in today's language, and the grammar reads that at once."""
    p.end()
    made = tuple(tuple(one) for one in statements)
    p.draft.rewritten.append(Rewritten(first, p.last, made, notes))
    for one in made:
        p.replay([said.token for said in one])
