"""The groups of RFC 7919 for Diffie-Hellman without elliptic curves, which a ``pki`` may allow."""

import base64
import textwrap

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

# Bits, and the offset that makes it a safe prime (RFC 7919, appendix A).
_OFFSETS = {2048: 560316, 3072: 2625351, 4096: 5736041}
_GUARD = 64                        # bits


def parameters(key: PrivateKeyTypes) -> bytes:
    """Those of a key's strength, as PKCS #3 in PEM."""
    size = key.key_size if isinstance(key, RSAPrivateKey) else 0
    return _pem(next((bits for bits in _OFFSETS if bits >= size), max(_OFFSETS)))


def prime(bits: int) -> int:
    """2^b - 2^(b-64) + (floor(2^(b-130) e) + offset) 2^64 - 1."""
    return (1 << bits) - (1 << bits - 64) + (_e(bits - 130) + _OFFSETS[bits] << 64) - 1


def _e(bits: int) -> int:
    """floor(2^bits e), by the series of 1/n!."""
    term = total = 1 << bits + _GUARD
    number = 1
    while term:
        term //= number
        total += term
        number += 1
    return total >> _GUARD


def _pem(bits: int) -> bytes:
    number = prime(bits).to_bytes(bits // 8 + 1, "big")                # its first octet is 0: it is positive
    inner = b"\x02\x82" + len(number).to_bytes(2, "big") + number + b"\x02\x01\x02"
    der = b"\x30\x82" + len(inner).to_bytes(2, "big") + inner
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(("-----BEGIN DH PARAMETERS-----", *lines, "-----END DH PARAMETERS-----", "")).encode()
