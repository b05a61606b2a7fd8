"""imsg: frames, the registry of messages, and the strict codec between the two.  No I/O.

A frame is a header of 16 octets (type, flags, length with header, peer id, process id) and a body: the
fields of one message as a MessagePack array.  It may carry one file descriptor.  A body has at most
16 KiB, or 64 KiB and a little for the few *bulk* messages that carry pieces of mail data.

A message is declared once, with its number and its routes.  A Decoder knows which process sends to which,
and whatever is short, long, unknown, off its route or ill-typed is an ImsgError, and nothing else is.
"""

import enum
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from pysmtpd.base.procs import Proc, Route
from pysmtpd.base.struct import Wire, shape

HEADER = struct.Struct("!HHIII")
HEADER_SIZE = HEADER.size
BODY_MAX = 16384
CHUNK_MAX = 65536
BULK_MAX = CHUNK_MAX + 64
FLAG_FD = 1
_pack, _unpack = HEADER.pack, HEADER.unpack_from

T = TypeVar("T", bound="type[Message]")


class ImsgError(ValueError):
    """A frame that may not be: what is wrong with it, never what it holds."""


class Message(Wire):
    """The base of every message; fields travel in the order of their declaration."""


class Spec(NamedTuple):
    """What is declared of a message."""

    number: int
    cls: type[Message]
    routes: frozenset[Route]
    fd: bool
    bulk: bool
    decode: Callable[[bytes | memoryview], Message]
    prove: Callable[[bytes], object] | None  # what a sender asks; None where there is nothing but octets and counts
    limit: int                     # octets of a body
    frame_max: int                 # octets of a frame
    flags: int


class Frame(Wire):
    """A message that arrived."""

    message: Message
    spec: Spec
    peerid: int
    pid: int


BY_NUMBER: dict[int, Spec] = {}
BY_CLASS: dict[type[Message], Spec] = {}


def declare(number: int, *routes: Route, fd: bool = False, bulk: bool = False) -> Callable[[T], T]:
    """Declare a message: its number on the wire, and who may send it to whom.

    ``fd``: each frame carries one descriptor.  ``bulk``: its body may have 64 KiB.
    """

    def register(cls: T) -> T:
        if number in BY_NUMBER:
            raise TypeError(f"{number:#x} is {BY_NUMBER[number].cls.__name__} already")
        if not routes or not 0 < number <= 0xFFFF:
            raise TypeError(f"{cls.__name__}: a message needs a route and a number of 16 bits")
        decode = msgspec.msgpack.Decoder(cls).decode
        limit = BULK_MAX if bulk else BODY_MAX
        form = shape(cls)
        prove = None if bulk and form is cls else msgspec.msgpack.Decoder(form).decode
        spec = Spec(number, cls, frozenset(routes), fd, bulk, decode, prove, limit, HEADER_SIZE + limit,
                    FLAG_FD if fd else 0)
        BY_NUMBER[number] = BY_CLASS[cls] = spec
        return cls

    return register


def routes_to(dst: Proc) -> frozenset[type[Message]]:
    """Every message that some process may send to this one."""
    return frozenset(spec.cls for spec in BY_NUMBER.values() for route in spec.routes if route.dst is dst)


def version() -> int:
    """A number that changes with any declaration: smtpctl and daemon compare theirs."""
    return zlib.crc32("\n".join(declarations()).encode())


def declarations() -> list[str]:
    """The whole wire format as text: one line for each message, then one for each record inside them."""
    specs = [spec for _, spec in sorted(BY_NUMBER.items())]
    inside: dict[str, str] = {}
    for spec in specs:
        _records(spec.cls, inside)
    return [describe(spec) for spec in specs] + [inside[name] for name in sorted(inside)]


def describe(spec: Spec) -> str:
    """One line: number, name, fields in wire order, routes."""
    extra = (" +fd" if spec.fd else "") + (" bulk" if spec.bulk else "")
    routes = ", ".join(sorted(str(route) for route in spec.routes))
    return f"{spec.number:#06x} {_signature(spec.cls)}{extra} [{routes}]"


def type_name(kind: Any) -> str:
    """A field's type with its bounds: ``str <=255``, ``list[int >=0] <=1024``, ``Outcome{1,2,3}``."""
    if get_origin(kind) is Annotated:
        base, *bounds = get_args(kind)
        return type_name(base) + "".join(_bound(bound) for bound in bounds if isinstance(bound, msgspec.Meta))
    if get_args(kind):
        return f"{get_origin(kind).__name__}[{', '.join(map(type_name, get_args(kind)))}]"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"{kind.__name__}{{{','.join(str(one.value) for one in kind)}}}"
    return str(getattr(kind, "__name__", kind))


def _signature(cls: type[Any]) -> str:
    fields = ", ".join(f"{field.name}: {type_name(field.type)}" for field in msgspec.structs.fields(cls))
    return f"{cls.__name__}({fields})"


def _bound(meta: msgspec.Meta) -> str:
    names = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("max_length", "<="))
    return "".join(f" {sign}{getattr(meta, name)}" for name, sign in names if getattr(meta, name) is not None)


def _records(kind: Any, inside: dict[str, str]) -> None:
    """The records that a type holds, each with its fields."""
    for inner in get_args(kind):
        _records(inner, inside)
    if isinstance(kind, type) and issubclass(kind, Wire) and kind.__name__ not in inside:
        if kind not in BY_CLASS:
            inside[kind.__name__] = _signature(kind)
        for field in msgspec.structs.fields(kind):  # type: ignore[arg-type]
            _records(field.type, inside)


class Encoder:
    """Turns messages for one peer into frames, and proves each acceptable before it is sent."""

    def __init__(self, src: Proc, dst: Proc, pid: int) -> None:
        self._route = src >> dst
        self._pid = pid
        self._specs = {cls: spec for cls, spec in BY_CLASS.items() if self._route in spec.routes}
        self._encode = msgspec.msgpack.Encoder().encode

    def encode(self, message: Message, peerid: int = 0) -> bytes:
        """One frame.  Raises ImsgError when the receiver would refuse it: decoding it here costs little, because
        what records check of themselves is not checked again, and turns a bad value into one failed session instead
        of a dead process."""
        spec = self._specs.get(type(message))
        if spec is None:
            raise ImsgError(_off_route(type(message).__name__, self._route))
        try:
            body = self._encode(message)
            length = HEADER_SIZE + len(body)
            if length > spec.frame_max:
                raise ImsgError(f"{spec.cls.__name__}: {len(body)} octets are more than {spec.limit}")
            if spec.prove is not None:
                spec.prove(body)
        except (msgspec.DecodeError, UnicodeError, OverflowError, TypeError) as error:
            raise ImsgError(_explain(spec, error)) from None
        return _pack(spec.number, spec.flags, length, peerid, self._pid) + body


class Decoder:
    """Turns the bytes of one peer into messages."""

    def __init__(self, src: Proc, dst: Proc) -> None:
        self._route = src >> dst
        self._allowed = {n: spec for n, spec in BY_NUMBER.items() if self._route in spec.routes}
        self._tail = b""

    @property
    def pending(self) -> int:
        """Octets of an incomplete frame."""
        return len(self._tail)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield each frame that data completes; raise ImsgError at the first that may not be."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        at, end, allowed = 0, len(data), self._allowed
        view = memoryview(data)
        while end - at >= HEADER_SIZE:
            number, flags, length, peerid, pid = _unpack(data, at)
            spec = allowed.get(number)
            if spec is None or flags != spec.flags or not HEADER_SIZE < length <= spec.frame_max:
                raise ImsgError(self._wrong(number, flags, length))
            if end - at < length:
                break
            try:
                message = spec.decode(view[at + HEADER_SIZE : at + length])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise ImsgError(_explain(spec, error)) from None
            at += length
            yield Frame(message, spec, peerid, pid)
        self._tail = data[at:] if at < end else b""

    def _wrong(self, number: int, flags: int, length: int) -> str:
        spec = self._allowed.get(number)
        if spec is None:
            known = BY_NUMBER.get(number)
            return _off_route(known.cls.__name__ if known else f"unknown type {number:#x}", self._route)
        if flags != spec.flags:
            return f"{spec.cls.__name__}: impossible flags {flags:#x}"
        return f"{spec.cls.__name__}: impossible length {length}"


def _off_route(name: str, route: Route) -> str:
    return f"{name}: not from {route.src.value} to {route.dst.value}"


def _explain(spec: Spec, error: Exception) -> str:
    # A UnicodeError would show the bytes; a ValidationError shows a path and a type.
    if isinstance(error, UnicodeError):
        return f"{spec.cls.__name__}: not UTF-8"
    return f"{spec.cls.__name__}: {error if isinstance(error, msgspec.DecodeError) else type(error).__name__}"
