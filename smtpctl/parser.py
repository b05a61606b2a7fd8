"""The tree of commands, and OpenSMTPD's rule for finding one in it.

A word is matched exactly first, literal or typed argument, in the order in which the commands were installed; then as
a prefix that only one literal has.  Nothing here knows what a command does.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pysmtpd.base import ids

Action = Callable[..., int]
A = TypeVar("A", bound=Action)


class NoCommand(Exception):
    """The words name no command: what is to be shown instead."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("no such command")
        self.lines = lines


def _routeid(word: str) -> int | None:
    value = int(word) if re.fullmatch(r"[0-9]{1,19}", word) else 0
    return value if 0 < value < 1 << 63 else None


def _address(word: str) -> str | None:
    """An IPv4 or IPv6 literal without brackets."""
    import ipaddress  # rarely needed, and not quick to load

    try:
        return str(ipaddress.ip_address(word))
    except ValueError:
        return None


# How a typed argument is read; None is not this.
TYPES: dict[str, Callable[[str], Any]] = {
    "<str>": str,
    "<msgid>": ids.parse_msgid,
    "<evpid>": ids.parse_evpid,
    "<routeid>": _routeid,
    "<addr>": _address,
}


class Node:
    """A word of the language, after those that lead to it."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.children: dict[str, Node] = {}
        self.action: Action | None = None
        self.takes_rest = False        # all further words, as they are
        self.whole = False         # cannot be abbreviated: ours, where OpenSMTPD's abbreviation means another

    def step(self, word: str, arguments: list[Any]) -> "Node | None":
        """The node that a word leads to; what a typed argument says is added to arguments."""
        for token, child in self.children.items():
            if token == word and token not in TYPES:
                return child
            if token in TYPES and (value := TYPES[token](word)) is not None:
                arguments.append(value)
                return child
        found = [child for token, child in self.children.items()
                 if token not in TYPES and token.startswith(word) and not child.whole]
        return found[0] if len(found) == 1 else None

    def possibilities(self) -> list[str]:
        """What to show to somebody who is lost here."""
        if not self.children:
            return ["invalid command"]
        return ["possibilities are:", *(" ".join(child.words) for child in self.children.values())]


class Tree:
    """All commands."""

    def __init__(self) -> None:
        self.root = Node(())

    def command(self, *lines: str) -> Callable[[A], A]:
        """Install an action under some command lines; it is called with the typed arguments.

        Behind ``...`` anything may follow; the action gets it as a list."""

        def install(action: A) -> A:
            for line in lines:
                self.install(line, action)
            return action

        return install

    def install(self, line: str, action: Action) -> None:
        node = self.root
        words = line.removesuffix(" ...")
        for word in words.split():
            node = node.children.setdefault(word, Node((*node.words, word)))
        node.action, node.takes_rest = action, words != line

    def lines(self) -> Iterator[tuple[str, Action]]:
        """Every command, as it was installed."""
        nodes = [self.root]
        for node in nodes:
            nodes.extend(node.children.values())
            if node.action is not None:
                yield " ".join(node.words), node.action

    def find(self, words: list[str]) -> tuple[Node, list[Any]]:
        """The node of a command, and its typed arguments.  Raises NoCommand."""
        node, arguments, rest = self.root, list[Any](), list(words)
        while rest and not node.takes_rest:
            following = node.step(rest.pop(0), arguments)
            if following is None:
                raise NoCommand(node.possibilities())
            node = following
        if node.action is None:
            raise NoCommand(node.possibilities())
        return node, [*arguments, rest] if node.takes_rest else arguments
