"""A certificate and its key, looked at before the daemon starts.

Imported only where there is one to look at: the library is large.
"""

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from pysmtpd.conf.source import Certificate, Unusable

_KEY_WITHOUT = "there is no private key in it (PEM)"
_CERT_WITHOUT = "there is no certificate in it (PEM)"


def examine(cert_path: str, cert: bytes, key_path: str, key: bytes) -> Certificate | None:
    """The first certificate of a chain, and whether a key is its own; None for algorithms that are not known here.
    Raises Unusable."""
    try:
        chain = x509.load_pem_x509_certificates(cert)
    except ValueError:
        raise Unusable(cert_path, _CERT_WITHOUT) from None
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise Unusable(key_path, "this key has a passphrase, and a daemon cannot ask for it") from None
    except ValueError:
        raise Unusable(key_path, _KEY_WITHOUT) from None
    except UnsupportedAlgorithm:
        return None
    try:
        mine, theirs = (one.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                        for one in (private.public_key(), chain[0].public_key()))
    except (UnsupportedAlgorithm, ValueError):
        return None
    leaf = chain[0]
    return Certificate(int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp()),
                       fits=mine == theirs)
