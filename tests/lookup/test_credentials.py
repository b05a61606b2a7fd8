"""Each kind of stored password: the right one is recognised, another is not, and a hostile entry costs nothing."""

import base64
import hashlib
import hmac
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.lookup import libcrypt
from pysmtpd.lookup.credentials import (
    BadHash,
    make_verifier,
    password_of,
    plaintext_of,
    verifier_of,
    verify,
)
from pysmtpd.lookup.libcrypt import BadSetting


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


SALT = b"saltsalt"
KEYS = make_verifier("secret", b"0123456789abcdef", 4096)
SCRAM = f"4096,{b64(KEYS.salt)},{b64(KEYS.stored_key)},{b64(KEYS.server_key)}"
SECRETS = [                                    # all of them "secret"
    # by crypt(3); the first three are those of the specifications' own programs
    "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
    "$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi.",
    "$6$saltstring$AIsRs/Ee56G/tC8MEHhvReZTfx8u3rXXMl6eYrjCG9ibix19DxoMBLogdTET5Ukw9Sf7eZTITsuk0Ry5qulYz.",
    "$6$rounds=1000$saltstring$",
    "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
    "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
    "$2a$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
    "$y$j5T$F5Jx5fExrKuPp53xLKQ..1$zm0L8O66rxHYJo0AzQsQPRAQUMf.w3ObDahKT8eLWYD",
    "$7$6U..../....2Q9obwLhin8qvQl6sisAO/$ISHWvm1s0ZpCmUEY1y3n/1r3nPxik0c7IKdhED8lttC",
    "{CRYPT}$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
    "{BLF-CRYPT}$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
    # argon2-cffi's output
    "$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHQ$",
    "{ARGON2ID}$argon2id$v=19$m=1024,t=1,p=1$c2FsdHNhbHQ$",
    "$argon2i$v=19$m=1024,t=1,p=1$c2FsdHNhbHQ$",
    # Dovecot's
    "{PLAIN}secret",
    "{plain}secret",
    "{CLEARTEXT}secret",
    "{PLAIN.b64}c2VjcmV0",
    "{PLAIN-MD5}" + hashlib.md5(b"secret").hexdigest(),
    "{LDAP-MD5}" + b64(hashlib.md5(b"secret").digest()),
    "{SMD5}" + b64(hashlib.md5(b"secret" + SALT).digest() + SALT),
    "{SHA}" + b64(hashlib.sha1(b"secret").digest()),
    "{SHA256}" + b64(hashlib.sha256(b"secret").digest()),
    "{SHA256}" + hashlib.sha256(b"secret").hexdigest(),
    "{SHA512.HEX}" + hashlib.sha512(b"secret").hexdigest(),
    "{SSHA}" + b64(hashlib.sha1(b"secret" + SALT).digest() + SALT),
    "{SSHA256}" + b64(hashlib.sha256(b"secret" + SALT).digest() + SALT),
    "{SSHA512}" + b64(hashlib.sha512(b"secret" + SALT).digest() + SALT),
    "{SSHA256.hex}" + (hashlib.sha256(b"secret" + SALT).digest() + SALT).hex(),
    "{PBKDF2}$1$saltsalt$5000$" + hashlib.pbkdf2_hmac("sha1", b"secret", SALT, 5000, 20).hex(),
    "{SCRAM-SHA-256}" + SCRAM,
    "SCRAM-SHA-256$4096:{0[1]}${0[2]}:{0[3]}".format(SCRAM.split(",")),
]


def completed(stored: str) -> str:
    """An entry whose hash is computed here, because it is long."""
    if stored.startswith("$6$rounds"):
        return libcrypt.crypt(b"secret", stored) or ""
    if stored.endswith("c2FsdHNhbHQ$"):
        from cryptography.hazmat.primitives.kdf import argon2

        kind = argon2.Argon2i if "$argon2i$" in stored else argon2.Argon2id
        key = kind(salt=SALT, length=32, iterations=1, lanes=1, memory_cost=1024).derive(b"secret")
        return stored + b64(key).rstrip("=")
    return stored


@pytest.mark.parametrize("stored", SECRETS)
def test_the_password_and_no_other(stored: str) -> None:
    stored = completed(stored)
    assert verify("secret", stored)
    for other in ("", "Secret", "secret ", "secret\0", "secre", "x" * 600):
        assert not verify(other, stored)


def test_traditional_des_where_the_platform_has_it() -> None:
    if libcrypt.crypt(b"secret", "abFZSxKKdq5s2") is None:
        pytest.skip("no DES in this libcrypt")
    assert not verify("Secret", "abFZSxKKdq5s2")


def test_the_example_of_rfc_7677() -> None:
    """StoredKey and ServerKey of the exchange in section 3, proved by its proof and signature."""
    keys = make_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    said = (b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    signature = hmac.digest(keys.stored_key, said, "sha256")
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client).digest() == keys.stored_key
    assert b64(hmac.digest(keys.server_key, said, "sha256")) == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_password_is_compared_as_typed_and_as_prepared() -> None:
    prepared = "{SHA256}" + b64(hashlib.sha256("p\u00e4ss".encode()).digest())
    assert verify("p\u00e4ss", prepared)
    assert verify("pa\u0308ss", prepared)              # NFKC joins the two characters
    typed = "{SHA256}" + b64(hashlib.sha256("pa\u0308ss".encode()).digest())
    assert verify("pa\u0308ss", typed)
    assert not verify("p\u00e4ss", typed)


@pytest.mark.parametrize("stored", [
    "$6$rounds=999999999$saltstring$x", "$5$rounds=99999999$saltstring$x", "$2b$31$abcdefghijklmnopqrstuu",
    "$2b$15$abcdefghijklmnopqrstuu", "$7$zzzzzzzzzzzsalt$x", "$7$KU..../....salt$x", "$y$jFT$salt$x", "$y$jDzz$salt$x",
    "$sha1$99999999$salt$x", "$md5,rounds=4000000$salt$$x", "_zzzzsalt5678901234",
    "$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$AAAA", "$argon2id$v=19$m=65536,t=10000,p=1$c2FsdHNhbHQ$AAAA",
    "$argon2id$v=19$m=1024,t=1,p=200$c2FsdHNhbHQ$AAAA", "{SCRAM-SHA-256}99999999,AAAA,AAAA,AAAA",
    "{PBKDF2}$1$salt$99999999$" + "0" * 40, "x" * 1025, "{CRYPT}" + "x" * 600,
])
def test_what_would_take_minutes_is_refused_at_once(stored: str) -> None:
    begin = time.thread_time()
    with pytest.raises(BadHash) as error:
        verify("secret", stored)
    assert time.thread_time() - begin < 0.1
    assert stored not in str(error.value)


@pytest.mark.parametrize("stored", [
    "", "secret", "*", "!", "x", "*LK*", "$", "$9$x$y", "{NONE}x", "{}x", "{SHA256}!!", "{SSHA256}" + b64(b"x" * 32),
    "{SHA256}" + b64(b"x" * 31), "{SCRAM-SHA-256}1,,,", "{SCRAM-SHA-256}4096,AAAA,AAAA,AAAA", "{PBKDF2}x",
    "{ARGON2ID}x", "{PLAIN.hex}xy", "{DIGEST-MD5}x", "$6$\u00e4$x", "$6$a:b$x",
])
def test_what_is_no_hash_matches_nothing(stored: str) -> None:
    for password in ("", "secret", stored):
        with pytest.raises(BadHash):
            verify(password, stored)


def test_a_locked_hash_matches_nothing() -> None:
    for lock in ("!", "*", "!!"):
        with pytest.raises(BadHash):
            verify("secret", lock + SECRETS[2])


def test_the_user_before_a_hash() -> None:
    assert password_of("joe:$6$x$y") == "$6$x$y"
    assert password_of("$6$x$y") == "$6$x$y"
    assert password_of("joe:{PLAIN}a:b") == "{PLAIN}a:b"
    assert password_of("{PLAIN}a:b") == "{PLAIN}a:b"
    assert password_of("SCRAM-SHA-256$1:a$b:c") == "SCRAM-SHA-256$1:a$b:c"
    assert password_of("joe:SCRAM-SHA-256$1:a$b:c") == "SCRAM-SHA-256$1:a$b:c"


def test_which_entries_serve_scram() -> None:
    assert verifier_of("{SCRAM-SHA-256}" + SCRAM) == KEYS
    assert verifier_of("$6$x$y") is None
    assert plaintext_of("{PLAIN}secret") == "secret"
    assert plaintext_of("{SHA256}x") is None


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}$argon2id=v19m,tpSCRAMHA-256PLIN:./xyj7", max_size=60))
def test_any_entry(stored: str) -> None:
    try:
        assert verify("secret", stored) in (True, False)
    except BadHash:
        pass


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="$1567ybrounds=2a./xjT9C", max_size=20))
def test_no_setting_that_passes_is_slow(setting: str) -> None:
    begin = time.thread_time()
    try:
        libcrypt.crypt(b"x", setting)
    except BadSetting:
        pass
    assert time.thread_time() - begin < 5
