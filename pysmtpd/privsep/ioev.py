"""A stream socket under the loop: reading into one shared buffer, buffered writing, timeouts, TLS.

The handler hears of events and is never called after the socket was closed.  An exception in a handler is a bug of
ours: it is logged and costs this one connection, not the process.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from pysmtpd.base.trace import Trace
from pysmtpd.privsep.loop import at_end

if TYPE_CHECKING:
    from pysmtpd.privsep.process import Process
    from pysmtpd.privsep.tls import TlsContext, TlsInfo, TlsLayer

READ_SIZE = 65536
_BUFFER = memoryview(bytearray(READ_SIZE))
HANDSHAKE_TIMEOUT = 60.0           # seconds for all of a client's handshake, however busy it is
BACKLOG_MAX = 4 * 1024 * 1024      # octets queued for a peer that does not read


class Handler(Protocol):
    """What happens on a socket.  Any of these may close it."""

    def io_data(self, data: bytes) -> None: ...

    def io_eof(self) -> None: ...

    def io_error(self, text: str) -> None: ...

    def io_drained(self) -> None: ...

    def io_tls(self, info: "TlsInfo") -> None: ...

    def io_timeout(self) -> None: ...

    def io_connected(self) -> None: ...


class Sweep:
    """Idle timeouts of all sockets of a process, looked at once a second: coarse, and free for busy sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._all: set[Io] = set()
        self._running = False

    def add(self, io: "Io") -> None:
        self._all.add(io)
        if not self._running:
            self._running = True
            self._loop.call_later(1.0, self._tick)

    def discard(self, io: "Io") -> None:
        self._all.discard(io)

    def _tick(self) -> None:
        now = monotonic()
        for io in [io for io in self._all if io.deadline < now]:
            if not io.closed:
                io.expire(now)
        self._running = bool(self._all)
        if self._running:
            self._loop.call_later(1.0, self._tick)


_SWEEPS: dict[int, Sweep] = {}


def sweep_of(loop: asyncio.AbstractEventLoop) -> Sweep:
    """The one Sweep of a loop."""
    return _SWEEPS.setdefault(id(loop), Sweep(loop))


class Io:
    """One stream socket."""

    __slots__ = ("_closing", "_connecting", "_fd", "_handler", "_loop", "_out", "_process", "_sock", "_sweep",
                 "_timeout", "_tls", "_tls_next", "_turn", "_writing", "backlog", "closed", "deadline", "reading")

    def __init__(self, process: "Process", sock: socket.socket, handler: Handler, timeout: float = 300.0,
                 connecting: bool = False) -> None:
        sock.setblocking(False)
        self.backlog = 0
        self.closed = False
        self._process = process
        self._loop = process.loop
        self._sock = sock
        self._fd = sock.fileno()
        self._handler = handler
        self._timeout = timeout
        self.deadline = monotonic() + timeout
        self._out: list[bytes] = []
        self._connecting = connecting
        self._closing = False
        self._turn = b""
        self.reading = False
        self._writing = False
        self._tls: TlsLayer | None = None
        self._tls_next: tuple[TlsContext, bool, str] | None = None
        self._sweep = sweep_of(self._loop)
        self._sweep.add(self)
        if connecting:
            self._watch_write(True)
        else:
            self.resume()

    # what a handler may ask for

    @property
    def socket(self) -> socket.socket:
        return self._sock

    @property
    def secure(self) -> bool:
        return self._tls is not None and self._tls.ready

    def write(self, data: bytes) -> None:
        """Send data, now as far as the kernel takes it, the rest when it does."""
        if self.closed or self._closing:
            return
        if self._tls is None:
            self._push(data)
            return
        try:
            self._gather(self._tls.encrypt(data))
        except RuntimeError as error:
            self._loop.call_soon(self._fail, f"TLS: {error}")

    def pause(self) -> None:
        """Read no more until resume().  The idle timeout goes on."""
        if self.reading:
            self.reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        if not self.reading and not self.closed and not self._connecting and not self._closing:
            self.reading = True
            self._loop.add_reader(self._fd, self._readable)
            if self._tls is not None and self._tls.more:
                self._loop.call_soon(self._tls_pending)

    def close(self) -> None:
        """Close once everything written has left."""
        if self.closed or self._closing:
            return
        if self._tls is not None:
            self._gather(self._tls.shutdown())
        self._closing = True
        self.pause()
        if not self._out and not self._turn:
            self.abort()

    def abort(self) -> None:
        """Close now."""
        if self.closed:
            return
        self.pause()
        self._watch_write(False)
        self.closed = True
        self._sweep.discard(self)
        self._sock.close()
        self._out.clear()
        self.backlog = 0
        self._tls = None           # not some time later, with the handler that refers to us: it is large

    def start_tls(self, context: "TlsContext", *, server: bool, name: str = "") -> None:
        """Begin a handshake once everything written has left; io_tls() tells of its success, io_error() of its end."""
        self._tls_next = (context, server, name)
        if self._out:
            self.pause()
        else:
            self._begin_tls()

    def set_timeout(self, seconds: float) -> None:
        """Idle time allowed from now on."""
        self._timeout = seconds
        self.deadline = monotonic() + seconds

    def expire(self, now: float) -> None:
        """Nothing happened for too long."""
        self.deadline = now + self._timeout
        self._tell(self._handler.io_timeout)

    # reading

    def _readable(self) -> None:
        if self._tls is not None and self._tls.more:
            return                 # what came before is not decrypted yet, and on its way
        try:
            size = self._sock.recv_into(_BUFFER)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        if self._tls is None or self._tls.ready:
            self.deadline = monotonic() + self._timeout
        if self._process.traces and self._process.traces & Trace.IO:
            self._process.trace(Trace.IO, f"fd {self._fd} read {size}")
        if not size:
            self.pause()
            self._tell(self._handler.io_eof)
            return
        data = _BUFFER[:size].tobytes()
        if self._tls is not None:
            self._tls_feed(data)
            return
        try:
            self._handler.io_data(data)
        except Exception:  # noqa: BLE001  (a bug in one session must not end the others)
            self._broken()

    def _tell(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:  # noqa: BLE001  (a bug in one session must not end the others)
            self._broken()

    def _tell_data(self, data: bytes) -> None:
        try:
            self._handler.io_data(data)
        except Exception:  # noqa: BLE001  (likewise)
            self._broken()

    def _broken(self) -> None:
        self._process.bug("session")
        if not self.closed:
            try:
                self._handler.io_error("internal error")
            except Exception:  # noqa: BLE001  (what is broken may fail again: said, and over)
                self._process.bug("end of a session")
            self.abort()

    def _fail(self, error: OSError | str) -> None:
        text = error if isinstance(error, str) else (error.strerror or str(error))
        if not self.closed:
            self.pause()
            self._tell(lambda: self._handler.io_error(text))
            self.abort()

    # writing

    def _push(self, data: bytes) -> None:
        if not data:
            return
        if self._process.traces and self._process.traces & Trace.IO:
            self._process.trace(Trace.IO, f"fd {self._fd} write {len(data)}, {self.backlog} waiting")
        if not self._out and not self._connecting:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                # Report from the loop, not from inside the handler that is writing.
                self._loop.call_soon(self._fail, error)
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._out.append(data)
        self.backlog += len(data)
        if self.backlog > BACKLOG_MAX:
            self._loop.call_soon(self._fail, "peer does not read")
        self._watch_write(True)

    def _gather(self, data: bytes) -> None:
        """Records leave at the end of the turn, in one piece: the last of a handshake with the first of what follows, a
        reply with the good-bye."""
        if not self._turn and data:
            at_end(self._loop, self._end_turn)
        self._turn += data
        if len(self._turn) > READ_SIZE:
            self._end_turn()

    def _end_turn(self) -> None:
        data, self._turn = self._turn, b""
        if self.closed:
            return
        self._push(data)
        if self._closing and not self._out:
            self.abort()

    def _watch_write(self, wanted: bool) -> None:
        if wanted is self._writing:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._fd, self._writable)
        else:
            self._loop.remove_writer(self._fd)

    def _writable(self) -> None:
        if self._connecting:
            self._connect_done()
            return
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        try:
            sent = self._sock.send(data[: 4 * READ_SIZE])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        self.deadline = monotonic() + self._timeout
        self._out = [data[sent:]] if sent < len(data) else []
        self.backlog -= sent
        if not self._out:
            self._watch_write(False)
            self._emptied()

    def _emptied(self) -> None:
        if self._closing:
            self.abort()
        elif self._tls_next is not None:
            self._begin_tls()
        else:
            self._tell(self._handler.io_drained)

    def _connect_done(self) -> None:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, os.strerror(code)))
            return
        self._connecting = False
        if not self._out:
            self._watch_write(False)
        self.deadline = monotonic() + self._timeout
        self.resume()
        self._tell(self._handler.io_connected)

    # TLS

    def _begin_tls(self) -> None:
        assert self._tls_next is not None
        context, server, name = self._tls_next
        self._tls_next = None
        self._tls = context.begin(server=server, name=name)
        self.deadline = monotonic() + (min(HANDSHAKE_TIMEOUT, self._timeout) if server else self._timeout)
        self.resume()
        if not server:
            self._tls_feed(b"")

    def _tls_feed(self, data: bytes) -> None:
        layer = self._tls
        assert layer is not None
        was_ready = layer.ready
        try:
            plain = layer.feed(data)
        except layer.Failed as error:
            self._last_words(layer.outgoing())
            self._fail(f"TLS: {error}")
            return
        if layer.ready and not was_ready:
            self.deadline = monotonic() + self._timeout
            info = layer.info()
            self._tell(partial(self._handler.io_tls, info))
        for piece in plain:
            if self.closed:
                return
            self._tell_data(piece)
        if not self.closed and not self._closing:
            self._gather(layer.outgoing())
        if layer.more:
            # Many small records: the others have their turn first.  While paused they wait inside the layer.
            self._loop.call_soon(self._tls_pending)
        elif layer.ended and not self.closed:
            self.pause()
            self._tell(self._handler.io_eof)

    def _last_words(self, alert: bytes) -> None:
        """Say why, if the kernel takes it."""
        with contextlib.suppress(OSError):
            self._sock.send(b"".join((*self._out, self._turn, alert)))

    def _tls_pending(self) -> None:
        if self._tls is not None and self.reading and not self.closed:
            self._tls_feed(b"")


def dial(process: "Process", address: str, port: int, handler: Handler, source: str = "",
         timeout: float = 300.0) -> Io:
    """Begin to connect; io_connected() or io_error() follows.  Raises OSError when it cannot even begin."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            sock.bind((source, 0))
        code = sock.connect_ex((address, port))
    except OSError:
        sock.close()
        raise
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, os.strerror(code))
    return Io(process, sock, handler, timeout, connecting=True)
