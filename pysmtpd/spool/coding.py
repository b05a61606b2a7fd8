"""How a body lies on the disk when it shall be small, or secret: in records that are compressed, encrypted or both.

A coded body is a head and records.  The head is a version and a random id.  A record is a byte that says what was done
to it, the length of what follows, and 64 KiB of the body, the last one less, deflated if that made it smaller, and
then encrypted with AES-256-GCM: 12 octets of nonce, the text, 16 octets of tag.  The tag also covers the id, the
number of the record, its first byte, and so whether it is the last: records can neither be cut off nor be exchanged.
Each record says what it is, so that a body is read whatever the settings are now; but for encrypted ones the key is
needed with which they were written.
"""

import os
import struct
import zlib
from typing import TYPE_CHECKING

from pysmtpd.spool.backend import IS_CODED, IS_ENCRYPTED, SpoolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32                      # octets
RECORD = 65536                     # octets of a body in a record
VERSION = 1
LEVEL = 1                          # of zlib: 40 % faster than the usual one, and 4 % larger
_LAST, _DEFLATED, _ENCRYPTED = 1, 2, 4
_NONCE = 12
_HEAD = struct.Struct(">B16s")
_RECORD = struct.Struct(">BI")
_BOUND = struct.Struct(">16sQB")
_ENCODED_MAX = RECORD + 1024       # octets of a record, whatever was done to it
_CHECK = b"the key of this queue"


def preload(*, encrypts: bool) -> None:
    """What cannot be imported from inside the jail.  Who does not encrypt does not pay for it."""
    if encrypts:
        from cryptography import exceptions  # noqa: F401

        _cipher(bytes(KEY_SIZE)).encrypt(bytes(_NONCE), b"", b"")
    zlib.compress(b"")


def _cipher(key: bytes) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


class Coding:
    """What is done to bodies that are written now, and the key to read those of before."""

    def __init__(self, *, compress: bool = False, key: bytes = b"") -> None:
        """key: 32 octets, or none."""
        self.compress = compress
        self.cipher = _cipher(key) if key else None

    @property
    def flags(self) -> int:
        """Of a message that is written now."""
        coded = self.compress or self.cipher is not None
        return IS_CODED * coded | IS_ENCRYPTED * (self.cipher is not None)

    def encoder(self) -> "Encoder | None":
        """For one body; None where bodies lie as they are."""
        return Encoder(self) if self.flags else None

    def encode(self, body: bytes) -> bytes:
        """All of a body."""
        encoder = Encoder(self)
        return encoder.add(body) + encoder.end()

    def decode(self, coded: bytes) -> bytes:
        """All of a body.  Raises SpoolError."""
        reading = Decoder(self, coded[: _HEAD.size])
        parts: list[bytes] = []
        at = _HEAD.size
        while True:
            kind, length = Decoder.head(coded[at : at + _RECORD.size])
            at += _RECORD.size
            parts.append(reading.record(len(parts), kind, coded[at : at + length]))
            at += length
            if kind & _LAST:
                break
        if at != len(coded):
            raise SpoolError("a body goes on behind its end")
        return b"".join(parts)

    # which key it is

    def check(self) -> bytes:
        """What tells, next time, whether the key is the same."""
        return self.encode(_CHECK)

    def fits(self, check: bytes | None) -> bool:
        """Whether the key is the one that made this."""
        try:
            return check is not None and self.decode(check) == _CHECK
        except SpoolError:
            return False


PLAIN = Coding()


class Encoder:
    """A body that is being written."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._id = os.urandom(16)
        self._begun = False
        self._number = 0
        self._waiting = bytearray()

    def add(self, data: bytes) -> bytes:
        """What to write now.  The last record waits for the end."""
        self._waiting += data
        parts = []
        while len(self._waiting) > RECORD:
            parts.append(self._record(bytes(self._waiting[:RECORD]), 0))
            del self._waiting[:RECORD]
        return b"".join(parts)

    def end(self) -> bytes:
        """The rest."""
        return self._record(bytes(self._waiting), _LAST)

    def _record(self, plain: bytes, kind: int) -> bytes:
        head = b"" if self._begun else _HEAD.pack(VERSION, self._id)
        self._begun = True
        if self._coding.compress:
            small = zlib.compress(plain, LEVEL)
            if len(small) < len(plain):
                plain, kind = small, kind | _DEFLATED
        if self._coding.cipher is not None:
            kind |= _ENCRYPTED
            nonce = os.urandom(_NONCE)
            plain = nonce + self._coding.cipher.encrypt(nonce, plain, _BOUND.pack(self._id, self._number, kind))
        self._number += 1
        return head + _RECORD.pack(kind, len(plain)) + plain


class Decoder:
    """A body that is being read, record by record."""

    HEAD = _HEAD.size
    RECORD_HEAD = _RECORD.size

    def __init__(self, coding: Coding, head: bytes) -> None:
        """Raises SpoolError."""
        self._coding = coding
        if len(head) != _HEAD.size or head[0] != VERSION:
            raise SpoolError("a body does not begin as one")
        self._id: bytes = _HEAD.unpack(head)[1]

    @staticmethod
    def head(data: bytes) -> tuple[int, int]:
        """What a record is, and the octets that follow.  Raises SpoolError."""
        if len(data) != _RECORD.size:
            raise SpoolError("a body is cut off")
        kind, length = _RECORD.unpack(data)
        if length > _ENCODED_MAX or kind > _LAST | _DEFLATED | _ENCRYPTED:
            raise SpoolError("a body is damaged")
        return kind, length

    def record(self, number: int, kind: int, data: bytes) -> bytes:
        """The octets of one record.  Raises SpoolError."""
        if kind & _ENCRYPTED:
            data = self._decrypt(number, kind, data)
        if kind & _DEFLATED:
            data = _inflate(data)
        if len(data) > RECORD or (len(data) < RECORD and not kind & _LAST):
            raise SpoolError("a body is damaged")
        return data

    def _decrypt(self, number: int, kind: int, data: bytes) -> bytes:
        if self._coding.cipher is None:
            raise SpoolError("a body is encrypted, and there is no key")
        from cryptography.exceptions import InvalidTag

        try:
            return self._coding.cipher.decrypt(data[:_NONCE], data[_NONCE:], _BOUND.pack(self._id, number, kind))
        except (InvalidTag, ValueError):
            raise SpoolError("a body is damaged, or was encrypted with another key") from None


def _inflate(data: bytes) -> bytes:
    """At most one octet more than a record holds: a damaged one may claim anything."""
    inflating = zlib.decompressobj()
    try:
        plain = inflating.decompress(data, RECORD + 1)
    except zlib.error:
        raise SpoolError("a body is damaged") from None
    if not inflating.eof:
        raise SpoolError("a body is damaged")
    return plain
