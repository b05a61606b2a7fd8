"""A peer: another process at the end of a socketpair, and the frames that go to and from it.

Frames of one turn of the loop leave in one send.  A descriptor travels with the first octets of its frame; received
descriptors wait in order for the frames that declare one.
"""

import array
import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder, Frame, ImsgError, Message

READ_SIZE = 65536                  # larger reads cross malloc's mmap threshold and triple the kernel's time
SEND_SIZE = 4 * READ_SIZE          # octets sent at once
FDS_MAX = 8                        # descriptors accepted at once
_CMSG_SPACE = socket.CMSG_SPACE(FDS_MAX * array.array("i").itemsize)
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_SO_PASSRIGHTS = 83                # Linux 6.16


class Owner(Protocol):
    """Whoever a peer reports to."""

    def peer_frame(self, peer: "Peer", frame: Frame) -> None: ...

    def peer_lost(self, peer: "Peer", reason: str) -> None: ...


class Peer:
    """One end of a socketpair, speaking imsg."""

    def __init__(self, owner: Owner, sock: socket.socket, me: Proc, proc: Proc, index: int = 0) -> None:
        self.proc = proc
        self.index = index
        self.backlog = 0           # octets not yet taken by the kernel
        self.closed = False
        self.fd: int | None = None  # of the frame being handled
        self._owner = owner
        self._sock = sock
        self._encoder = Encoder(me, proc, os.getpid())
        self._decoder = Decoder(proc, me)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._out: deque[tuple[bytes, int | None]] = deque()
        self._carrying = 0         # descriptors in it
        self._fds: deque[int] = deque()
        self._flushing = False
        self._writing = False
        self._room: tuple[int, Callable[[], None]] | None = None

    def __repr__(self) -> str:
        return f"<Peer {self.proc.value} {self.index}>"

    @property
    def socket(self) -> socket.socket:
        return self._sock

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to read; what was queued before leaves now."""
        self._loop = loop
        self._sock.setblocking(False)
        loop.add_reader(self._sock.fileno(), self._readable)
        if self._out:
            self._schedule()

    def send(self, message: Message, fd: int | None = None, peerid: int = 0) -> None:
        """Queue a frame.  A descriptor passed along is closed here once it was sent.

        Raises ImsgError when the other end would refuse the message."""
        data = self._encoder.encode(message, peerid)
        if self.closed:
            if fd is not None:
                os.close(fd)
            return
        self._out.append((data, fd))
        if fd is not None:
            self._carrying += 1
        self.backlog += len(data)
        if not self._flushing:
            self._schedule()

    def send_now(self, message: Message, fd: int | None = None) -> None:
        """Send before there is a loop: blocks, at most as long as the socket's timeout."""
        data = self._encoder.encode(message)
        if fd is not None:
            sent = socket.send_fds(self._sock, [data], [fd])
            os.close(fd)
            data = data[sent:]
        if data:
            self._sock.sendall(data)

    def receive_now(self) -> list[Frame]:
        """Read once, before there is a loop.  Raises ImsgError at end of file."""
        data = self._read()
        if not data:
            raise ImsgError(f"{self.proc.value} is gone")
        return list(self._decoder.feed(data))

    def take_fd(self) -> int:
        """The next descriptor received, now the caller's."""
        if not self._fds:
            raise ImsgError("a frame without its descriptor")
        return self._fds.popleft()

    def when_room(self, backlog: int, tell: Callable[[], None]) -> None:
        """Call tell() once, from the loop, when the kernel has taken so much that no more than backlog is left."""
        self._room = (backlog, tell)

    def close(self) -> None:
        """Send what is queued if the kernel takes it, and close."""
        if self.closed:
            return
        self._flush()
        self._shut()

    def _shut(self) -> None:
        self.closed = True
        if self._loop is not None:
            self._loop.remove_reader(self._sock.fileno())
            if self._writing:
                self._loop.remove_writer(self._sock.fileno())
        for _, fd in self._out:
            if fd is not None:
                os.close(fd)
        for fd in self._fds:
            os.close(fd)
        self._out.clear()
        self._fds.clear()
        self.backlog = 0
        self._sock.close()

    # reading

    def _read(self) -> bytes:
        data, ancillary, _, _ = self._sock.recvmsg(READ_SIZE, _CMSG_SPACE, _CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self._fds.extend(fds)
        return data

    def _readable(self) -> None:
        try:
            data = self._read()
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionError:
            data = b""
        if not data:
            self._lose("socket closed")
            return
        try:
            for frame in self._decoder.feed(data):
                if frame.spec.fd:
                    self._handle_with_fd(frame)
                else:
                    self._owner.peer_frame(self, frame)
                if self.closed:
                    return
        except ImsgError as error:
            self._lose(f"invalid imsg: {error}")
            return
        if len(self._fds) > FDS_MAX:
            self._lose("invalid imsg: descriptors nobody asked for")

    def _handle_with_fd(self, frame: Frame) -> None:
        self.fd = self.take_fd()
        try:
            self._owner.peer_frame(self, frame)
        finally:
            if self.fd is not None:
                os.close(self.fd)
                self.fd = None

    def claim_fd(self) -> int:
        """Inside a handler: the descriptor of this frame becomes the caller's; otherwise it is closed after it."""
        fd, self.fd = self.fd, None
        if fd is None:
            raise ImsgError("no descriptor to claim")
        return fd

    def _lose(self, reason: str) -> None:
        if not self.closed:
            self._shut()
            self._owner.peer_lost(self, reason)

    # writing

    def _schedule(self) -> None:
        if not self._flushing and not self._writing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush_turn)

    def _flush_turn(self) -> None:
        self._flushing = False
        if not self.closed:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                if not self._send_some():
                    break
        except (BlockingIOError, InterruptedError):
            pass
        except (ConnectionError, OSError):
            # The reader will see the end of file and report it once.
            self._out.clear()
            self.backlog = self._carrying = 0
        if self._writing or self._out:
            self._watch(bool(self._out))
        if self._room is not None and self._loop is not None and self.backlog <= self._room[0]:
            self._loop.call_soon(self._room[1])
            self._room = None

    def _send_some(self) -> bool:
        """One send of as much as may go in one; False when the kernel took less."""
        if not self._carrying and self.backlog <= SEND_SIZE:
            return self._send_all()
        data, fd = self._out[0]
        if fd is not None:
            sent = socket.send_fds(self._sock, [data], [fd])
            os.close(fd)
            self._carrying -= 1
            self._out[0] = (data, None)
        else:
            run, size = [], 0
            for piece, with_fd in self._out:
                if with_fd is not None or size > SEND_SIZE:
                    break
                run.append(piece)
                size += len(piece)
            data = run[0] if len(run) == 1 else b"".join(run)
            sent = self._sock.send(data)
        self._consume(sent)
        return sent == len(data)

    def _send_all(self) -> bool:
        """The usual case: all there is, and no descriptors."""
        data = self._out[0][0] if len(self._out) == 1 else b"".join([piece for piece, _ in self._out])
        sent = self._sock.send(data)
        if sent != len(data):
            self._consume(sent)
            return False
        self._out.clear()
        self.backlog = 0
        return True

    def _consume(self, sent: int) -> None:
        self.backlog -= sent
        while sent:
            data, fd = self._out[0]
            if sent < len(data):
                self._out[0] = (data[sent:], fd)
                return
            sent -= len(data)
            self._out.popleft()

    def _watch(self, wanted: bool) -> None:
        if self._loop is None or wanted is self._writing:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._sock.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._sock.fileno())


def refuse_descriptors(sock: socket.socket) -> None:
    """Whoever speaks to us through this socket may send no descriptors, where the kernel can see to that.

    It is not enough to close them: closing the last descriptor of a TCP socket that lingers blocks for as long as its
    sender wished, and the whole process with it.  A listening socket hands this on to those it accepts."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair with room for a burst of frames."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in (a, b):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * 1024)
    return a, b
