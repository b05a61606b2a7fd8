"""lookup.table_program: a program behind a table, whatever it does."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from pysmtpd.lookup import table_program
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table import Tables
from pysmtpd.lookup.table_program import ERRORS_MAX, ProgramTable
from pysmtpd.lookup.table_slow import Answer, Question
from tests.lookup.made import run

HELLO = b"register|alias\nregister|source\nregister|regex\nregister|ready\n"


class Scripted:
    """Stands for the parent: each start of the program is a socketpair, whose other end a script plays."""

    def __init__(self, *scripts: "Script") -> None:
        self.scripts = list(scripts)
        self.starts = self.stops = 0
        self.log: list[str] = []
        self.errors: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.sockets: list[socket.socket] = []
        self.table: ProgramTable

    def start_program(self, table: str) -> None:
        self.starts += 1
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        ours, theirs = socket.socketpair()
        self.sockets.append(theirs)
        reading, writing = os.pipe()
        self.errors.append(writing)
        self.table.begun(ours.detach(), errors=False)
        self.table.begun(reading, errors=True)
        self.tasks.append(asyncio.get_running_loop().create_task(self._play(script, theirs)))

    async def _play(self, script: "Script", sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def stop_program(self, table: str) -> None:
        self.stops += 1

    def tell(self, text: str) -> None:
        self.log.append(text)

    def now(self) -> float:
        return 1.0


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def requests(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The handshake."""
    while await reader.readline() != b"config|ready\n":
        pass
    writer.write(HELLO)


def reply(line: bytes, outcome: str) -> bytes:
    fields = line.decode().rstrip("\n").split("|")
    ident = fields[6] if fields[4] != "update" else fields[5]
    return f"{fields[4]}-result|{ident}|{outcome}\n".encode()


async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await requests(reader, writer)
    while line := await reader.readline():
        fields = line.decode().rstrip("\n").split("|")
        found = {"check": "found", "lookup": f"found|<{fields[-1]}>", "fetch": "found|10.0.0.1", "update": "ok"}
        writer.write(reply(line, "not-found" if fields[-1] == "nobody" else found[fields[4]]))


def after(count: int, misdeed: Script) -> Script:
    """Good for so many requests, and then not."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await requests(reader, writer)
        for _ in range(count):
            line = await reader.readline()
            writer.write(reply(line, "found|x"))
        await misdeed(reader, writer)

    return script


def lookup(key: str = "bob", service: Service = Service.ALIAS, operation: str = "lookup") -> Question:
    return Question(operation, service, key)


def with_table(work: Callable[[ProgramTable, Scripted], Awaitable[None]], *scripts: Script) -> Scripted:
    keeper = Scripted(*scripts)

    async def all_of_it() -> None:
        table = keeper.table = ProgramTable("t", "proc-exec", keeper, "7.8.0")
        table.start(asyncio.get_running_loop())
        await work(table, keeper)
        for task in keeper.tasks:
            task.cancel()
        await asyncio.gather(*keeper.tasks, return_exceptions=True)
        table._fail("the test ends")
        assert table._timer is not None
        table._timer.cancel()
        for fd in keeper.errors:
            os.close(fd)
        for sock in keeper.sockets:
            sock.close()           # of a script that was cancelled before it began
        await asyncio.sleep(0)
        if table._errors is not None:
            table._errors.close()

    run(all_of_it())
    return keeper


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_program, "DELAYS", (0.01,))
    monkeypatch.setattr(table_program, "HANDSHAKE_TIMEOUT", 5.0)
    monkeypatch.setattr(table_program, "SILENCE_MAX", 0.3)
    monkeypatch.setattr(ProgramTable, "TIMEOUT", 0.6)


def test_answers() -> None:
    async def work(table: ProgramTable, _keeper: Scripted) -> None:
        assert await table.answer(lookup("bob|x")) == "<x>"       # the stand-in looks at the last field only
        assert await table.answer(lookup("nobody")) is None
        assert await table.answer(lookup("bob", operation="match")) is True
        assert await table.answer(lookup("nobody", operation="match")) is False
        assert await table.answer(lookup("", Service.SOURCE, "fetch")) == "10.0.0.1"
        await table.update()
        with pytest.raises(TableError, match="its program has no credentials"):
            await table.answer(lookup("bob", Service.CREDENTIALS))
        with pytest.raises(TableError, match="cannot be sent"):
            await table.answer(lookup("a\nb"))

    assert with_table(work, good).starts == 1


def test_an_error_is_a_temporary_failure_and_no_end() -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await requests(reader, writer)
        writer.write(reply(await reader.readline(), "error|no\tdatabase"))
        writer.write(reply(await reader.readline(), "found|two\x07"))
        writer.write(reply(await reader.readline(), "found|good"))
        await reader.readline()

    async def work(table: ProgramTable, _keeper: Scripted) -> None:
        with pytest.raises(TableError, match=r"^table t: lookup alias failed: no"):
            await table.answer(lookup())
        with pytest.raises(TableError, match="cannot be printed"):
            await table.answer(lookup())
        assert await table.answer(lookup()) == "good"

    assert with_table(work, says).starts == 1


async def ends(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await writer.drain()


async def hangs(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(2000).replace(b"\n", b"") + b"\n")
    await reader.read()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"lookup-result|ffffffff|found|x\n" * 1000)
        await writer.drain()


@pytest.mark.parametrize("misdeed, why", [
    (ends, "it ended"), (hangs, "no reply for"), (garbage, "a line that is not UTF-8|a reply to nothing"),
    (endless, "a line of more than"), (floods, "a reply to nothing"),
])
def test_in_the_middle_of_a_thousand_look_ups_each_has_an_answer_or_a_temporary_failure(misdeed: Script, why: str
                                                                                         ) -> None:
    async def work(table: ProgramTable, keeper: Scripted) -> None:
        async def one(number: int) -> Answer | TableError:
            try:
                return await table.answer(lookup(f"user{number}"))
            except TableError as error:
                return error

        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(*(one(number) for number in range(1000)))
        answered = sum(isinstance(outcome, str) for outcome in outcomes)
        assert answered + sum(isinstance(outcome, TableError) for outcome in outcomes) == 1000
        assert answered >= 100
        assert any(why_ in line for why_ in why.split("|") for line in keeper.log), keeper.log
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await table.answer(lookup()) == "<bob>"
                    break
                except TableError:
                    await asyncio.sleep(0.01)
        assert any("runs again" in line for line in keeper.log)
        assert not table._waiting

    keeper = with_table(work, after(100, misdeed), good)
    assert keeper.starts == 2 and keeper.stops >= 1


def test_a_late_answer_harms_nobody() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await requests(reader, writer)
        first = await reader.readline()
        for _ in range(8):                        # it answers others meanwhile, so it does not hang
            writer.write(reply(await reader.readline(), "found|other"))
        writer.write(reply(first, "found|late"))
        await good_rest(reader, writer)

    async def good_rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(reply(line, "found|rest"))

    async def work(table: ProgramTable, _keeper: Scripted) -> None:
        slow = asyncio.ensure_future(table.answer(lookup("slow")))
        for _ in range(7):
            await asyncio.sleep(0.1)
            assert await table.answer(lookup()) == "other"
        with pytest.raises(TableError, match="no answer within"):
            await slow
        assert await table.answer(lookup()) == "other"
        assert await table.answer(lookup()) == "rest"

    assert with_table(work, late).starts == 1


@pytest.mark.parametrize("script, why", [
    (ends, "it ended before it had registered"), (hangs, "it did not register within"),
])
def test_a_program_that_never_registers(script: Script, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_program, "HANDSHAKE_TIMEOUT", 0.1)

    async def work(table: ProgramTable, keeper: Scripted) -> None:
        with pytest.raises(TableError, match=r"its program does not run|no answer within"):
            await table.answer(lookup())
        while not any(why in line and "before 7.6, which is binary" in line for line in keeper.log):
            await asyncio.sleep(0.01)

    assert with_table(work, script).starts >= 1


def test_it_is_started_later_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_program, "DELAYS", (0.001, 0.002, 0.003))

    async def work(_table: ProgramTable, keeper: Scripted) -> None:
        while keeper.starts < 5:
            await asyncio.sleep(0.001)

    log = with_table(work, ends).log
    assert [line.rpartition(" ")[2] for line in log[:5]] == ["0.001s", "0.002s", "0.003s", "0.003s", "0.003s"]


def test_a_program_that_cannot_be_started_fails_look_ups_for_now() -> None:
    class Refusing(Scripted):
        def start_program(self, table: str) -> None:
            self.starts += 1
            self.table.refused("there is no user x")

    keeper = Refusing(good)

    async def all_of_it() -> None:
        table = keeper.table = ProgramTable("t", "proc", keeper, "7.8.0")
        table.start(asyncio.get_running_loop())
        with pytest.raises(TableError, match="its program does not run: there is no user x"):
            await table.answer(lookup())
        assert table._timer is not None
        table._timer.cancel()

    run(all_of_it())


def test_standard_error_goes_to_the_log_and_a_flood_of_it_does_not() -> None:
    async def work(table: ProgramTable, keeper: Scripted) -> None:
        await table.answer(lookup())
        os.write(keeper.errors[0], b"no data\x1bbase\n" * (ERRORS_MAX + 5) + b"half")
        while len([line for line in keeper.log if "no data" in line]) < ERRORS_MAX:
            await asyncio.sleep(0.001)
        await table.answer(lookup())

    log = with_table(work, good).log
    assert log[0].startswith("warn: table t: no data") and "\x1b" not in log[0]
    assert len([line for line in log if "no data" in line]) == ERRORS_MAX


def test_what_a_program_compares_itself_it_is_asked_once_and_as_it_is() -> None:
    asked: list[bytes] = []

    async def compares(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline() != b"config|ready\n":
            pass
        writer.write(b"register|auth\nregister|regex\nregister|ready\n")
        while line := await reader.readline():
            asked.append(line.split(b"|", 4)[4])
            writer.write(reply(line, "found" if b"Secret" in line or b"x.example" in line else "not-found"))

    async def work(table: ProgramTable, keeper: Scripted) -> None:
        tables = Tables([table])
        assert await table.answer(lookup("Bob:Secret|x", Service.AUTH, "match")) is True
        assert Service.AUTH in table.JUDGES

        async def matches(key: str) -> bool:
            memo = Memo()

            def step(memo: Memo) -> bool:
                return tables.match("t", Service.REGEX, key, memo)

            try:
                return memo.run(step)
            except Pending as pending:
                return await memo.settle(step, pending)

        assert await matches("a@x.example") and not await matches("a@y.example")
        with pytest.raises(TableError) as error:
            await table.answer(lookup("bob:Sec\nret", Service.AUTH, "match"))
        assert "Sec" not in str(error.value) and not any("ecret" in line for line in keeper.log)

    with_table(work, compares)
    assert asked == [b"check|auth|00000001|Bob:Secret|x\n", b"check|regex|00000002|a@x.example\n",
                     b"check|regex|00000003|a@y.example\n"]
