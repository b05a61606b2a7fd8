"""What every table program of ours is made of: smtpd-tables(7) on standard input and output, and a configuration file.

A program is a Backend: which services it has, and an answer for each key.  Whatever it cannot answer now it raises as
Failed, and the daemon fails temporarily; the next question finds it working again, if it can.
"""

import os
import sys
from collections.abc import Callable
from typing import NoReturn, Protocol

LINE_MAX = 65536                   # octets
CONFIG_MAX = 1024 * 1024           # octets


class Failed(Exception):
    """It cannot be answered now; its text is for the daemon's log."""


class Backend(Protocol):
    """Where the answers come from.  Each method may raise Failed."""

    def services(self) -> list[str]:
        """The services it has, by their names in smtpd-tables(7)."""

    def update(self) -> None:
        """Read the configuration again."""

    def lookup(self, service: str, key: str) -> str | None:
        """The value of a key; of a service that has no values, anything that is not empty."""

    def fetch(self, service: str) -> str | None:
        """The next of all entries."""


def serve(backend: Backend, read: Callable[[], str], write: Callable[[str], None]) -> None:
    """Answer until there is nothing more to read.  read: a line, empty at the end."""
    while (line := read()) not in ("config|ready\n", ""):
        pass
    for service in backend.services():
        write(f"register|{service}\n")
    write("register|ready\n")
    while line := read():
        reply = answer(backend, line.rstrip("\n"))
        if reply:
            write(reply + "\n")


def answer(backend: Backend, line: str) -> str:
    """The reply to one request; none to what is no request."""
    fields = line.split("|", 4)
    if len(fields) != 5 or fields[:2] != ["table", "0.1"]:
        return ""
    operation, _, rest = fields[4].partition("|")
    if operation == "update":
        return _guarded(f"update-result|{rest}", lambda: _updated(backend))
    service, _, rest = rest.partition("|")
    ident, _, key = rest.partition("|")
    head = f"{operation}-result|{ident}"
    if operation == "check":
        return _guarded(head, lambda: "not-found" if backend.lookup(service, key) is None else "found")
    if operation == "lookup":
        return _guarded(head, lambda: _found(backend.lookup(service, key)))
    if operation == "fetch":
        return _guarded(head, lambda: _found(backend.fetch(service)))
    return ""


def _updated(backend: Backend) -> str:
    backend.update()
    return "ok"


def _found(value: str | None) -> str:
    return f"found|{value}" if value else "not-found"


def _guarded(head: str, work: Callable[[], str]) -> str:
    try:
        result = work()
    except Failed as error:
        result = f"error|{' '.join(str(error).split())}"
    if "\n" in result or "\r" in result:
        result = "error|a value of more than one line"
    return f"{head}|{result}"


def read_config(path: str) -> list[tuple[int, str, str]]:
    """Line, key and value of each setting: ``key value``, ``key: value``; ``#`` begins a comment line.

    Raises Failed."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CONFIG_MAX)
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Failed(f"{path}: is not UTF-8") from None
    settings = []
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, *value = line.split(None, 1)
        key, colon, rest = key.partition(":")
        value = [part for part in (rest, *value) if part] if colon else value
        if not value:
            raise Failed(f"{path}:{number}: no value for {key}")
        settings.append((number, key, " ".join(value).removeprefix(": ").strip()))
    return settings


def run(backend: Backend) -> NoReturn:
    """Serve on standard input and output, to their end."""
    stream = os.fdopen(0, "rb", buffering=65536, closefd=False)

    def read() -> str:
        line = stream.readline(LINE_MAX)
        return line.decode("utf-8", "surrogateescape")

    def write(text: str) -> None:
        data = memoryview(text.encode("utf-8", "surrogateescape"))
        while data:
            data = data[os.write(1, data) :]

    try:
        serve(backend, read, write)
    except BrokenPipeError:
        pass                       # the daemon has gone
    except Failed as error:
        sys.stderr.write(f"{error}\n")
        os._exit(1)
    os._exit(0)
