"""AUTH in lka: dialogues with clients, whose words smtp carries, and the back ends that know the passwords.

A dialogue is a task.  Hashes are compared in threads, and so a slow one keeps nobody waiting but its own client.  Who
does not exist takes as long as who does (lookup.strangers).
"""

import asyncio
import itertools
import traceback
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import thread as _thread  # noqa: F401  (loaded lazily otherwise)
from typing import Any, Protocol, TypeVar

from pysmtpd.base.text import line_of, vis
from pysmtpd.imsg import Message
from pysmtpd.lookup import credentials, sasl
from pysmtpd.lookup.credentials import BadHash, Verifier
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.sasl import Challenge, CheckPassword, CheckUser, Facts, FetchVerifier, Malformed, Rejected
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.strangers import Strangers
from pysmtpd.lookup.table import AnyTable, Tables
from pysmtpd.lookup.table_keyed import KeyedTable
from pysmtpd.lookup.table_slow import Question, SlowTable
from pysmtpd.lookup.table_static import StaticTable
from pysmtpd.messages import AuthChallenge, AuthDone, AuthResult, SmtpAuth

DIALOGUES_MAX = 5000               # at the same time; above that AUTH fails for now
RESPONSE_TIMEOUT = 360.0           # seconds for a client's response; smtp itself gives up before that
CHECK_TIMEOUT = 60.0               # seconds for one question to a back end
THREADS = 2
CHECKS_MAX = 64                    # waiting for a thread
SEEN_MIN = 20                      # users of a table program with verifiers, before SCRAM is offered
SALT_SIZE = 16                     # octets
SCRAM_ITERATIONS = 4096            # RFC 7677 4, for passwords kept in clear and users there are not
TEXT_MAX = 1024
ENTRIES_MAX = 50_000               # of a map, up to which it is read to know what is in it

T = TypeVar("T")


class Cancelled(Exception):
    """The client gave up."""


class Dialogue:
    """One AUTH: what the client said first, and how to ask it more."""

    def __init__(self, begin: SmtpAuth, send: Callable[[Message], None]) -> None:
        self.id = begin.reqid
        self.mechanism = begin.mechanism
        self.initial = begin.initial if begin.has_initial else None
        self.address = begin.address
        self.facts = Facts(tuple(begin.identities))
        self.user = ""             # who it says it is
        self._send = send
        self._response: asyncio.Future[bytes] | None = None

    async def challenge(self, data: bytes) -> bytes:
        """The client's response to it.  Raises Cancelled."""
        self._response = asyncio.get_running_loop().create_future()
        self._send(AuthChallenge(self.id, data))
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                return await self._response
        except TimeoutError:
            raise Cancelled from None
        finally:
            self._response = None

    def respond(self, data: bytes) -> None:
        if self._response is not None and not self._response.done():
            self._response.set_result(data)


class Backend(Protocol):
    """Where passwords are known."""

    def mechanisms(self) -> tuple[str, ...]:
        """What it can do, best first."""

    async def run(self, dialogue: Dialogue) -> str:
        """The user that the client is.  Raises Rejected, Malformed, TableError or Cancelled."""


class LocalBackend:
    """The base of those for whom we speak the mechanisms ourselves.  Subclasses define check, and perhaps the others;
    each may raise TableError."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random

    def mechanisms(self) -> tuple[str, ...]:
        """What needs nothing but a password."""
        return ("PLAIN", "LOGIN")

    async def check(self, user: str, password: str, dialogue: Dialogue) -> bool:
        """Whether it is the user's password."""
        raise NotImplementedError

    async def exists(self, user: str) -> bool:
        """Whether there is such a user, for a client whose certificate says so."""
        return False

    async def verifier(self, user: str) -> Verifier:
        """For SCRAM."""
        raise TableError("there are no verifiers here")

    async def run(self, dialogue: Dialogue) -> str:
        """Through a row of sasl.MECHANISMS."""
        row = sasl.MECHANISMS.get(dialogue.mechanism)
        if row is None or (row.verifier and dialogue.mechanism not in self.mechanisms()):
            raise Malformed("no such mechanism here")
        exchange = row.start(dialogue.initial, dialogue.facts, self._random)
        answer: object = None
        try:
            while True:
                answer = await self._answer(exchange.send(answer), dialogue)
        except StopIteration as end:
            return str(end.value)

    async def _answer(self, need: sasl.Need, dialogue: Dialogue) -> object:
        if isinstance(need, Challenge):
            return await dialogue.challenge(need.data)
        dialogue.user = need.user
        match need:
            case CheckPassword():
                return await _soon(self.check(need.user, need.password, dialogue))
            case FetchVerifier():
                return await _soon(self.verifier(need.user))
            case CheckUser():
                return await _soon(self.exists(need.user))


async def _soon(work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            return await work
    except TimeoutError:
        raise TableError(f"no answer within {CHECK_TIMEOUT:g} seconds") from None


class Threads:
    """Where hashes are compared."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "hash")
        self._waiting = 0

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Raises TableError when too much is to be done already."""
        if self._waiting >= CHECKS_MAX:
            raise TableError(f"{CHECKS_MAX} passwords are waiting to be compared")
        self._waiting += 1
        task = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        task.add_done_callback(lambda _: self._done())
        return await task

    def _done(self) -> None:
        self._waiting -= 1


class TableBackend(LocalBackend):
    """A table of credentials: ``user hash``, or ``label user:hash``."""

    def __init__(self, name: str, tables: Tables, threads: Threads, random: Callable[[int], bytes]) -> None:
        super().__init__(random)
        self._name = name
        self._tables = tables
        self._threads = threads
        self._strangers = Strangers(random(32))
        self._held: object = None
        self._scram = False        # each entry can serve it
        self._seen: set[str] | None = set()    # users that can, where not all are known; None: somebody cannot

    def mechanisms(self) -> tuple[str, ...]:
        """SCRAM only where every entry can serve it: a client that chooses it tries nothing else.  Where the entries
        cannot be seen, those of a number of users have to, and of all who were asked for."""
        self._look()
        return ("SCRAM-SHA-256", "PLAIN", "LOGIN") if self._scram else super().mechanisms()

    def _look(self) -> None:
        """What kinds of entries there are, where that can be seen."""
        table = self._tables.get(self._name)
        try:
            held, values = _content(table)
        except TableError:
            return                 # whoever is looked up hears of it
        if held is None or held is self._held or held == self._held:
            return
        stored = [credentials.password_of(value) for value in values]
        self._held = held
        self._strangers.count(stored)
        self._scram = 0 < len(stored) <= ENTRIES_MAX and all(map(_serves_scram, stored))

    async def check(self, user: str, password: str, dialogue: Dialogue) -> bool:
        table = self._tables.get(self._name)
        if isinstance(table, SlowTable) and await table.offers(Service.AUTH):
            # The program compares; the key is not put into lower case, because there is a password in it.
            return await table.answer(Question("match", Service.AUTH, f"{user}:{password}")) is True
        self._look()
        stored = await self._stored(user)
        against = stored if stored is not None else self._strangers.like(user)
        try:
            right = await self._threads.run(credentials.verify, password, against)
        except BadHash as error:
            raise TableError(f"table {self._name}: entry of {vis(user.encode())}: {error}") from None
        return right and stored is not None

    async def exists(self, user: str) -> bool:
        return await self._stored(user) is not None

    async def verifier(self, user: str) -> Verifier:
        stored = await self._stored(user)
        try:
            found: Verifier | str | None
            if stored is None:
                found = self._strangers.verifier(user, self._random(64))
            else:
                found = credentials.verifier_of(stored) or credentials.plaintext_of(stored)
            if isinstance(found, Verifier):
                return found
            if found is None:
                raise BadHash("SCRAM needs a verifier, or the password in clear")
            salt = self._strangers.salt(user, SALT_SIZE)
            return await self._threads.run(credentials.make_verifier, found, salt, SCRAM_ITERATIONS)
        except ValueError as error:
            raise TableError(f"table {self._name}: entry of {vis(user.encode())}: {error}") from None

    async def _stored(self, user: str) -> str | None:
        value = await self._settle(lambda memo: self._tables.lookup(self._name, Service.CREDENTIALS, user, memo))
        if not value:
            return None
        stored = credentials.password_of(value)
        if self._held is None:
            self._learn(user.lower(), stored)
        return stored

    def _learn(self, user: str, stored: str) -> None:
        """Of a table whose entries cannot be seen."""
        self._strangers.learn(stored)
        if self._seen is None:
            return
        if not _serves_scram(stored):
            self._seen, self._scram = None, False
        elif len(self._seen) < SEEN_MIN:
            self._seen.add(user)
            self._scram = len(self._seen) == SEEN_MIN

    async def _settle(self, step: Callable[[Memo], T]) -> T:
        memo = Memo()
        try:
            return memo.run(step)
        except Pending as pending:
            return await memo.settle(step, pending)


def _content(table: AnyTable | None) -> tuple[object, Iterable[str]]:
    """What a table holds, and what is equal as long as that is the same; None: it cannot be seen.

    Of a large map only the beginning.  Raises TableError."""
    if isinstance(table, StaticTable):
        return table.entries, table.values()
    if isinstance(table, KeyedTable):
        return table.version(), (value for _, value in itertools.islice(table.entries(), ENTRIES_MAX + 1))
    return None, ()


def _serves_scram(stored: str) -> bool:
    return stored.startswith(("{SCRAM-SHA-256}", "SCRAM-SHA-256$")) or credentials.plaintext_of(stored) is not None


class Authenticator:
    """All dialogues, by the peer and session they belong to."""

    def __init__(self, log: Callable[[str], None], changed: Callable[[], None] = lambda: None) -> None:
        """changed: a back end has other mechanisms than before."""
        self.backends: dict[int, Backend] = {}     # by listener
        self._log = log
        self._changed = changed
        self._dialogues: dict[tuple[object, int], tuple[Dialogue, asyncio.Task[None]]] = {}

    def begin(self, begin: SmtpAuth, peer: object, send: Callable[[Message], None]) -> None:
        """An AUTH; its challenges and its end are sent."""
        at = (peer, begin.reqid)
        backend = self.backends.get(begin.listener)
        self.cancel(*at)
        if backend is None or len(self._dialogues) >= DIALOGUES_MAX:
            send(AuthDone(begin.reqid, AuthResult.TEMPFAIL, ""))
            return
        dialogue = Dialogue(begin, send)
        task = asyncio.get_running_loop().create_task(self._run(dialogue, backend, send))
        self._dialogues[at] = dialogue, task
        task.add_done_callback(lambda _: self._over(at, task, send))

    def respond(self, reqid: int, peer: object, data: bytes) -> bool:
        """The response to a challenge; False when there is no such dialogue."""
        found = self._dialogues.get((peer, reqid))
        if found is None:
            return False
        found[0].respond(data)
        return True

    def cancel(self, peer: object, reqid: int) -> None:
        """The client gave up, or went away."""
        found = self._dialogues.pop((peer, reqid), None)
        if found is not None:
            found[1].cancel()

    def _over(self, at: tuple[object, int], task: asyncio.Task[None], send: Callable[[Message], None]) -> None:
        found = self._dialogues.get(at)
        if found is not None and found[1] is task:
            del self._dialogues[at]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Without its arguments: a password may be among them.
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._log(f"bug: lka: authentication: {type(error).__name__} at {where.name}:{where.lineno}")
            send(AuthDone(at[1], AuthResult.TEMPFAIL, ""))

    async def _run(self, dialogue: Dialogue, backend: Backend, send: Callable[[Message], None]) -> None:
        result, user, before = AuthResult.TEMPFAIL, "", backend.mechanisms()
        try:
            user = await backend.run(dialogue)
            result = AuthResult.OK
        except Rejected:
            result = AuthResult.PERMFAIL
        except Malformed:
            result = AuthResult.MALFORMED
        except TableError as error:
            self._log(f"warn: lka: authentication: {line_of(str(error).encode(), TEXT_MAX)}")
        except Cancelled:
            return
        if backend.mechanisms() != before:
            self._changed()
        send(AuthDone(dialogue.id, result, (user or dialogue.user)[:255]))


