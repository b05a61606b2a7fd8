"""Reads the spool for the queue: from memory when it can, and telling the log what cannot be read."""

from collections.abc import Callable, Iterable

from pysmtpd.spool.backend import Backend, Message, SpoolError, Stored, Unreadable
from pysmtpd.spool.bodies import Bodies
from pysmtpd.spool.memory import Memory


class Reader:
    """Everything that is read and not written."""

    def __init__(self, backend: Backend, bodies: Bodies, memory: Memory, warn: Callable[[str], None]) -> None:
        self._backend = backend
        self._bodies = bodies
        self._memory = memory
        self._warn = warn

    def failed(self, error: SpoolError) -> None:
        """Tell the log."""
        self._warn(f"warn: queue: cannot read: {error}")

    def load(self, evpids: list[int]) -> list[Stored]:
        """Those of the envelopes that there are.  Raises SpoolError."""
        return self.readable(self.load_each(evpids))

    def load_each(self, evpids: list[int]) -> list[Stored | Unreadable]:
        """Likewise, with those that cannot be understood.  Raises SpoolError."""
        return self._backend.load(evpids)

    def walk(self, msgid: int, after: int, limit: int) -> list[Stored | Unreadable]:
        """A page of envelopes.  Raises SpoolError."""
        return self._backend.walk(msgid, after, limit)

    def readable(self, found: Iterable[Stored | Unreadable]) -> list[Stored]:
        """Those that are envelopes.  The log names the others; they stay where they are."""
        stored: list[Stored] = []
        for item in found:
            if isinstance(item, Unreadable):
                self._warn(f"warn: queue: invalid envelope {item.evpid:016x}: {item.reason}")
            else:
                stored.append(item)
        return stored

    def message(self, msgid: int) -> Message | None:
        """Raises SpoolError."""
        message = self._memory.message(msgid)
        if message is None:
            message = self._backend.message(msgid)
            if message is not None:
                self._memory.add_message(message)
        return message

    def find_message(self, msgid: int) -> Message | None:
        """A message, or None when it is not there or cannot be read."""
        try:
            return self.message(msgid)
        except SpoolError as error:
            self.failed(error)
            return None

    def body(self, msgid: int) -> bytes | None:
        """The body of a message that is not a file.  Raises SpoolError."""
        body = self._memory.body(msgid)
        return body if body is not None else self._backend.body(msgid)

    def piece(self, message: Message, offset: int, size: int) -> bytes | None:
        """Octets of a body; None when there is none.  Raises SpoolError."""
        if not message.file:
            body = self.body(message.msgid)
            return None if body is None else body[offset : offset + size]
        file = self._bodies.open(message)
        try:
            return file.read(offset, max(0, min(size, message.size - offset)))
        except OSError as error:
            raise SpoolError(f"message {message.msgid:08x}: {error.strerror}") from None
        finally:
            file.close()
