"""The few functions of OpenSSL that pyOpenSSL does not have, or wraps at a price.

The path of every record goes through four of them.  pyOpenSSL makes a new buffer for each call and an exception of
"nothing more"; together with the frames around them that is a tenth of a handshake, and half of a small record.  What
goes wrong is still told by pyOpenSSL.  Everything that depends on the inside of its classes is in this file, and
tests/privsep/test_libssl.py says so when they change.
"""

from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

_lib, _ffi = Binding.lib, Binding.ffi
_SIZE = 65536
_BUFFER = _ffi.new("char[]", _SIZE)    # one for all: a call fills it, and what it filled in is taken out at once
_WANT_READ: int = _lib.SSL_ERROR_WANT_READ
_CLOSED: int = _lib.SSL_ERROR_ZERO_RETURN


class Records:
    """The memory BIOs of a connection, and what goes through them.

    Where there is nothing yet, these answer with less than was asked for; what fails raises SSL.Error."""

    __slots__ = ("_conn", "_from", "_into", "_ssl", "closed")

    def __init__(self, conn: SSL.Connection) -> None:
        self.closed = False            # the peer said good-bye
        self._conn = conn
        self._ssl: Any = conn._ssl
        self._into: Any = conn._into_ssl
        self._from: Any = conn._from_ssl

    def put(self, data: bytes) -> None:
        """Octets from the peer.  A memory BIO takes all."""
        _lib.BIO_write(self._into, data, len(data))

    def take(self) -> bytes:
        """All octets for the peer."""
        out = b""
        while (size := _lib.BIO_read(self._from, _BUFFER, _SIZE)) > 0:
            piece: bytes = _ffi.buffer(_BUFFER, size)[:]
            if size < _SIZE:
                return out + piece
            out += piece
        return out

    def shake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        result = _lib.SSL_do_handshake(self._ssl)
        return result == 1 or self._ended(result)

    def read(self) -> bytes:
        """One record's worth of what was decrypted."""
        size = _lib.SSL_read(self._ssl, _BUFFER, _SIZE)
        if size > 0:
            data: bytes = _ffi.buffer(_BUFFER, size)[:]
            return data
        self._ended(size)
        return b""

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt: at most a record's worth."""
        size = _lib.SSL_write(self._ssl, _ffi.from_buffer(data), len(data))
        if size <= 0:
            self._conn._raise_ssl_error(self._ssl, size)

    def shut(self) -> None:
        """Say good-bye.  Whoever does not listen any more does not matter."""
        if _lib.SSL_shutdown(self._ssl) < 0:
            _lib.ERR_clear_error()

    def agreed(self) -> str:
        """Version, cipher and its bits, after the handshake."""
        cipher = _lib.SSL_get_current_cipher(self._ssl)
        bits = _lib.SSL_CIPHER_get_bits(cipher, _ffi.NULL)
        version, name = _ffi.string(_lib.SSL_get_version(self._ssl)), _ffi.string(_lib.SSL_CIPHER_get_name(cipher))
        return f"{version.decode()}:{name.decode()}:{bits}"

    def _ended(self, result: int) -> bool:
        """False: there is only nothing to do now.  Raises what else it was."""
        why = _lib.SSL_get_error(self._ssl, result)
        if why == _CLOSED:
            self.closed = True
        elif why != _WANT_READ:
            self._conn._raise_ssl_error(self._ssl, result)
        return False


def set_curves(context: SSL.Context, curves: str) -> bool:
    """The groups for the key exchange, in their order, of TLS 1.2 and 1.3; False when one is unknown."""
    done: bool = _lib.SSL_CTX_set1_curves_list(context._context, curves.encode()) == 1
    _lib.ERR_clear_error()
    return done


def set_dh(context: SSL.Context, pem: bytes) -> bool:
    """The parameters for DHE of TLS 1.2, as PKCS #3 in PEM."""
    bio = _ffi.gc(_lib.BIO_new_mem_buf(_ffi.from_buffer(pem), len(pem)), _lib.BIO_free)
    found = _lib.PEM_read_bio_DHparams(bio, _ffi.NULL, _ffi.NULL, _ffi.NULL)
    done: bool = found != _ffi.NULL and _lib.SSL_CTX_set_tmp_dh(context._context, _ffi.gc(found, _lib.DH_free)) == 1
    _lib.ERR_clear_error()
    return done
