"""newaliases(8): the tables of aliases that smtpd.conf names, made anew.

A table in a map file is made from the text beside it, by the name without .db; one that is text itself is only
checked.  Then a daemon that runs reads them again.
"""

import os
import sys

from pysmtpd.maps import cdb
from smtpctl.client import NOT_RUNNING, Control, ControlError, control_path, one_person
from smtpctl.makemap import Failure, Options, Usage, read_entries, write_map

EMPTY_MAP = b"".join(reversed([*cdb.build(())]))  # as far as its beginning is looked at
USAGE = "usage: newaliases [-f file] [--state-dir directory]"
IGNORED_WITH_ARGUMENT = ("-C", "-O", "-o", "-A", "-B", "-F", "-h", "-L", "-N", "-p", "-R", "-r", "-V", "-X")


class Request(Options):
    """What newaliases' command line asks for."""

    config = ""
    state_dir = ""


def newaliases(arguments: list[str]) -> int:
    """The program of this name; returns the exit status."""
    try:
        request = _read_options(arguments)
        tables = _tables(request)
        for _, backend, path in tables:
            print(f"{path.removesuffix('.db')}: {_make(backend, path)} aliases")
        return _tell_daemon(request, [name for name, _, _ in tables])
    except Usage:
        print(USAGE, file=sys.stderr)
    except Failure as error:
        print(f"newaliases: {error}", file=sys.stderr)
    return 1


def _read_options(arguments: list[str]) -> Request:
    request, rest = Request(), list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name in ("-f", "--state-dir"):
            if not equals and not rest:
                raise Usage("")
            value = value if equals else rest.pop(0)
            if name == "-f":
                request.config = value
            else:
                request.state_dir = value
        elif name in IGNORED_WITH_ARGUMENT:
            del rest[:1]
        elif not name.startswith("-"):
            raise Usage("")
    return request


def _tables(request: Request) -> list[tuple[str, str, str]]:
    """Name, back end and path of each table in a file that an action takes aliases from, or that is named so.

    Raises Failure."""
    from pysmtpd.base.paths import CONFIG_FILES
    from pysmtpd.conf.load import load
    from pysmtpd.conf.source import FILE_MAX
    from pysmtpd.privsep.source import SystemSource

    class MapsToCome(SystemSource):
        """Has every map: those that are missing, or are none, are about to be made."""

        def read(self, path: str, limit: int = FILE_MAX) -> bytes:
            return EMPTY_MAP[:limit] if path.endswith(".db") else super().read(path, limit)

    path = request.config or next((one for one in CONFIG_FILES if os.path.exists(one)), CONFIG_FILES[0])
    loaded = load(path, MapsToCome(), state_dir=request.state_dir)
    if loaded.config is None:
        raise Failure("\n".join(str(error) for error in loaded.errors))
    config = loaded.config
    names = sorted({action.alias for action in config.actions.values()} | {"aliases"})
    tables = [config.tables[name] for name in names if name in config.tables]
    found = [(table.name, table.backend, table.path) for table in tables if table.backend in ("file", "db")]
    if not found:
        raise Failure(f"{path}: no table of aliases in a file")
    return found


def _make(backend: str, path: str) -> int:
    """How many aliases there are.  Raises Failure."""
    if backend == "db":
        options = Options()
        options.source, options.output, options.kind = path.removesuffix(".db"), path, "aliases"
        if options.source == path:
            raise Failure(f"{path}: the text it is made from is not known, because its name does not end in .db; "
                          f"make it with: makemap -t aliases -o {path} FILE")
        return write_map(options)
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    try:
        return len(read_entries(fd, path, "aliases"))
    finally:
        os.close(fd)


def _tell_daemon(request: Request, names: list[str]) -> int:
    """Have a daemon that runs read them again."""
    from pysmtpd.messages import CtlUpdateTable

    path = control_path(request.state_dir, os.environ, trusted=one_person())
    if not os.path.exists(path):
        return 0
    status = 0
    for name in names:
        try:
            with Control(path) as control:
                control.ask(CtlUpdateTable(1, name))
        except ControlError as error:
            if str(error) == NOT_RUNNING:
                return 0
            print(f"newaliases: table {name}: {error}", file=sys.stderr)
            status = 1
    return status
