"""One message on its way in, from the 354 to its end: mail data, its header, and the pieces for the queue."""

from pysmtpd.base.reply import Reply
from pysmtpd.session.chunks import Chunk, ChunkData
from pysmtpd.session.header import Completion, Header
from pysmtpd.session.received import Trace
from pysmtpd.session.smtp_data import MailData
from pysmtpd.session.smtp_tx import Tx


class _Passing:
    """What goes on to the transaction: our field, the header and the rest."""

    __slots__ = ("_begun", "_header", "_trace", "_tx")

    def __init__(self, tx: Tx, trace: Trace, header: Header) -> None:
        self._tx = tx
        self._trace = trace
        self._header = header
        self._begun = False

    @property
    def utf8_header(self) -> bool:
        """Whether the header has anything beyond ASCII, once it was seen."""
        return self._header.beyond_ascii or not self._trace.plain.isascii()

    @property
    def held(self) -> int:
        """Octets in memory, here and in the transaction."""
        return self._header.held + self._tx.held

    def _pass(self, data: bytes, *, last: bool) -> list[bytes]:
        """Pieces of the message that are full, after this came, whose last octet is the message's."""
        body = self._header.feed(data, last=last)
        if not body and (self._begun or not last or self._header.fault is not None):
            return []
        if not self._begun:
            self._begun = True
            self._tx.write(self._trace.full if self._header.beyond_ascii else self._trace.plain)
        return self._tx.write(body)


class Incoming(_Passing):
    """Takes the client's bytes, and gives those of the message to the transaction."""

    __slots__ = ("_data",)

    def __init__(self, tx: Tx, limit: int, trace: Trace, completion: Completion | None,
                 masked: bytes = b"", admd: bytes = b"", *, normalize: bool = False) -> None:
        """``trace`` is our Received field, ``completion``, ``masked`` and ``admd`` as in Header, ``limit`` in octets;
        ``normalize``: bare line ends and NULs are made good, not refused."""
        super().__init__(tx, trace, Header(completion, masked, admd))
        self._data = MailData(limit, normalize=normalize)

    @property
    def fault(self) -> Reply | None:
        """Why the message is refused, once its end was seen."""
        return self._data.fault or self._header.fault

    def feed(self, data: bytes) -> tuple[list[bytes], bytes | None]:
        """Pieces of the message that are full, and what follows its end once that was seen."""
        body, rest = self._data.feed(data)
        if self._data.fault is not None:
            return [], rest
        return self._pass(body, last=rest is not None), rest


class Chunked(_Passing):
    """The same, of a message that comes in chunks (RFC 3030)."""

    __slots__ = ("_data", "size")

    def __init__(self, tx: Tx, limit: int, trace: Trace, completion: Completion | None,
                 masked: bytes = b"", admd: bytes = b"", *, normalize: bool = False) -> None:
        super().__init__(tx, trace, Header(completion, masked, admd, strict=tx.may_be_binary))
        self._data = ChunkData(limit, may_be_binary=tx.may_be_binary, normalize=normalize)
        self.size = 0              # octets of the chunk that is coming

    @property
    def left(self) -> int:
        """How many octets of the chunk did not come yet."""
        return self._data.left

    @property
    def last(self) -> bool:
        """Whether it is the last chunk."""
        return self._data.last

    @property
    def binary(self) -> bool:
        """Whether the message is more than lines of text."""
        return self._data.binary

    @property
    def fault(self) -> Reply | None:
        """Why the message is refused, once the chunk was seen."""
        return self._data.fault or self._header.fault

    def begin(self, chunk: Chunk) -> None:
        """The next chunk was announced."""
        self.size = chunk.size
        self._data.begin(chunk)

    def feed(self, data: bytes) -> list[bytes]:
        """Pieces of the message that are full, after octets of the chunk came."""
        body = self._data.feed(data)
        if self._data.fault is not None:
            return []
        return self._pass(body, last=self.last and not self.left)
