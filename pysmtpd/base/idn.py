"""Internationalized domain names (RFC 5890): their A-form, ``xn--bcher-kva.example``, and U-form, ``bücher.example``.

A domain is kept and compared in A-form, which every name server and every mail server knows.  Labels in ASCII are left
as they are.
"""

from functools import lru_cache

import idna


@lru_cache(maxsize=1024)
def to_ascii(domain: str) -> str:
    """The A-form, in lower case where it is not ASCII.  Raises ValueError for what is no domain name."""
    try:
        return ".".join([label if label.isascii() else idna.encode(label, uts46=True).decode("ascii")
                         for label in domain.split(".")])
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(f"{domain}: {error}") from None


@lru_cache(maxsize=1024)
def to_unicode(domain: str) -> str:
    """The U-form, as far as there is one."""
    return ".".join([_label(label) for label in domain.split(".")])


def _label(label: str) -> str:
    if label[:4].lower() != "xn--":
        return label
    try:
        return idna.decode(label)
    except (idna.IDNAError, UnicodeError):
        return label


def fold(entry: str) -> str:
    """An entry of a table, a domain, a pattern of such or an address, with its domain in A-form if it has one."""
    if entry.isascii():
        return entry
    user, at, domain = entry.rpartition("@")
    try:
        return f"{user}{at}{to_ascii(domain)}"
    except ValueError:
        return entry


def preload() -> None:
    """Import what is imported when the first label is converted: later nothing may be importable."""
    to_unicode(to_ascii("bücher.example"))
