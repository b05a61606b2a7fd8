"""Seals: envelopes that lka makes and queue stores, carried by smtp, which can neither make nor change one.

The key is made when the daemon starts and is known to lka and queue alone.  What is sealed names its message, because
each envelope holds its evpid: queue takes it for that message only, and only in the order of its numbers.
"""

from _operator import _compare_digest

import msgspec

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.struct import shape

# The bare module, as the standard library's random does it: hashlib would bring OpenSSL into queue, and 3 MB.
try:
    from _blake2 import blake2b
except ImportError:
    from hashlib import blake2b

KEY_SIZE = 32                      # octets
MAC_SIZE = 16


class SealError(ValueError):
    """What is sealed was not sealed with this key, or holds no envelopes."""


class Seal:
    """Seals envelopes, and opens what was sealed with the same key."""

    def __init__(self, key: bytes) -> None:
        self._mac = blake2b(key=key, digest_size=MAC_SIZE)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(list[Envelope]).decode
        self._prove = msgspec.msgpack.Decoder(shape(list[Envelope])).decode

    def close(self, envelopes: list[Envelope]) -> bytes:
        """The envelopes, sealed.  Raises SealError when whoever opens them would refuse one."""
        data = self._encode(envelopes)
        try:
            self._prove(data)
        except msgspec.DecodeError as error:
            raise SealError(str(error)) from None
        return self._sign(data) + data

    def open(self, sealed: bytes) -> list[Envelope]:
        """What close() was given.  Raises SealError."""
        data = sealed[MAC_SIZE:]
        if not _compare_digest(self._sign(data), sealed[:MAC_SIZE]):
            raise SealError("not sealed by lka")
        return self._read(data)

    def _sign(self, data: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(data)
        return mac.digest()

    def _read(self, data: bytes) -> list[Envelope]:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # A UnicodeError would show the bytes.
            raise SealError("not UTF-8" if isinstance(error, UnicodeError) else str(error)) from None
