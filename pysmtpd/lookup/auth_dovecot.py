"""Dovecot as the one who knows the passwords: its authentication socket, shared by all clients of a listener."""

import asyncio
import os

from pysmtpd.base.text import is_clean
from pysmtpd.lookup.auth import CHECK_TIMEOUT, Dialogue
from pysmtpd.lookup.dovecot import Continue, DovecotClient, Event, Failed, Passed, ProtocolError, Ready
from pysmtpd.lookup.sasl import Malformed, Rejected
from pysmtpd.lookup.service import TableError
from pysmtpd.session.smtp_auth import MECHANISMS

CONNECT_TIMEOUT = 10.0             # seconds, with the server's greeting
READ = 65536


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.protocol = DovecotClient(os.getpid() + number)
        self.closed = False
        self.requests: dict[int, asyncio.Queue[Event]] = {}
        self.mechanisms: tuple[str, ...] = ()
        self.ready = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._task = asyncio.get_running_loop().create_task(self._read())
        self.write(self.protocol.greeting)

    def write(self, data: bytes) -> None:
        if not self.closed:
            self._writer.write(data)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(READ):
                for event in self.protocol.feed(data):
                    self._event(event)
        except (OSError, ProtocolError):
            pass
        finally:
            self.close()

    def _event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.mechanisms = event.mechanisms
            self.ready.set()
        elif (queue := self.requests.get(event.id)) is not None:
            queue.put_nowait(event)

    async def gone(self) -> None:
        """Wait for the end after close."""
        await asyncio.wait((self._task,))

    def close(self) -> None:
        """Whoever waits for an answer gets none."""
        self.closed = True
        self.ready.set()
        self._writer.close()
        for number, queue in self.requests.items():
            queue.put_nowait(Failed(number, True, ""))


class DovecotBackend:
    """What passes for an authentication is Dovecot's to say, and so is what a user is called."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._line: Line | None = None
        self._lock = asyncio.Lock()
        self._number = 0
        self._lines = 0

    def mechanisms(self) -> tuple[str, ...]:
        """Those of Dovecot's greeting, or the usual ones before that was heard."""
        return self._line.mechanisms if self._line is not None and self._line.mechanisms else MECHANISMS

    async def greet(self) -> None:
        """Connect, to learn the mechanisms.  Raises TableError."""
        await self._connected()

    async def run(self, dialogue: Dialogue) -> str:
        line = await self._connected()
        if dialogue.mechanism not in line.mechanisms:
            raise Malformed("Dovecot has no such mechanism")
        self._number = number = self._number % 0x7FFFFFFF + 1
        queue = line.requests[number] = asyncio.Queue()
        over = False
        try:
            line.write(line.protocol.begin(number, dialogue.mechanism, dialogue.initial, dialogue.address))
            while True:
                event = await self._next(queue)
                if isinstance(event, Continue):
                    line.write(line.protocol.respond(number, await dialogue.challenge(event.data)))
                    continue
                over = True
                return self._end(event, dialogue)
        finally:
            del line.requests[number]
            if not over:
                line.write(line.protocol.cancel(number))

    async def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
            await self._line.gone()

    async def _next(self, queue: "asyncio.Queue[Event]") -> Event:
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                return await queue.get()
        except TimeoutError:
            raise TableError(f"{self._path}: no answer within {CHECK_TIMEOUT:g} seconds") from None

    def _end(self, event: Event, dialogue: Dialogue) -> str:
        if isinstance(event, Passed):
            if not is_clean(event.user) or len(event.user.encode()) > 255:
                raise TableError(f"{self._path}: a user name with control characters, or of more than 255 octets")
            return event.user
        if isinstance(event, Failed) and not event.temporary:
            dialogue.user = event.user if is_clean(event.user) else ""
            raise Rejected("Dovecot says no")
        raise TableError(f"{self._path}: temporary failure")

    async def _connected(self) -> Line:
        """The connection, made anew when there is none.  Raises TableError."""
        async with self._lock:
            if self._line is None or self._line.closed:
                self._line = await self._connect()
            return self._line

    async def _connect(self) -> Line:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_unix_connection(self._path, limit=READ)
                self._lines += 1
                line = Line(reader, writer, self._lines)
                try:
                    await line.ready.wait()
                except asyncio.CancelledError:
                    line.close()
                    raise
        except (OSError, TimeoutError) as error:
            raise TableError(f"{self._path}: {getattr(error, 'strerror', None) or 'no greeting'}") from None
        if line.closed:
            raise TableError(f"{self._path}: does not speak Dovecot's authentication protocol")
        return line


