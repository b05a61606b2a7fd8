"""One message on its way in, from the 354 to its end: mail data, its header, and the pieces for the queue."""

from pysmtpd.base.reply import Reply
from pysmtpd.session.header import Header
from pysmtpd.session.smtp_data import MailData
from pysmtpd.session.smtp_tx import Tx


class Incoming:
    """Takes the client's bytes, and gives those of the message to the transaction."""

    __slots__ = ("_data", "_header", "_tx")

    def __init__(self, tx: Tx, trace: bytes, completion: tuple[bytes, bytes] | None, limit: int,
                 masked: bytes = b"") -> None:
        """``trace`` is our Received field, ``completion`` and ``masked`` as in Header, ``limit`` in octets."""
        self._tx = tx
        self._data = MailData(limit)
        self._header = Header(completion, masked)
        tx.write(trace)

    @property
    def held(self) -> int:
        """Octets in memory, here and in the transaction."""
        return self._header.held + self._tx.held

    @property
    def fault(self) -> Reply | None:
        """Why the message is refused, once its end was seen."""
        return self._data.fault or self._header.fault

    def feed(self, data: bytes) -> tuple[list[bytes], bytes | None]:
        """Pieces of the message that are full, and what follows its end once that was seen."""
        body, rest = self._data.feed(data)
        if self._data.fault is not None:
            return [], rest
        body = self._header.feed(body, last=rest is not None)
        return self._tx.write(body) if body else [], rest
