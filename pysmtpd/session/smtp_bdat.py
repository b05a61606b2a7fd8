"""BDAT in a session (RFC 3030).

Whatever is wrong with a chunk, its octets are taken in before that is said: none of them is ever read as a command.
After a refused chunk there is no transaction any more, so that chunks which were on their way already are refused, too.
"""

from pysmtpd.base import reply
from pysmtpd.base.reply import Reply
from pysmtpd.session.chunks import Chunk, parse_chunk
from pysmtpd.session.effects import Body
from pysmtpd.session.incoming import Chunked
from pysmtpd.session.smtp_auth import Authentication
from pysmtpd.session.smtp_tx import Tx


class Chunking(Authentication):
    """The part of a session that is about chunks."""

    _tx: Tx | None = None
    _lacking: frozenset[str]
    _unwanted = 0                  # octets to come of a refused chunk
    _refusal: Reply = reply.R503_NOT_ALLOWED

    # for the session

    def _chunked(self, tx: Tx) -> Chunked:
        """A message begins."""
        raise NotImplementedError

    def _note_header(self, incoming: Chunked) -> None:
        """All of its header was seen."""
        raise NotImplementedError

    def _end_of_data(self, fault: Reply | None) -> None:
        """It ended."""
        raise NotImplementedError

    def _proceed_bdat(self, argument: str) -> None:
        chunk = parse_chunk(argument)
        tx = self._tx
        if chunk is None:
            self._reply(reply.R501_CHUNK)
            self._hang_up(None, "quit")
        elif "CHUNKING" in self._lacking:
            self._refuse_chunk(chunk, reply.R503_NOT_SUPPORTED)
        elif tx is None:
            self._refuse_chunk(chunk, reply.R503_NOT_ALLOWED)
        elif not tx.rcpts:
            self._refuse_chunk(chunk, reply.R503_NO_RECIPIENT)
        else:
            if tx.chunked is None:
                tx.chunked = self._chunked(tx)
            tx.chunked.begin(chunk)
            self._instead = self._receive_chunk

    def _refuse_chunk(self, chunk: Chunk, refusal: Reply) -> None:
        self._unwanted, self._refusal = chunk.size, refusal
        self._instead = self._discard_chunk

    def _discard_chunk(self) -> bool:
        self._unwanted -= len(self._lines.take(self._unwanted))
        if self._unwanted:
            return False
        self._instead = None
        self._reply(self._refusal)
        return True

    def _receive_chunk(self) -> bool:
        """Take in a chunk; False when its end has not come."""
        tx = self._tx
        assert tx is not None and tx.chunked is not None
        chunked = tx.chunked
        size = chunked.size
        data = self._lines.take(chunked.left)
        if chunked.left and not data:
            return False
        self._effects.extend(map(Body, chunked.feed(data)))
        if chunked.left:
            return False
        self._instead = None
        if chunked.fault is not None or chunked.last:
            tx.binary = chunked.binary
            self._note_header(chunked)
            self._end_of_data(chunked.fault)
        else:
            self._reply(reply.line(f"250 2.0.0 {size} octets received"))
        return True
