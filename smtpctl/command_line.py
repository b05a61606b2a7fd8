"""From the words of a command line to the command, and to the daemon it means."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smtpctl.client import Control

EX_USAGE_TREE = 255


def smtpctl(name: str, arguments: list[str]) -> int:
    """Find the command and carry it out."""
    from smtpctl.commands import Failure, tree
    from smtpctl.parser import NoCommand

    try:
        state_dir, words = _state_dir(name, arguments)
    except IndexError:
        print("usage: smtpctl [--state-dir directory] command [argument ...]", file=sys.stderr)
        return 1
    try:
        node, values = tree.find(["show", "queue"] if name == "mailq" else words)
    except NoCommand as error:
        print("\n".join(error.lines), file=sys.stderr)
        return EX_USAGE_TREE
    assert node.action is not None
    from smtpctl.client import ControlError

    try:
        with Connector(name, state_dir) as connector:
            return node.action(connector, *values)
    except Failure as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except ControlError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _state_dir(name: str, arguments: list[str]) -> tuple[str, list[str]]:
    """What --state-dir says, and the words behind it; mailq takes it anywhere.  Raises IndexError without a value."""
    state_dir, rest = "", list(arguments)
    words: list[str] = []
    while rest and (not words or name == "mailq"):
        option, equals, value = rest[0].partition("=")
        if option != "--state-dir":
            words.append(rest.pop(0))
            continue
        state_dir = value if equals else rest[1]
        del rest[: 1 if equals else 2]
    return state_dir, words + rest


class Connector:
    """Connects to the daemon that this call means, when that is needed."""

    def __init__(self, name: str, state_dir: str) -> None:
        self._name = name
        self._state_dir = state_dir
        self._control: Control | None = None

    def __call__(self) -> "Control":
        from smtpctl.client import Control, control_path, one_person

        # A setuid or setgid program that calls mailq is not to be steered by its caller's environment.
        trusted = one_person() or self._name == "smtpctl"
        self._control = Control(control_path(self._state_dir, os.environ, trusted=trusted))
        return self._control

    def __enter__(self) -> "Connector":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._control is not None:
            self._control.close()
