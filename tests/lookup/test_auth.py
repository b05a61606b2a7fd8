"""Dialogues of AUTH against back ends: tables, a fake Dovecot, a fake saslauthd, and children of a fake parent."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pysmtpd.conf.config import Listener
from pysmtpd.imsg import Message
from pysmtpd.lookup import auth, auth_build
from pysmtpd.lookup.auth import SEEN_MIN, Authenticator, Backend, TableBackend, Threads
from pysmtpd.lookup.auth_dovecot import DovecotBackend
from pysmtpd.lookup.auth_saslauthd import SaslauthdBackend, question
from pysmtpd.lookup.auth_system import CHILDREN_MAX, Children, SystemBackend
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.strangers import DUMMY
from pysmtpd.lookup.table import Tables
from pysmtpd.lookup.table_db import DbTable
from pysmtpd.lookup.table_slow import Answer, Question, SlowTable
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.maps import cdb
from pysmtpd.messages import (
    AuthAnswered,
    AuthAsk,
    AuthChallenge,
    AuthDone,
    AuthRefused,
    AuthResult,
    AuthStart,
    SmtpAuth,
)
from tests.lookup.test_sasl import Scram

HASH = "$6$saltstring$AIsRs/Ee56G/tC8MEHhvReZTfx8u3rXXMl6eYrjCG9ibix19DxoMBLogdTET5Ukw9Sf7eZTITsuk0Ry5qulYz."
OK, PERMFAIL, TEMPFAIL, MALFORMED = AuthResult


def octets(count: int) -> bytes:
    return b"\x07" * count


def static(entries: dict[str, str]) -> Tables:
    table = StaticTable("creds")
    table.fill(entries.items())
    return Tables([table])


def of_table(entries: dict[str, str]) -> TableBackend:
    return TableBackend("creds", static(entries), Threads(), octets)


def make(iterations: int, salt: int) -> str:
    """A verifier nobody knows the password of."""
    salted, keys = base64.b64encode(b"s" * salt).decode(), base64.b64encode(b"k" * 32).decode()
    return f"{{SCRAM-SHA-256}}{iterations},{salted},{keys},{keys}"


class Desk:
    """An Authenticator, and a client of it."""

    def __init__(self, backend: Backend) -> None:
        self.logged: list[str] = []
        self.sent: list[Message] = []
        self.news = asyncio.Event()
        self.changes: list[tuple[str, ...]] = []
        self.auth = Authenticator(self.logged.append, lambda: self.changes.append(backend.mechanisms()))
        self.auth.backends = {0: backend}

    def send(self, message: Message) -> None:
        self.sent.append(message)
        self.news.set()

    async def next(self) -> Message:
        async with asyncio.timeout(5):
            while not self.sent:
                self.news.clear()
                await self.news.wait()
        return self.sent.pop(0)

    def begin(self, mechanism: str, initial: bytes | None = None, *identities: str, reqid: int = 1) -> None:
        self.auth.begin(SmtpAuth(reqid, 0, mechanism, initial is not None, initial or b"", "192.0.2.10",
                                 list(identities)), self, self.send)

    async def say(self, mechanism: str, initial: bytes | None, *words: bytes, identities: tuple[str, ...] = ()
                  ) -> AuthDone:
        self.begin(mechanism, initial, *identities)
        left = list(words)
        while isinstance(message := await self.next(), AuthChallenge):
            self.auth.respond(1, self, left.pop(0))
        assert isinstance(message, AuthDone)
        return message


def run(backend: Callable[[], Backend], play: Callable[[Desk], Awaitable[None]]) -> Desk:
    desk: list[Desk] = []

    async def all_of_it() -> None:
        desk.append(Desk(backend()))
        await play(desk[0])

    asyncio.run(all_of_it())
    return desk[0]


def test_a_table_of_hashes() -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, OK, "joe")
        assert await desk.say("PLAIN", b"\0Joe\0secret") == AuthDone(1, OK, "Joe")
        assert await desk.say("LOGIN", None, b"ann", b"secret") == AuthDone(1, OK, "ann")
        assert await desk.say("PLAIN", b"\0joe\0wrong") == AuthDone(1, PERMFAIL, "joe")
        assert await desk.say("PLAIN", b"\0nobody\0secret") == AuthDone(1, PERMFAIL, "nobody")
        assert await desk.say("PLAIN", b"joe") == AuthDone(1, MALFORMED, "")
        assert await desk.say("CRAM-MD5", None) == AuthDone(1, MALFORMED, "")
        assert await desk.say("SCRAM-SHA-256", b"n,,n=joe,r=x") == AuthDone(1, MALFORMED, "")

    # With and without the user before the hash, as OpenSMTPD has it.
    desk = run(lambda: of_table({"joe": HASH, "ann": f"anna:{HASH}"}), play)
    assert desk.logged == []
    assert not desk.auth._dialogues


def test_an_entry_that_is_no_hash_is_the_administrators_to_mend() -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, TEMPFAIL, "joe")

    desk = run(lambda: of_table({"joe": "secret"}), play)
    assert desk.logged == ["warn: lka: authentication: table creds: entry of joe: the hash is of no known kind"]


@pytest.mark.parametrize("stored, pencil", [("{PLAIN}pencil", True), ("{PLAIN}pen", False), (
    "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", True)])
def test_scram(stored: str, pencil: bool) -> None:
    client = Scram("pencil")

    async def play(desk: Desk) -> None:
        desk.begin("SCRAM-SHA-256", client.first)
        while isinstance(message := await desk.next(), AuthChallenge):
            final = client.final(message.data) if message.data.startswith(b"r=") else b""
            desk.auth.respond(1, desk, final)
        assert message == AuthDone(1, OK if pencil else PERMFAIL, "user")

    desk = run(lambda: of_table({"user": stored}), play)
    assert desk.auth.backends[0].mechanisms() == ("SCRAM-SHA-256", "PLAIN", "LOGIN")


def test_scram_does_not_tell_who_exists() -> None:
    """Somebody who does not gets the same challenge each time, with as many iterations as the others."""
    async def play(desk: Desk) -> None:
        said = []
        for user in (b"nobody", b"user", b"nobody", b"other"):
            desk.begin("SCRAM-SHA-256", b"n,,n=%s,r=abc" % user)
            message = await desk.next()
            assert isinstance(message, AuthChallenge)
            said.append(message.data)
            desk.auth.cancel(desk, 1)
        assert said[0] == said[2] != said[3]
        assert {challenge.rsplit(b",", 1)[1] for challenge in said} == {b"i=4096"}
        assert await desk.say("SCRAM-SHA-256", b"n,,n=nobody,r=abc", Scram().final(said[0])) \
            == AuthDone(1, PERMFAIL, "nobody")

    run(lambda: of_table({"user": "{PLAIN}pencil"}), play)


def test_scram_is_not_offered_where_an_entry_cannot_serve_it() -> None:
    assert of_table({"a": "{PLAIN}x", "b": HASH}).mechanisms() == ("PLAIN", "LOGIN")
    assert of_table({}).mechanisms() == ("PLAIN", "LOGIN")


def test_external_wants_a_user_of_the_table() -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("EXTERNAL", b"", identities=("x@example.org", "joe")) == AuthDone(1, OK, "joe")
        assert await desk.say("EXTERNAL", b"", identities=("x",)) == AuthDone(1, PERMFAIL, "x")
        assert await desk.say("EXTERNAL", b"joe") == AuthDone(1, PERMFAIL, "")

    run(lambda: of_table({"joe": HASH}), play)


def compared(monkeypatch: pytest.MonkeyPatch, backend: Callable[[], Backend], *users: bytes) -> list[str]:
    """The stored values that their passwords are compared with."""
    found: list[str] = []

    def verify(_password: str, stored: str) -> bool:
        found.append(stored)
        return True

    monkeypatch.setattr("pysmtpd.lookup.credentials.verify", verify)

    async def play(desk: Desk) -> None:
        for user in users:
            assert (await desk.say("PLAIN", b"\0%s\0x" % user)).result is (OK if user == b"joe" else PERMFAIL)

    run(backend, play)
    return found


ARGON = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
MIXED = {"joe": HASH, "ann": ARGON, **{f"user{number}": ARGON for number in range(8)}}


def test_who_does_not_exist_is_taken_for_somebody_and_always_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"nobody%d" % number for number in range(60)]
    first = compared(monkeypatch, lambda: of_table(MIXED), *names)
    # Whoever logs in between changes nothing, nor does a restart.
    assert compared(monkeypatch, lambda: of_table(MIXED), b"joe", *names)[1:] == first
    # As often as the table has that kind: one in ten is expensive.
    assert 1 <= first.count(HASH) <= 20 and first.count(ARGON) == 60 - first.count(HASH)


def test_an_entry_that_is_no_hash_is_nobodys_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(compared(monkeypatch, lambda: of_table({"joe": HASH, "bad": "x", "worse": "{NO}x"}),
                        *(b"nobody%d" % number for number in range(20)))) == {HASH}


def test_of_a_slow_table_it_is_learned_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Some(SlowTable):
        async def ask(self, question: Question) -> Answer:
            return HASH if question.key == "joe" else None

    assert compared(monkeypatch, lambda: TableBackend("creds", Tables([Some("creds", "proc")]), Threads(), octets),
                    b"nobody", b"joe", b"nobody") == [DUMMY, HASH, HASH]


VERIFIERS = {"joe": make(4096, 12), "ann": make(600_000, 24), "eve": make(4096, 12)}


def test_challenges_of_scram_look_the_same_for_who_does_not_exist() -> None:
    async def play(desk: Desk) -> None:
        seen = set()
        for user in [b"ann", b"joe", *(b"nobody%d" % number for number in range(40))]:
            desk.begin("SCRAM-SHA-256", b"n,,n=%s,r=abc" % user)
            message = await desk.next()
            assert isinstance(message, AuthChallenge)
            _, salt, iterations = message.data.split(b",")
            seen.add((len(salt), iterations))
            desk.auth.cancel(desk, 1)
        assert seen == {(2 + 16, b"i=4096"), (2 + 32, b"i=600000")}

    run(lambda: of_table(VERIFIERS), play)


def test_scram_is_offered_for_a_program_once_enough_users_have_verifiers() -> None:
    class Some(SlowTable):
        async def ask(self, question: Question) -> Answer:
            return {"odd": HASH, "nobody": None}.get(question.key, "{PLAIN}secret")

    async def play(desk: Desk) -> None:
        names = [*(b"user%d" % number for number in range(SEEN_MIN - 1)), b"nobody", b"User1"]
        for name in names:
            await desk.say("PLAIN", b"\0%s\0secret" % name)
        assert desk.changes == []
        await desk.say("PLAIN", b"\0last\0secret")
        assert desk.changes == [("SCRAM-SHA-256", "PLAIN", "LOGIN")]
        # One who has none ends it for good: with SCRAM he could never log in.
        assert await desk.say("SCRAM-SHA-256", b"n,,n=odd,r=abc") == AuthDone(1, TEMPFAIL, "odd")
        await desk.say("PLAIN", b"\0user1\0secret")
        assert desk.changes == [("SCRAM-SHA-256", "PLAIN", "LOGIN"), ("PLAIN", "LOGIN")]

    run(lambda: TableBackend("creds", Tables([Some("creds", "proc")]), Threads(), octets), play)


def test_scram_is_offered_for_a_map_too(tmp_path: Path) -> None:
    path = tmp_path / "creds.db"

    def write(entries: dict[str, str]) -> None:
        *pieces, header = cdb.build((key.encode(), value.encode()) for key, value in entries.items())
        (tmp_path / "new").write_bytes(header + b"".join(pieces)[len(header):])
        (tmp_path / "new").rename(path)

    write(VERIFIERS)
    backend = TableBackend("creds", Tables([DbTable("creds", str(path))]), Threads(), octets)
    assert backend.mechanisms() == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    write({**VERIFIERS, "bob": HASH})
    assert backend.mechanisms() == ("PLAIN", "LOGIN")


class Program(SlowTable):
    """A table program with the service auth."""

    async def offers(self, service: Service) -> bool:
        return service is Service.AUTH

    async def ask(self, question: Question) -> Answer:
        await asyncio.sleep(0)
        if question.key == "down:x":
            raise TableError("down")
        return question == Question("match", Service.AUTH, "Joe:SeCret")


def test_a_program_that_compares_itself() -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0Joe\0SeCret") == AuthDone(1, OK, "Joe")
        assert await desk.say("PLAIN", b"\0Joe\0secret") == AuthDone(1, PERMFAIL, "Joe")
        assert await desk.say("PLAIN", b"\0down\0x") == AuthDone(1, TEMPFAIL, "down")

    run(lambda: TableBackend("creds", Tables([Program("creds", "proc")]), Threads(), octets), play)


class Stuck(SlowTable):
    """Never answers."""

    async def ask(self, question: Question) -> Answer:
        await asyncio.Event().wait()
        return None


def test_dialogues_are_bounded_cancelled_and_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "DIALOGUES_MAX", 2)

    async def play(desk: Desk) -> None:
        desk.begin("PLAIN", b"\0joe\0x", reqid=1)
        desk.begin("LOGIN", reqid=2)
        assert await desk.next() == AuthChallenge(2, b"Username:")
        desk.begin("PLAIN", b"\0joe\0x", reqid=3)
        assert await desk.next() == AuthDone(3, TEMPFAIL, "")
        assert not desk.auth.respond(9, desk, b"")
        assert not desk.auth.respond(2, "another process", b"")
        desk.auth.cancel(desk, 1)
        desk.auth.cancel(desk, 2)
        await asyncio.sleep(0)
        assert not desk.auth._dialogues and not desk.sent

    run(lambda: TableBackend("creds", Tables([Stuck("creds", "proc")]), Threads(), octets), play)


def test_an_answer_that_does_not_come_is_a_temporary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "CHECK_TIMEOUT", 0.01)

    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0joe\0x") == AuthDone(1, TEMPFAIL, "joe")

    desk = run(lambda: TableBackend("creds", Tables([Stuck("creds", "proc")]), Threads(), octets), play)
    assert desk.logged == ["warn: lka: authentication: no answer within 0.01 seconds"]


class Bug(TableBackend):
    async def check(self, user: str, password: str, dialogue: auth.Dialogue) -> bool:
        raise ZeroDivisionError(password)


def test_a_bug_is_one_clients_and_shows_no_password() -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, TEMPFAIL, "")

    desk = run(lambda: Bug("creds", static({}), Threads(), octets), play)
    assert desk.logged[0].startswith("bug: lka: authentication: ZeroDivisionError at check:")
    assert "secret" not in desk.logged[0]


# Dovecot

class FakeDovecot:
    """Says its greeting, then answers each line by what the test says."""

    def __init__(self, path: Path, answers: dict[str, list[str]]) -> None:
        self.path = str(path)
        self.answers = answers
        self.heard: list[str] = []
        self.greeting = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tSCRAM-SHA-256\nMECH\tANONYMOUS\n" \
                        "MECH\tEXTERNAL\tprivate\nMECH\tSCRAM-SHA-256-PLUS\nSPID\t1\nCUID\t2\nCOOKIE\tx\nDONE\n"
        self.connections = 0
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "FakeDovecot":
        self.server = await asyncio.start_unix_server(self.serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await asyncio.wait(self.tasks, timeout=2)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        writer.write(self.greeting.encode())
        while line := (await reader.readline()).decode().rstrip("\n"):
            self.heard.append(line)
            command, number, *rest = line.split("\t")
            if command in ("AUTH", "CONT"):
                words = self.answers.get(rest[-1].removeprefix("resp="), ["FAIL"])
                if words == ["HANG UP"]:
                    break
                writer.write(("\t".join([words[0], number, *words[1:]]) + "\n").encode())
        writer.close()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_dovecot(tmp_path: Path) -> None:
    async def play() -> None:
        answers = {
            b64(b"\0joe\0secret"): ["OK", "user=joe@example.org", "x=y"],
            b64(b"\0tmp\0x"): ["FAIL", "user=tmp", "temp"],
            b64(b"\0no\0x"): ["FAIL", "user=no", "reason=a\x01tb"],
            b64(b"\0odd\0x"): ["OK", "user=a\x01nb"],
            "rip=192.0.2.10": ["CONT", b64(b"more?")],
            b64(b"first"): ["CONT", b64(b"v=1")],
            b64(b""): ["OK", "user=ann"],
            b64(b"\0bye\0x"): ["HANG UP"],
        }
        async with FakeDovecot(tmp_path / "auth", answers) as dovecot:
            backend = DovecotBackend(dovecot.path)
            assert backend.mechanisms() == ("PLAIN", "LOGIN")
            await backend.greet()
            assert backend.mechanisms() == ("PLAIN", "SCRAM-SHA-256")
            desk = Desk(backend)
            assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, OK, "joe@example.org")
            assert await desk.say("PLAIN", b"\0tmp\0x") == AuthDone(1, TEMPFAIL, "")
            assert await desk.say("PLAIN", b"\0no\0x") == AuthDone(1, PERMFAIL, "no")
            assert await desk.say("PLAIN", b"\0odd\0x") == AuthDone(1, TEMPFAIL, "")
            assert await desk.say("LOGIN", None) == AuthDone(1, MALFORMED, "")
            assert await desk.say("SCRAM-SHA-256", None, b"first", b"") == AuthDone(1, OK, "ann")
            desk.begin("SCRAM-SHA-256", None)
            assert isinstance(await desk.next(), AuthChallenge)
            desk.auth.cancel(desk, 1)
            assert await desk.say("PLAIN", b"\0bye\0x") == AuthDone(1, TEMPFAIL, "")
            assert dovecot.heard[0] == "VERSION\t1\t2" and dovecot.heard[1].startswith("CPID\t")
            assert dovecot.heard[2] == "AUTH\t1\tPLAIN\tservice=smtp\tsecured\trip=192.0.2.10\tresp=AGpvZQBzZWNyZXQ="
            assert any(line.startswith("CANCEL\t") for line in dovecot.heard)
            # It was hung up on, and the next client's question makes a new connection.
            assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, OK, "joe@example.org")
            assert dovecot.connections == 2
            await backend.close()

    asyncio.run(play())


@pytest.mark.parametrize("greeting", ["VERSION\t2\t0\nDONE\n", "DONE\n", "OK\t1\tuser=x\n", "", "x" * 70000,
                                      "VERSION\t1\t2\nMECH\tPLAIN\nDONE\nCONT\tx\n"])
def test_what_is_no_dovecot(tmp_path: Path, greeting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysmtpd.lookup.auth_dovecot.CONNECT_TIMEOUT", 0.2)

    async def play() -> None:
        async with FakeDovecot(tmp_path / "auth", {}) as dovecot:
            dovecot.greeting = greeting
            backend = DovecotBackend(dovecot.path)
            desk = Desk(backend)
            done = await desk.say("PLAIN", b"\0joe\0x")
            assert done.result is TEMPFAIL
            await backend.close()
            assert dovecot.path in desk.logged[0]

    asyncio.run(play())


def test_no_dovecot_at_all(tmp_path: Path) -> None:
    async def play(desk: Desk) -> None:
        assert await desk.say("PLAIN", b"\0joe\0x") == AuthDone(1, TEMPFAIL, "")

    desk = run(lambda: DovecotBackend(str(tmp_path / "nothing")), play)
    assert desk.logged[0].endswith("nothing: No such file or directory")


# saslauthd

def test_saslauthd(tmp_path: Path) -> None:
    assert question("joe", "s\u00e4") == b"\0\3joe\0\3s\xc3\xa4\0\4smtp\0\0"
    answers = {question("joe", "secret"): b"\0\2OK", question("joe", "wrong"): b"\0\x13NO no such password",
               question("joe", "odd"): b"\0\4what", question("joe", "gone"): b""}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[await reader.read(1000)])
        writer.close()

    async def play() -> None:
        path = str(tmp_path / "mux")
        server = await asyncio.start_unix_server(serve, path)
        desk = Desk(SaslauthdBackend(path, octets))
        for password, result in ((b"secret", OK), (b"wrong", PERMFAIL), (b"odd", TEMPFAIL), (b"gone", TEMPFAIL)):
            assert await desk.say("PLAIN", b"\0joe\0" + password) == AuthDone(1, result, "joe")
        server.close()
        (tmp_path / "mux").unlink(missing_ok=True)
        assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, TEMPFAIL, "joe")

    asyncio.run(play())


# system users

class Kid:
    """A child, which answers at once, or is gone."""

    def __init__(self, house: "House") -> None:
        self.house = house
        self.closed = False

    def send(self, message: Message) -> None:
        assert isinstance(message, AuthAsk)
        self.house.asked.append(message)
        if message.user == "gone":
            self.house.children.lost(self)
        else:
            result = {"secret": OK, "wrong": PERMFAIL}.get(message.password, TEMPFAIL)
            self.house.children.answered(self, AuthAnswered(message.reqid + 1, OK))
            self.house.children.answered(self, AuthAnswered(message.reqid, result))

    def close(self) -> None:
        self.closed = True


class House:
    """The parent."""

    def __init__(self) -> None:
        self.number = 0
        self.asked: list[AuthAsk] = []
        self.kids: list[Kid] = []
        self.refuse = ""
        self.held: list[int] | None = None
        self.children = Children(self.told, self.new_reqid)

    def new_reqid(self) -> int:
        self.number += 10
        return self.number

    def told(self, message: Message) -> None:
        assert isinstance(message, AuthStart)
        if self.refuse:
            asyncio.get_running_loop().call_soon(self.children.refused, AuthRefused(message.reqid, self.refuse))
        elif self.held is not None:
            self.held.append(message.reqid)
        else:
            asyncio.get_running_loop().call_soon(self.start, message.reqid)

    def start(self, reqid: int) -> None:
        self.kids.append(Kid(self))
        self.children.started(reqid, self.kids[-1])


def test_system_users() -> None:
    async def play() -> None:
        house = House()
        desk = Desk(SystemBackend(house.children, Tables([]), octets))
        for user, password, result in ((b"joe", b"secret", OK), (b"joe", b"wrong", PERMFAIL),
                                       (b"joe", b"odd", TEMPFAIL), (b"gone", b"x", TEMPFAIL)):
            assert await desk.say("PLAIN", b"\0%s\0%s" % (user, password)) == AuthDone(1, result, user.decode())
        assert house.asked[0].address == "192.0.2.10"
        assert len(house.kids) == 4 and all(kid.closed for kid in house.kids)
        house.refuse = "too many at once"
        assert await desk.say("PLAIN", b"\0joe\0secret") == AuthDone(1, TEMPFAIL, "joe")
        assert desk.logged[-1] == "warn: lka: authentication: system users: too many at once"

    asyncio.run(play())


def test_only_a_few_children_at_a_time() -> None:
    async def play() -> None:
        house = House()
        house.held = []
        desk = Desk(SystemBackend(house.children, Tables([]), octets))
        for number in range(10):
            desk.begin("PLAIN", b"\0joe\0secret", reqid=number)
        await asyncio.sleep(0.01)
        assert len(house.held) == CHILDREN_MAX
        # Whoever went away meanwhile leaves no child behind.
        desk.auth.cancel(desk, 0)
        await asyncio.sleep(0)
        while len(desk.sent) < 9:
            house.start(house.held.pop(0))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert {message.result for message in desk.sent if isinstance(message, AuthDone)} == {OK}
        assert all(kid.closed for kid in house.kids)

    asyncio.run(play())


def test_listeners_that_are_alike_share_a_back_end() -> None:
    async def play() -> None:
        listeners = [
            Listener(address="a"), Listener(address="a", auth="required", auth_table="creds"),
            Listener(address="b", auth="optional", auth_table="creds"), Listener(address="c", auth="required"),
            Listener(address="d", auth="required", auth_backend="dovecot", auth_path="/x"),
            Listener(address="e", auth="required", auth_backend="saslauthd", auth_path="/x"),
        ]
        found = auth_build.build(listeners, static({}), House().children, octets)
        assert [type(found.get(number)).__name__ for number in range(6)] == [
            "NoneType", "TableBackend", "TableBackend", "SystemBackend", "DovecotBackend", "SaslauthdBackend"]
        assert found[1] is found[2]

    asyncio.run(play())
