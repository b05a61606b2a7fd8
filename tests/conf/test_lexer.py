"""The words of the language, rule by rule."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.lexer import TOKEN_MAX, File, Kind, Scanner, Token, scan_macro

W, Q, N, M = Kind.WORD, Kind.QUOTED, Kind.NUMBER, Kind.MARK


def scan(text: str) -> list[Token]:
    scanner = Scanner(File("f", text))
    tokens = [scanner.next()]
    while tokens[-1].kind is not Kind.END:
        tokens.append(scanner.next())
    return tokens


def line(text: str) -> list[tuple[Kind, str]]:
    """The tokens of one line without its end."""
    tokens = scan(text)
    assert [token.kind for token in tokens[-2:]] == [Kind.NEWLINE, Kind.END]
    return [(token.kind, token.text) for token in tokens[:-2]]


@pytest.mark.parametrize(("text", "tokens"), [
    ("", []),
    ("  \t ", []),
    ("# comment", []),
    ("a b", [(W, "a"), (W, "b")]),
    ("a\tb # c", [(W, "a"), (W, "b")]),
    ("a#b", [(W, "a")]),
    ("file:/etc/x ::1 _x", [(W, "file:/etc/x"), (W, "::1"), (W, "_x")]),
    ("smtp+tls://l@h:25", [(W, "smtp+tls://l@h:25")]),
    ("a$b", [(W, "a$b")]),
    ("a\"b\"", [(W, 'a"b"')]),
    ("a{b}", [(W, "a"), (M, "{"), (W, "b"), (M, "}")]),
    ("a=b=>c", [(W, "a"), (M, "="), (W, "b"), (M, "=>"), (W, "c")]),
    ("<a>!b,c()", [(M, "<"), (W, "a"), (M, ">"), (M, "!"), (W, "b"), (M, ","), (W, "c"), (M, "("), (M, ")")]),
    ("/x", [(M, "/"), (W, "x")]),
    ("*.x", [(M, "*"), (M, "."), (W, "x")]),
    ("@x", [(M, "@"), (W, "x")]),
])
def test_words(text: str, tokens: list[tuple[Kind, str]]) -> None:
    assert line(text) == tokens


@pytest.mark.parametrize(("text", "tokens"), [
    ("25", [(N, "25")]),
    ("-25", [(N, "-25")]),
    ("25,25}25=", [(N, "25"), (M, ","), (N, "25"), (M, "}"), (N, "25"), (M, "=")]),
    ("10/8", [(N, "10"), (M, "/"), (N, "8")]),
    ("25M", [(W, "25M")]),
    ("10.0.0.0/8", [(W, "10.0.0.0/8")]),
    ("25#", [(W, "25")]),
    ("25{", [(W, "25"), (M, "{")]),
    ("-", [(M, "-")]),
    ("-x", [(M, "-"), (W, "x")]),
    ("25\\\n", [(N, "25")]),
    ("25\\\n 26", [(N, "25"), (N, "26")]),
])
def test_numbers(text: str, tokens: list[tuple[Kind, str]]) -> None:
    assert line(text) == tokens


@pytest.mark.parametrize(("text", "value"), [
    ('"a b"', "a b"),
    ("'a b'", "a b"),
    ('""', ""),
    ('"it\'s"', "it's"),
    (r'"a\"b"', 'a"b'),
    (r"'a\'b'", "a'b"),
    ("\"a\\'b\"", "a\\'b"),
    (r'"a\\b"', r"a\\b"),
    (r'"a\.b"', r"a\.b"),
    ('"a\\ b\\\tc"', "a b\tc"),
    ('"a\nb"', "ab"),
    ('"a\\\nb"', "ab"),
    ('"a # b"', "a # b"),
    ('"$x"', "$x"),
])
def test_strings(text: str, value: str) -> None:
    assert line(text) == [(Q, value)]


@pytest.mark.parametrize(("text", "tokens"), [
    ("a\\\nb", [(W, "ab")]),
    ("a \\\n b", [(W, "a"), (W, "b")]),
    ("a\\ b", [(W, "a"), (W, "b")]),
    ("a\\b", [(W, "ab")]),
    ("a\\\\b", [(W, "a\\b")]),
    ("\\a", [(W, "a")]),
    ("\\# comment", []),
    ('\\"a b"', [(Q, "a b")]),
    ("a\\{", [(W, "a"), (M, "{")]),
    ("\\\\", [(M, "\\")]),
    ("\\", [(M, "\\")]),
    ("# a \\\n b", []),
    ("# a \\\\\nb", [(Kind.NEWLINE, ""), (W, "b")]),
])
def test_backslashes(text: str, tokens: list[tuple[Kind, str]]) -> None:
    assert line(text) == tokens


@pytest.mark.parametrize(("text", "why"), [
    ('"abc', "never closed"),
    ("'abc\nd", "never closed"),
    (r'"abc\"', "never closed"),
    (r'"abc\\"', "never closed"),
    ('"a\0b"', "NUL"),
    ("\0", "NUL"),
    ("\ufeffa", "byte order mark"),
    ("a\u00a0b", "no-break space"),
    ("a\rb", "carriage return"),
    ("\udcff", "octet 0xFF"),
    ('"\udcff"', "not UTF-8"),
    (f'"{"x" * (TOKEN_MAX + 1)}"', "too long"),
    ("é x", ""),
    ("w" * (TOKEN_MAX + 1), "too long"),
    (f'"{"é" * (TOKEN_MAX // 2 + 1)}"', "too long"),
])
def test_what_is_no_word(text: str, why: str) -> None:
    bad = [token.text for token in scan(text) if token.kind is Kind.BAD]
    assert [why in text for text in bad] == ([True] if why else [])


def test_the_longest_string() -> None:
    assert line(f'"{"x" * TOKEN_MAX}"') == [(Q, "x" * TOKEN_MAX)]


def test_a_file_may_end_anywhere() -> None:
    for text in ("", "\n", "a", "a\n", "a\n ", "a\n# b", "# b\\", "a\\\n"):
        kinds = [token.kind for token in scan(text)]
        assert kinds.count(Kind.END) == 1
        assert kinds[-2] is Kind.NEWLINE


def test_positions() -> None:
    at = [str(token.at) for token in scan('a "b\nc" \\\n  d\n\te')]
    assert at == ["f:1:1", "f:1:3", "f:3:3", "f:3:4", "f:4:2", "f:4:3", "f:4:3"]


def macro(value: str) -> tuple[list[tuple[Kind, str]], bool]:
    tokens, commented = scan_macro(value, "m", scan("$m")[0])
    assert all((token.start, token.end, token.macro) == (0, 2, "m") for token in tokens)
    return [(token.kind, token.text) for token in tokens], commented


def test_macros() -> None:
    assert [(token.kind, token.text) for token in scan("$a_1.b $")[:2]] == [(Kind.MACRO, "a_1"), (M, ".")]
    assert macro("a b") == ([(W, "a"), (W, "b")], False)
    assert macro('"a b"') == ([(Q, "a b")], False)
    assert macro("") == ([], False)
    assert macro("a # b") == ([(W, "a")], True)
    assert macro('"# b"') == ([(Q, "# b")], False)
    assert macro("/x")[0] == [(M, "/"), (W, "x")]
    assert macro("a\nb")[0] == [(W, "a"), (Kind.NEWLINE, ""), (W, "b")]
    assert macro("a $b")[0][1][0] is Kind.BAD


@settings(max_examples=200)
@given(st.text(st.sampled_from("ab1 \t\n\\\"'#$-={}<>\0é,"), max_size=40))
def test_any_text_is_cut_without_gaps(text: str) -> None:
    tokens = scan(text)
    assert all(one.end <= two.start for one, two in itertools.pairwise(tokens))
    assert all(one.kind is not Kind.END for one in tokens[:-1])
