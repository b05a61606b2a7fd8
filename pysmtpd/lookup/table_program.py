"""Tables behind programs: one run of a program, its end, and the next.

The parent starts the program and hands us its standard input and output as one socket, and what it writes to standard
error as another.  Whatever a program does (end, say nonsense, say nothing, say too much), the look-ups under way fail
for now, the program is ended, and started again, later each time.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import ClassVar, NamedTuple

from pysmtpd.base.text import vis
from pysmtpd.lookup.keeper import Keeper
from pysmtpd.lookup.program import Conversation, ProtocolError, Reply
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table_slow import Answer, Question, SlowTable

READ_SIZE = 65536                  # octets
BACKLOG_MAX = 1024 * 1024          # octets that the program did not take yet
HANDSHAKE_TIMEOUT = 10.0           # seconds to register
SILENCE_MAX = 8.0                  # seconds without any reply while one is due
DELAYS = (1.0, 2.0, 5.0, 15.0, 60.0)  # seconds before it is started again
GOOD_AFTER = 60.0                  # seconds after which a run was a good one
ERRORS_MAX, ERRORS_WITHIN = 20, 10.0  # lines of standard error that are logged within so many seconds
ERROR_LINE_MAX = 512               # octets

# What a program compares itself, if it has it: passwords, and expressions in its own syntax.
_JUDGED = frozenset({Service.AUTH, Service.REGEX})
_OPERATIONS = {"match": "check", "lookup": "lookup", "fetch": "fetch"}


class Run(NamedTuple):
    """A program that runs."""

    talk: Conversation
    fd: int                        # its standard input and output
    since: float                   # of the loop's clock


class ProgramTable(SlowTable):
    """The table of one program."""

    TIMEOUT: ClassVar[float] = 10.0
    CONCURRENT: ClassVar[int] = 256

    def __init__(self, name: str, backend: str, keeper: Keeper, software: str) -> None:
        """software: name and version of ours, for the program."""
        super().__init__(name, backend)
        self._keeper = keeper
        self._software = software
        self._run: Run | None = None
        self._why = ""                         # it does not run
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ready: asyncio.Future[None] | None = None
        self._out = bytearray()
        self._heard = 0.0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._errors: Errors | None = None
        self._loop: asyncio.AbstractEventLoop

    # life

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have the program started, and keep it running."""
        self._loop = loop
        self._timer = None
        self._ready = loop.create_future()
        self._why = ""
        self._keeper.start_program(self.name)

    def begun(self, fd: int, *, errors: bool) -> None:
        """The program runs; fd speaks with it, and is ours, or reads what it writes to standard error."""
        if errors:
            self._read_errors(fd)
            return
        if self._run is not None:
            os.close(fd)
            return
        os.set_blocking(fd, False)
        self._run = Run(Conversation(self.name, self._software), fd, self._loop.time())
        self._loop.add_reader(fd, self._readable)
        self._timer = self._loop.call_later(HANDSHAKE_TIMEOUT, self._not_registered)
        self._send(self._run.talk.hello())

    def _read_errors(self, fd: int) -> None:
        if self._errors is not None:
            self._errors.close()
        self._errors = Errors(self._loop, fd, lambda line: self._keeper.tell(f"warn: table {self.name}: {line}"))

    def refused(self, why: str) -> None:
        """It could not be started."""
        self._fail(why)

    def _not_registered(self) -> None:
        self._fail(f"it did not register within {HANDSHAKE_TIMEOUT:g} seconds: "
                   "perhaps it is one for OpenSMTPD before 7.6, which is binary")

    def _fail(self, why: str) -> None:
        """This run is over; everybody who waits is told, and the next one will come."""
        run, self._run, self._why = self._run, None, why
        if run is not None:
            self._loop.remove_reader(run.fd)
            self._loop.remove_writer(run.fd)
            os.close(run.fd)
            if run.talk.ready and self._loop.time() - run.since >= GOOD_AFTER:
                self._failures = 0
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._keeper.stop_program(self.name)
        delay = DELAYS[min(self._failures, len(DELAYS) - 1)]
        self._failures += 1
        self._keeper.tell(f"warn: table {self.name}: its program failed: {why}; it is started again in {delay:g}s")
        self._timer = self._loop.call_later(delay, self.start, self._loop)
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self._down())
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _down(self) -> TableError:
        return TableError(f"table {self.name}: its program does not run: {self._why}")

    # look-ups

    async def ask(self, question: Question) -> Answer:
        """The program's answer."""
        run = await self._running()
        if question.service not in run.talk.services:
            raise TableError(f"table {self.name}: its program has no {question.service.value}")
        reply = await self._request(run, _OPERATIONS[question.operation], question.service.value, question.key)
        if question.operation == "match":
            return reply.outcome == "found"
        if reply.outcome != "found":
            return None
        if not reply.value.isprintable():
            raise TableError(f"table {self.name}: the {question.service.value} of {vis(question.key.encode())} "
                             "has characters that cannot be printed")
        return reply.value

    async def offers(self, service: Service) -> bool:
        """Whether the program registered this service."""
        return service in (await self._running()).talk.services

    async def update(self) -> None:
        """Have the program read its configuration again.  Raises TableError."""
        try:
            async with asyncio.timeout(self.TIMEOUT):
                await self._request(await self._running(), "update")
        except TimeoutError:
            raise TableError(f"table {self.name}: no answer within {self.TIMEOUT:g} seconds") from None

    async def _running(self) -> Run:
        """The run, once the program has registered."""
        if self._ready is not None and not self._ready.done():
            await asyncio.shield(self._ready)
        if self._run is None:
            raise self._down()
        return self._run

    async def _request(self, run: Run, operation: str, service: str = "", key: str = "") -> Reply:
        if len(self._out) > BACKLOG_MAX:
            raise TableError(f"table {self.name}: its program takes no more requests")
        try:
            ident, line = run.talk.request(self._keeper.now(), operation, service, key)
        except ValueError as error:
            raise TableError(f"table {self.name}: {error}") from None
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[ident] = future
        sent = self._loop.time()
        if run.talk.open == 1:
            self._heard = sent
        self._send(line)
        try:
            reply = await future
        except asyncio.CancelledError:
            self._gave_up(run, ident)
            raise
        if reply.outcome == "error":
            why = f": {vis(reply.value.encode())}" if reply.value else ""
            raise TableError(f"table {self.name}: {operation} {service}{' ' if service else ''}failed{why}")
        return reply

    def _gave_up(self, run: Run, ident: int) -> None:
        """Nobody waits for a reply any more: it may be late, or the program may hang."""
        self._waiting.pop(ident, None)
        if run is self._run:
            run.talk.forget(ident)
            silence = self._loop.time() - self._heard
            if silence >= SILENCE_MAX:
                self._fail(f"no reply for {silence:.0f} seconds")

    # the socket

    def _readable(self) -> None:
        assert self._run is not None
        try:
            data = os.read(self._run.fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._fail("it ended" if self._run.talk.ready else "it ended before it had registered: perhaps it is one "
                       "for OpenSMTPD before 7.6, which is binary")
            return
        was_ready = self._run.talk.ready
        try:
            replies = self._run.talk.receive(data)
        except ProtocolError as error:
            self._deliver(error.replies)
            self._fail(str(error))
            return
        self._deliver(replies)
        if self._run.talk.ready and not was_ready:
            self._registered(self._run.talk)

    def _deliver(self, replies: Iterable[Reply]) -> None:
        for reply in replies:
            self._heard = self._loop.time()
            future = self._waiting.pop(reply.ident, None)
            if future is not None and not future.done():
                future.set_result(reply)

    def _registered(self, talk: Conversation) -> None:
        self.JUDGES = _JUDGED & talk.services
        if self._timer is not None:
            self._timer.cancel()
        if talk.unknown:
            self._keeper.tell(f"warn: table {self.name}: its program has services nobody knows: "
                              f"{vis(' '.join(talk.unknown).encode())}")
        if self._failures:
            self._keeper.tell(f"info: table {self.name}: its program runs again")
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _send(self, data: bytes) -> None:
        self._out += data
        if len(self._out) == len(data):
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        run = self._run
        if run is None or not self._out:
            return
        try:
            del self._out[: os.write(run.fd, self._out[:READ_SIZE])]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._out.clear()      # the reader will see the end
        if self._out:
            self._loop.add_writer(run.fd, self._flush)
        else:
            self._loop.remove_writer(run.fd)


class Errors:
    """Standard error of a program, line by line; of too many lines only their number is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, tell: Callable[[str], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._tell = tell
        self._buffer = b""
        self._lines = 0
        self._since = loop.time()
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._readable)

    def close(self) -> None:
        """No more of it."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            if self._buffer:
                self._line(self._buffer)
            self.close()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._buffer) > ERROR_LINE_MAX:
            self._line(self._buffer)
            self._buffer = b""
        if len(data) == READ_SIZE:
            self._pause()

    def _pause(self) -> None:
        """Whoever writes that much may wait a little."""
        self._loop.remove_reader(self._fd)
        self._loop.call_later(0.1, self._resume)

    def _resume(self) -> None:
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._readable)

    def _line(self, line: bytes) -> None:
        now = self._loop.time()
        if now - self._since >= ERRORS_WITHIN:
            if self._lines > ERRORS_MAX:
                self._tell(f"{self._lines - ERRORS_MAX} more lines are not shown")
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= ERRORS_MAX and line.strip():
            self._tell(vis(line[:ERROR_LINE_MAX].rstrip()))
