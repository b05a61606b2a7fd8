"""smtpctl.parser: abbreviations, typed arguments, possibilities."""

from typing import Any

import pytest

from smtpctl.commands import tree
from smtpctl.parser import NoCommand


def found(line: str) -> tuple[str, list[Any]]:
    node, arguments = tree.find(line.split())
    return " ".join(node.words), arguments


@pytest.mark.parametrize("line, command, arguments", [
    ("show queue", "show queue", []),
    ("sh q", "show queue", []),
    ("sho queue 0a0b0c0d", "show queue <msgid>", [0x0A0B0C0D]),
    ("show envelope 0123456789abcdef", "show envelope <evpid>", [0x0123456789ABCDEF]),
    ("sh me 0123456789ABCDEF", "show message <evpid>", [0x0123456789ABCDEF]),
    ("sc a", "schedule all", []),
    ("rem 00000001", "remove <msgid>", [1]),
    ("pause e a", "pause envelope all", []),
    ("pa mta", "pause mta", []),
    ("pause mta from 192.0.2.1 for example.org", "pause mta from <addr> for <str>", ["192.0.2.1", "example.org"]),
    ("resume mta from 2001:db8::1 for x", "resume mta from <addr> for <str>", ["2001:db8::1", "x"]),
    ("resume route 17", "resume route <routeid>", [17]),
    ("l v", "log verbose", []),
    ("trace anything", "trace <str>", ["anything"]),
    ("t x", "trace <str>", ["x"]),
    ("unt x", "untrace <str>", ["x"]),
    ("d 00000001", "discover <msgid>", [1]),
    ("spf walk", "spf walk", []),
    ("e", "encrypt", []),
    ("encrypt secret", "encrypt <str>", ["secret"]),
    ("show hosts", "show hosts", []),
])
def test_commands_and_their_abbreviations(line: str, command: str, arguments: list[Any]) -> None:
    assert found(line) == (command, arguments)


@pytest.mark.parametrize("line", [
    "s", "p mta", "sh m 00000001", "show", "show r", "show st", "show host", "pause", "remove", "remove 00000000",
    "remove 123", "remove x", "remove 0123456789abcdef0", "resume route 0", "resume route 9223372036854775808",
    "show queue 00000001 x", "pause mta from [::1] for x", "un", "Show queue", "show que ue",
])
def test_what_names_no_command(line: str) -> None:
    with pytest.raises(NoCommand):
        found(line)


def lost(line: str) -> list[str]:
    with pytest.raises(NoCommand) as raised:
        found(line)
    return raised.value.lines


def test_possibilities_are_whole_lines() -> None:
    assert lost("remove x") == ["possibilities are:", "remove <evpid>", "remove <msgid>", "remove all"]
    assert lost("sched y") == ["possibilities are:", "schedule <msgid>", "schedule <evpid>", "schedule all"]
    assert lost("show queue 00000001 x") == ["invalid command"]


def test_the_first_words_in_opensmtpds_order() -> None:
    words = "discover pause resume show log monitor profile remove schedule trace unprofile untrace update encrypt spf"
    assert lost("") == ["possibilities are:", *words.split(), "config", "explain"]
    assert lost("nonsense") == lost("s") == lost("")


def test_the_words_behind_show_in_opensmtpds_order() -> None:
    words = "mta envelope hoststats message queue hosts relays routes stats status"
    assert lost("show") == ["possibilities are:", *(f"show {word}" for word in words.split())]
