"""lookup.program: smtpd-tables(7) 0.1, line by line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.lookup.program import FORGOTTEN_MAX, LINE_MAX, Conversation, ProtocolError, Reply
from pysmtpd.lookup.service import Service


def registered(*services: str) -> Conversation:
    talk = Conversation("devs", "7.8.0")
    lines = "".join(f"register|{service}\n" for service in (services or ("alias", "source")))
    assert talk.receive(f"{lines}register|ready\n".encode()) == [] and talk.ready
    return talk


def test_the_words_of_the_manual() -> None:
    talk = Conversation("devs", "7.8.0")
    assert talk.hello() == b"config|smtpd-version|7.8.0\nconfig|protocol|0.1\nconfig|tablename|devs\nconfig|ready\n"
    talk.receive(b"register|alias\nregister|credentials\nregis")
    talk.receive(b"ter|ready\n")
    assert talk.ready and talk.services == {Service.ALIAS, Service.CREDENTIALS}
    assert talk.request(1713795082.354255, "lookup", "alias", "op|x") == (
        1, b"table|0.1|1713795082.354255|devs|lookup|alias|00000001|op|x\n")
    assert talk.request(2, "update") == (2, b"table|0.1|2.000000|devs|update|00000002\n")
    assert talk.request(3, "fetch", "source") == (3, b"table|0.1|3.000000|devs|fetch|source|00000003\n")
    assert talk.request(4, "check", "netaddr", "192.168.0.7")[1] == (
        b"table|0.1|4.000000|devs|check|netaddr|00000004|192.168.0.7\n")


@pytest.mark.parametrize("operation, line, reply", [
    ("lookup", "lookup-result|00000001|found|a|b", ("found", "a|b")),
    ("lookup", "lookup-result|1|not-found", ("not-found", "")),
    ("lookup", "lookup-result|00000001|error|no database", ("error", "no database")),
    ("lookup", "lookup-result|00000001|error", ("error", "")),
    ("check", "check-result|00000001|found", ("found", "")),
    ("check", "check-result|00000001|not-found", ("not-found", "")),
    ("update", "update-result|00000001|ok", ("ok", "")),
    ("update", "update-result|00000001|error|failed", ("error", "failed")),
    ("fetch", "fetch-result|00000001|found|10.0.0.8", ("found", "10.0.0.8")),
    ("fetch", "lookup-result|00000001|found|10.0.0.8", ("found", "10.0.0.8")),   # as in the manual's example
])
def test_replies(operation: str, line: str, reply: tuple[str, str]) -> None:
    talk = registered()
    talk.request(0, operation, "" if operation == "update" else "alias", "k")
    assert talk.receive(f"{line}\n".encode()) == [Reply(1, *reply)]
    assert talk.open == 0


@pytest.mark.parametrize("line", [
    "", "hello", "register|alias", "lookup-result", "lookup-result|1", "lookup-result|1|", "lookup-result|1|found",
    "lookup-result|1|found|", "lookup-result|2|not-found", "lookup-result|zz|not-found", "lookup-result||not-found",
    "lookup-result|000000001|not-found", "lookup-result|-1|not-found", "lookup-result| 1|not-found",
    "lookup-result|1_0|not-found", "check-result|1|found", "update-result|1|ok", "fetch-result|1|found|x",
    "lookup-result|1|ok", "LOOKUP-result|1|not-found", "table|0.1", "\udce9",
])
def test_what_ends_the_conversation(line: str) -> None:
    talk = registered()
    talk.request(0, "lookup", "alias", "k")
    with pytest.raises(ProtocolError):
        talk.receive(line.encode("utf-8", "surrogateescape") + b"\n")


@pytest.mark.parametrize("data", [
    b"register|ready\n", b"register|nonsense\nregister|ready\n", b"hello\n", b"\x01\0\0\0\x10\0", b"config|ready\n",
    b"registe\n", b"\xff\xfe\n", b"lookup-result|1|found|x\n",
])
def test_what_is_no_handshake(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Conversation("t", "v").receive(data)


def test_an_old_binary_program_gets_a_clear_word() -> None:
    with pytest.raises(ProtocolError, match=r"7\.6 and later \(older table programs are binary\)"):
        Conversation("t", "v").receive(b"\x01\x00\x00\x00\x18\x00\x00\x00")


def test_services_nobody_knows_are_told_of_and_do_no_harm() -> None:
    talk = registered("alias", "quantum")
    assert talk.services == {Service.ALIAS} and talk.unknown == ["quantum"]


@pytest.mark.parametrize("key", ["a\nb", "a\rb", "a\0b", "k" * 5000])
def test_a_key_is_one_line(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        registered().request(0, "lookup", "alias", key)


def test_a_late_reply_is_ignored_once() -> None:
    talk = registered()
    ident, _ = talk.request(0, "lookup", "alias", "k")
    talk.forget(ident)
    assert talk.receive(b"lookup-result|1|found|late\n") == []
    with pytest.raises(ProtocolError):
        talk.receive(b"lookup-result|1|found|late\n")


def test_what_is_forgotten_is_bounded() -> None:
    talk = registered()
    for _ in range(FORGOTTEN_MAX + 10):
        talk.forget(talk.request(0, "lookup", "alias", "k")[0])
    assert len(talk._forgotten) == FORGOTTEN_MAX and talk.open == 0


@pytest.mark.parametrize("data", [b"x" * (LINE_MAX + 1), b"lookup-result|1|found|" + b"x" * LINE_MAX + b"\n"])
def test_lines_are_bounded(data: bytes) -> None:
    talk = registered()
    talk.request(0, "lookup", "alias", "k")
    with pytest.raises(ProtocolError, match="more than"):
        talk.receive(data)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([
    b"register|alias\n", b"register|ready\n", b"lookup-result|1|found|v\n", b"lookup-result|2|not-found\n", b"|", b"\n",
]), max_size=12), st.integers(1, 7))
@settings(max_examples=200)
def test_any_octets_in_any_pieces_have_the_same_effect(pieces: list[bytes], size: int) -> None:
    def fed(parts: list[bytes]) -> tuple[list[Reply], bool]:
        talk = Conversation("t", "v")
        for _ in range(2):
            talk.request(0, "lookup", "alias", "k")
        found: list[Reply] = []
        try:
            for part in parts:
                found += talk.receive(part)
        except ProtocolError:
            return [], False
        return found, True

    whole = b"".join(pieces)
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert fed([whole])[1] == fed(cut)[1]
    if fed([whole])[1]:
        assert fed([whole]) == fed(cut)
