"""Each mechanism by its RFC, and what no client can say to make it fall over."""

import base64
import contextlib
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.lookup.credentials import make_verifier
from pysmtpd.lookup.sasl import (
    MECHANISMS,
    Challenge,
    CheckPassword,
    CheckUser,
    Facts,
    FetchVerifier,
    Malformed,
    Need,
    Rejected,
)

KEYS = make_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)


class Client:
    """Says its words in turn, and keeps the challenges; the password of joe is secret."""

    def __init__(self, *words: bytes) -> None:
        self.words = list(words)
        self.challenges: list[bytes] = []
        self.asked: list[Need] = []

    def run(self, mechanism: str, initial: bytes | None = None, *identities: str, random: bytes = b"x" * 18) -> str:
        exchange = MECHANISMS[mechanism].start(initial, Facts(identities), lambda count: random[:count])
        answer: object = None
        try:
            while True:
                answer = self.answer(exchange.send(answer))
        except StopIteration as end:
            return str(end.value)

    def answer(self, need: Need) -> object:
        if isinstance(need, Challenge):
            self.challenges.append(need.data)
            return self.words.pop(0)
        self.asked.append(need)
        if isinstance(need, CheckPassword):
            return need == ("joe", "secret")
        if isinstance(need, FetchVerifier):
            return KEYS
        assert isinstance(need, CheckUser)
        return need.user == "joe"


def test_plain() -> None:
    assert Client().run("PLAIN", b"\0joe\0secret") == "joe"
    client = Client(b"\0joe\0secret")
    assert client.run("PLAIN") == "joe"
    assert client.challenges == [b""]
    assert Client().run("PLAIN", b"Joe\0joe\0secret") == "joe"


@pytest.mark.parametrize("words", [b"\0joe\0wrong", b"\0ann\0secret", b"ann\0joe\0secret"])
def test_plain_rejected(words: bytes) -> None:
    with pytest.raises(Rejected):
        Client().run("PLAIN", words)


@pytest.mark.parametrize("words", [
    b"", b"joe", b"joe\0secret", b"\0joe\0", b"\0\0secret", b"\0joe\0secret\0", b"\0jo\ne\0secret", b"\0joe\0sec\rret",
    b"\0\xff\0secret", b"\0joe\0\xff", b"\0" + b"j" * 256 + b"\0secret", b"\0joe\0" + b"s" * 2048,
    b"\0jo\x01e\0secret",
])
def test_plain_malformed(words: bytes) -> None:
    client = Client()
    with pytest.raises(Malformed):
        client.run("PLAIN", words)
    assert client.asked == []


def test_user_names_are_prepared() -> None:
    client = Client()
    with contextlib.suppress(Rejected):
        client.run("PLAIN", "\0\u2168\0x".encode())
    assert client.asked == [CheckPassword("IX", "x")]


def test_login() -> None:
    client = Client(b"joe", b"secret")
    assert client.run("LOGIN") == "joe"
    assert client.challenges == [b"Username:", b"Password:"]
    client = Client(b"secret")
    assert client.run("LOGIN", b"joe") == "joe"
    assert client.challenges == [b"Password:"]
    with pytest.raises(Rejected):
        Client(b"joe", b"wrong").run("LOGIN")


@pytest.mark.parametrize("words", [(b"",), (b"a\0b",), (b"joe", b""), (b"joe", b"a\nb"), (b"joe", b"secret\0x")])
def test_login_malformed(words: tuple[bytes, ...]) -> None:
    with pytest.raises(Malformed):
        Client(*words).run("LOGIN")


def test_external() -> None:
    assert Client(b"").run("EXTERNAL", None, "ann", "joe") == "joe"
    assert Client().run("EXTERNAL", b"", "joe") == "joe"
    assert Client().run("EXTERNAL", b"JOE", "ann", "joe") == "joe"
    for initial, names in ((b"joe", ("ann",)), (b"ann", ("ann",)), (b"", ()), (b"", ("ann",))):
        with pytest.raises(Rejected):
            Client().run("EXTERNAL", initial, *names)


class Scram(Client):
    """A client of RFC 5802 whose password is ``password``."""

    def __init__(self, password: str = "pencil", header: bytes = b"n,,", user: bytes = b"user") -> None:
        super().__init__()
        self.password, self.header = password, header
        self.bare = b"n=%s,r=rOprNGfwEbeRWgbNEkqO" % user
        self.last = b""

    @property
    def first(self) -> bytes:
        return self.header + self.bare

    def answer(self, need: Need) -> object:
        if not isinstance(need, Challenge):
            return super().answer(need)
        self.challenges.append(need.data)
        if need.data.startswith(b"v="):
            assert need.data == b"v=" + base64.b64encode(hmac.digest(self.server_key, self.said, "sha256"))
            return self.last
        return self.final(need.data)

    def final(self, challenge: bytes) -> bytes:
        fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
        salt = base64.b64decode(fields[b"s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, int(fields[b"i"]))
        self.server_key = hmac.digest(salted, b"Server Key", "sha256")
        key = hmac.digest(salted, b"Client Key", "sha256")
        bare = b"c=%s,r=%s" % (base64.b64encode(self.header), fields[b"r"])
        self.said = self.bare + b"," + challenge + b"," + bare
        signature = hmac.digest(hashlib.sha256(key).digest(), self.said, "sha256")
        return bare + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True)))


def test_scram() -> None:
    client = Scram()
    assert client.run("SCRAM-SHA-256", client.first) == "user"
    assert client.challenges[0].startswith(b"r=rOprNGfwEbeRWgbNEkqO")
    assert b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" in client.challenges[0]
    assert client.challenges[1].startswith(b"v=")


def test_scram_with_names_that_are_escaped() -> None:
    client = Scram(user=b"a=2Cb=3Dc")
    assert client.run("SCRAM-SHA-256", client.first) == "a,b=c"
    assert client.asked == [FetchVerifier("a,b=c")]
    client = Scram(header=b"y,a=user,")
    assert client.run("SCRAM-SHA-256", client.first) == "user"


def test_scram_rejected() -> None:
    for client in (Scram("pencil "), Scram(header=b"n,a=other,")):
        with pytest.raises(Rejected):
            client.run("SCRAM-SHA-256", client.first)


class Tampering(Scram):
    """Sends another final message than it should."""

    def __init__(self, old: bytes, new: bytes) -> None:
        super().__init__()
        self.change = old, new

    def final(self, challenge: bytes) -> bytes:
        return super().final(challenge).replace(*self.change, 1)


@pytest.mark.parametrize("old, new", [(b"c=biws", b"c=eSws"), (b"r=r", b"r=s"), (b"p=", b"p=AAAA"), (b"c=", b"c=AAAA")])
def test_scram_with_a_changed_message(old: bytes, new: bytes) -> None:
    client = Tampering(old, new)
    with pytest.raises((Rejected, Malformed)):
        client.run("SCRAM-SHA-256", client.first)


@pytest.mark.parametrize("first", [
    b"", b"n,,", b"p=tls-unique,,n=user,r=abc", b"x,,n=user,r=abc", b"n,,n=user", b"n,,n=,r=abc", b"n,,n=us=er,r=abc",
    b"n,,n=user,r=", b"n,,m=x,n=user,r=abc", b"n,,n=user,r=" + b"a" * 300, b"n,,n=user,r=\xff",
])
def test_scram_malformed(first: bytes) -> None:
    with pytest.raises(Malformed):
        Client().run("SCRAM-SHA-256", first)


def test_scram_has_nothing_to_say_after_the_end() -> None:
    client = Scram()
    client.last = b"x"
    with pytest.raises(Malformed):
        client.run("SCRAM-SHA-256", client.first)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MECHANISMS)), st.none() | st.binary(max_size=80), st.lists(st.binary(max_size=80)))
def test_any_words(mechanism: str, initial: bytes | None, words: list[bytes]) -> None:
    """They are rejected, malformed, or not enough; nothing else ever happens, and nobody is let in."""
    with pytest.raises((Rejected, Malformed, IndexError)):
        Client(*words).run(mechanism, initial)


def test_a_password_is_never_shown() -> None:
    assert "secret" not in repr(CheckPassword("joe", "secret"))
