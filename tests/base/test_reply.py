"""Replies: the named ones stand for themselves, made ones cannot break the protocol."""

import re

import pytest

from pysmtpd.base import esc, reply


def test_named_replies() -> None:
    named = {name: text for name, text in vars(reply).items() if re.match(r"R\d", name) and isinstance(text, str)}
    assert len(named) > 30
    for name, text in named.items():
        assert name[1:4] == text[:3]
        assert re.fullmatch(r"[2-5]\d\d( [245]\.\d\.\d)? [ -~]+", text)
        code = re.match(r"\d{3} (\d)\.", text)
        # RFC 2034 4: the class agrees with the code
        assert code is None or code[1] == text[0]
    assert reply.R503_NOT_ALLOWED == "503 5.5.1 Invalid command: Command not allowed at this point."
    assert reply.R250_RECIPIENT == "250 2.1.5 Destination address valid: Recipient ok"


def test_line_cleans_and_cuts() -> None:
    assert reply.line("250 a\r\nb\té") == "250 a??b??"
    assert len(reply.line("x" * 600)) == 510


@pytest.mark.parametrize("text, wanted", [
    ("550 Invalid recipient", "550 Invalid recipient: <a@b>"),
    ("421 x", "421 x: <a@b>"),
    ("250 ok", None), ("", None), ("550", None), ("550-more", None), ("560 x", None),
    ("550 x\r\n250 y", None), ("550 é", None),
])
def test_refusal(text: str, wanted: str | None) -> None:
    assert reply.refusal(text, "a@b") == wanted


def test_multiline() -> None:
    assert reply.multiline(250, reply.Reply("250 a"), ("b", "c")) == b"250-a\r\n250-b\r\n250 c\r\n"
    assert reply.multiline(250, reply.Reply("250 a"), ()) == b"250 a\r\n"


def test_full() -> None:
    assert esc.full(503, esc.INVALID_COMMAND) == "5.5.1"
    assert all(re.fullmatch(r"\d\.\d", detail) for detail in esc.DESCRIPTIONS)
