"""What a client says to authenticate (RFC 4954, RFC 4616): PLAIN where it is offered, else LOGIN, and only over TLS."""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64


class AuthError(ValueError):
    """There is no way to authenticate with this server: why."""


def lines(credentials: str, offered: frozenset[str], *, secure: bool) -> list[bytes]:
    """The lines to be said, each after the first in answer to a 334.  Raises AuthError.

    ``credentials``: base64 of NUL user NUL password."""
    if not secure:
        raise AuthError("Refuse to AUTH over insecure channel")
    if not offered:
        raise AuthError("AUTH not advertised")
    if "PLAIN" in offered:
        return [f"AUTH PLAIN {credentials}\r\n".encode()]
    if "LOGIN" not in offered:
        raise AuthError("no supported AUTH method")
    try:
        _, user, password = a2b_base64(credentials).split(b"\0")
    except (Base64Error, ValueError):
        raise AuthError("credentials are malformed") from None
    return [b"AUTH LOGIN\r\n", *[b2a_base64(word, newline=False) + b"\r\n" for word in (user, password)]]


def without_secrets(text: str, credentials: str) -> str:
    """A server's words on it, which may repeat what it was told."""
    try:
        password = a2b_base64(credentials).split(b"\0")[-1]
    except Base64Error:
        password = b""
    alone = b2a_base64(password, newline=False).decode()
    for secret in (credentials, alone, password.decode("utf-8", "replace")):
        if secret:
            text = text.replace(secret, "...")
    return text
