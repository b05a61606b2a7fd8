"""Tables whose back end takes time: a program, a server, the name service of the system.

A back end is a subclass with ``ask``, which answers exact keys and nothing more; the order of keys and the wildcards
of table(5) are here, above it.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pysmtpd.lookup.memo import TOGETHER, Memo, Unknown, given
from pysmtpd.lookup.memo import UNKNOWN_YET as UNKNOWN_YET
from pysmtpd.lookup.order import keys_for
from pysmtpd.lookup.service import Service, TableError

Answer = str | bool | None


class Question(NamedTuple):
    """One exact key, as the table protocol asks for it.

    operation: match (answered by True or False), lookup (a value or None) or fetch (likewise; key is empty).
    turn: which fetch of one evaluation this is.
    """

    operation: str
    service: Service
    key: str
    turn: int = 0


class SlowTable:
    """The base of such tables.  Subclasses define ask, and may define known."""

    TIMEOUT: ClassVar[float] = 30.0            # seconds for one question, with waiting for its turn
    CONCURRENT: ClassVar[int] = 256            # questions at the back end at the same time; others wait
    # Services whose entries the back end compares itself: it is asked for the key and no other.
    JUDGES: frozenset[Service] = frozenset()

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.backend = backend
        self._turns = asyncio.Semaphore(self.CONCURRENT)

    # for subclasses to define

    async def ask(self, question: Question) -> Answer:
        """The answer of the back end.  Raises TableError.  May be cancelled."""
        raise NotImplementedError

    def known(self, question: Question) -> Answer | Unknown:
        """The answer, if it is at hand without waiting."""
        return UNKNOWN_YET

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs: begin to connect, if that is needed."""

    async def update(self) -> None:
        """Whatever is kept may be old.  Raises TableError."""

    def begun(self, fd: int, *, errors: bool) -> None:
        """Its program was started; fd, which is its own from now on, leads to it, or from its standard error."""
        raise NotImplementedError

    def refused(self, why: str) -> None:
        """Its program was not started."""
        raise NotImplementedError

    async def offers(self, service: Service) -> bool:
        """Whether the back end has a service that not every one has.  Raises TableError."""
        return False

    # for evaluators

    def match(self, service: Service, key: str, memo: Memo, delimiter: str) -> bool:
        """Whether an entry matches.  Raises Pending or TableError."""
        return self._walk("match", service, key, memo, delimiter) is not None

    def lookup(self, service: Service, key: str, memo: Memo, delimiter: str) -> str | None:
        """The value of the entry that matches.  Raises Pending or TableError."""
        value = self._walk("lookup", service, key, memo, delimiter)
        return value if isinstance(value, str) else None

    def fetch(self, service: Service, memo: Memo) -> str | None:
        """The next entry of all.  Raises Pending or TableError."""
        value = memo.recall(self, Question("fetch", service, "", memo.turn((self, service))))
        return value if isinstance(value, str) else None

    def expect(self, service: Service, keys: Sequence[str], memo: Memo) -> None:
        """Have several exact keys looked up at the same time.  Raises Pending."""
        memo.recall_all(self, [Question("lookup", service, key) for key in keys])

    def _walk(self, operation: str, service: Service, key: str, memo: Memo, delimiter: str) -> str | bool | None:
        if service is Service.REGEX and service not in self.JUDGES:
            raise TableError(f"table {self.name}: {self.backend} cannot compare regular expressions")
        keys = [key] if service in self.JUDGES else keys_for(service, key, delimiter)
        for at in range(0, len(keys), TOGETHER):
            batch = [Question(operation, service, each) for each in keys[at : at + TOGETHER]]
            for answer in memo.recall_all(self, batch):
                value = given(answer)
                if value is not None and value is not False:
                    return value
        return None

    # for the driver

    async def answer(self, question: Question) -> Answer:
        """As ask, within TIMEOUT, and not more than CONCURRENT at the same time."""
        try:
            async with asyncio.timeout(self.TIMEOUT), self._turns:
                return await self.ask(question)
        except TimeoutError:
            raise TableError(f"table {self.name}: no answer within {self.TIMEOUT:g} seconds") from None
