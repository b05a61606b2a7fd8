"""makemap(8) and newaliases(8): map files from text."""

import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import Iterator

from pysmtpd.maps import BadMap, bdb, cdb
from pysmtpd.maps.text import FILE_MAX, BadLine, Content, decode, parse

USAGE = "usage: makemap [-U] [-d dbtype] [-o dbfile] [-t type] file"
TYPES = ("aliases", "set")
DB_TYPES = ("hash", "btree", "cdb")
SET_VALUE = "<set>"
_COPIED = stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO


class Failure(Exception):
    """It did not work: why."""


class Usage(Exception):
    """The command line makes no sense; text says why, and is empty for the usual line."""


class Options:
    """What makemap's command line asks for."""

    def __init__(self) -> None:
        self.dump = False
        self.kind = ""             # -t
        self.output = ""           # -o
        self.source = ""
        self.newaliases = False    # -b i


def makemap(arguments: list[str]) -> int:
    """The program of this name; returns the exit status."""
    try:
        options = read_options(arguments)
        if options.newaliases:
            from smtpctl.newaliases import newaliases  # which imports this module

            return newaliases([])
        if options.dump:
            dump(options.source)
        else:
            write_map(options)
    except Usage as usage:
        print(f"makemap: {usage}" if str(usage) else USAGE, file=sys.stderr)
        return 1
    except (Failure, BadMap) as error:
        print(f"makemap: {error}", file=sys.stderr)
        return 1
    return 0


def read_options(arguments: list[str]) -> Options:
    """Raises Usage."""
    options, rest, operands = Options(), list(arguments), list[str]()
    while rest:
        word = rest.pop(0)
        if word == "--":
            operands += rest
            break
        if word.startswith("-") and len(word) > 1:
            _cluster(options, word[1:], rest)
        else:
            operands.append(word)
    if options.newaliases:
        return options
    if len(operands) == 2:
        # As sendmail's: makemap TYPE MAP < data
        _db_type(operands[0])
        options.source = "-"
        options.output = options.output or f"{operands[1].removesuffix('.db')}.db"
    elif len(operands) == 1:
        options.source = operands[0]
    else:
        raise Usage("")
    if options.source == "-" and not (options.output or options.dump):
        raise Usage("-o needed when reading standard input")
    options.output = options.output or f"{options.source}.db"
    return options


def _cluster(options: Options, letters: str, rest: list[str]) -> None:
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter == "U":
            options.dump = True
            continue
        if letter not in "bCdoOt":
            raise Usage("")
        if not letters and not rest:
            raise Usage(f"option -{letter} needs an argument")
        _set(options, letter, letters or rest.pop(0))
        return


def _set(options: Options, letter: str, value: str) -> None:
    if letter == "d":
        _db_type(value)
    elif letter == "t":
        if value not in TYPES:
            raise Usage(f"unsupported type '{value}'")
        options.kind = value
    elif letter == "o":
        options.output = value
    elif letter == "O" and value.startswith("AliasFile="):
        options.source = value.removeprefix("AliasFile=")
    elif letter == "b":
        options.newaliases = value == "i"


def _db_type(value: str) -> None:
    if value not in DB_TYPES:
        raise Usage(f"unsupported DB type '{value}'")


# making a map

def write_map(options: Options) -> int:
    """Make a map; returns how many entries it has.  Raises Failure or BadMap, and then changes nothing."""
    with _source(options.source) as source:
        name = options.source if options.source != "-" else "stdin"
        entries = read_entries(source, name, options.kind)
        if not entries:
            print(f"makemap: warning: empty map created: {name}", file=sys.stderr)
        like = os.fstat(source) if options.source != "-" else None
        replace(options.output, [(key.encode(), value.encode()) for key, value in entries.items()], like)
    return len(entries)


@contextlib.contextmanager
def _source(path: str) -> Iterator[int]:
    """The text, locked, so that nobody makes the same map at the same time."""
    if path == "-":
        yield 0
        return
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Failure(f"{path} is not a file")
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{path} is locked") from None
        yield fd
    finally:
        os.close(fd)


def read_entries(fd: int, name: str, kind: str) -> dict[str, str]:
    """The entries of a text, by keys in lower case.  Raises Failure, naming file and line."""
    parts, size = list[bytes](), 0
    while part := os.read(fd, 1 << 20):
        parts.append(part)
        size += len(part)
        if size > FILE_MAX:
            raise Failure(f"{name}: larger than {FILE_MAX} octets")
    try:
        content = parse(decode(b"".join(parts)), name, True if kind == "set" else None)
    except BadLine as bad:
        what = "invalid entry" if bad.what == "invalid map entry" else bad.what
        raise Failure(f"{name}:{bad.line}: {what}") from None
    return _unique(content, name, kind)


def _unique(content: Content, name: str, kind: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for (key, value), line in zip(content.entries, content.lines, strict=True):
        folded = key.lower()
        if folded in entries:
            raise Failure(f"{name}:{line}: duplicate entry for {folded}")
        if kind == "aliases":
            _check_alias(value, f"{name}:{line}")
        entries[folded] = SET_VALUE if content.is_list else value
    return entries


def _check_alias(value: str, at: str) -> None:
    """Whether the daemon would take every member."""
    from pysmtpd.lookup.members import parse as members  # the daemon's own grammar, for those who have aliases

    read = members(value)
    for bad in read.bad:
        raise Failure(f"{at}: invalid entry: {bad}")
    if not read.good:
        raise Failure(f"{at}: invalid entry: no member")


def replace(path: str, entries: list[cdb.Entry], like: os.stat_result | None) -> None:
    """Put a new map in place of the old one, in one step; owner and mode are those of its source.

    Raises Failure or BadMap."""
    _check_replaceable(path)
    temporary = f"{path}.{os.urandom(6).hex()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Failure(f"{temporary}: {error.strerror}") from None
    try:
        with os.fdopen(fd, "wb", buffering=1 << 18) as file:
            _fill(file.fileno(), entries)
            if like is not None:
                _own_like(file.fileno(), like)
            os.fsync(file.fileno())
        os.rename(temporary, path)
        _sync_directory(path)
    except OSError as error:
        _forget(temporary)
        raise Failure(f"{path}: {error.strerror}") from None
    except BadMap:
        _forget(temporary)
        raise


def _check_replaceable(path: str) -> None:
    """Root would put a file in the place of a device: of /dev/null, which the whole system needs."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise Failure(f"{path} is not a file")


def _fill(fd: int, entries: list[cdb.Entry]) -> None:
    pieces = list(cdb.build(entries))
    data = memoryview(b"".join((pieces[-1], *pieces[1:-1])))
    while data:
        data = data[os.write(fd, data) :]


def _own_like(fd: int, like: os.stat_result) -> None:
    os.fchmod(fd, 0o600)
    if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
        # Without root the map is its maker's.
        with contextlib.suppress(PermissionError):
            os.fchown(fd, like.st_uid, like.st_gid)
    os.fchmod(fd, stat.S_IMODE(like.st_mode) & _COPIED)


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _forget(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


# showing one

def dump(path: str) -> None:
    """``key<TAB>value`` of each entry of a map file of ours or of OpenSMTPD's.  Raises Failure or BadMap."""
    if path == "-":
        raise Failure("a map cannot be read from standard input")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Failure(f"{path} is not a file")
            data = file.read(bdb.FILE_MAX + 1)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    try:
        for key, value in map_entries(data):
            line = key.removesuffix(b"\0") + b"\t" + value.removesuffix(b"\0") + b"\n"
            sys.stdout.write(line.decode("utf-8", "surrogateescape"))
    except BadMap as error:
        raise Failure(f"{path}: {error}") from None


def map_entries(data: bytes) -> Iterator[cdb.Entry]:
    """The entries of a map file.  Raises BadMap."""
    if len(data) > bdb.FILE_MAX:
        raise BadMap(f"is larger than {bdb.FILE_MAX} octets")
    if cdb.is_ours(data[:64], data[-16:]):
        return cdb.Cdb(lambda at, size: data[at : at + size], len(data)).entries()
    if bdb.find_reader(data[:64]) is None:
        raise BadMap("is not a file that makemap made")
    return bdb.entries(data)
