"""System users: each password is checked by a child of the parent, which this process asks over a socket of its own."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from pysmtpd.imsg import Message
from pysmtpd.lookup.auth import Dialogue, LocalBackend
from pysmtpd.lookup.memo import Memo, Pending
from pysmtpd.lookup.service import Service, TableError
from pysmtpd.lookup.table import Tables
from pysmtpd.lookup.userinfo import GETPWNAM
from pysmtpd.messages import AuthAnswered, AuthAsk, AuthRefused, AuthResult, AuthStart

CHILDREN_MAX = 4                   # at the same time; others wait


class Child(Protocol):
    """A socket to one."""

    def send(self, message: Message) -> None: ...

    def close(self) -> None: ...


class Children:
    """The children, and who waits for one."""

    def __init__(self, to_parent: Callable[[Message], None], new_reqid: Callable[[], int]) -> None:
        self._to_parent = to_parent
        self._new_reqid = new_reqid
        self._turns = asyncio.Semaphore(CHILDREN_MAX)
        self._starting: dict[int, asyncio.Future[Child]] = {}
        self._asked: dict[Child, tuple[int, asyncio.Future[AuthResult]]] = {}

    async def check(self, user: str, password: str, address: str) -> AuthResult:
        """Raises TableError."""
        async with self._turns:
            child = await self._start()
            reqid = self._new_reqid()
            answer: asyncio.Future[AuthResult] = asyncio.get_running_loop().create_future()
            self._asked[child] = reqid, answer
            try:
                child.send(AuthAsk(reqid, user, password, address))
                return await answer
            finally:
                del self._asked[child]
                child.close()

    async def _start(self) -> Child:
        reqid = self._new_reqid()
        started = self._starting[reqid] = asyncio.get_running_loop().create_future()
        self._to_parent(AuthStart(reqid))
        try:
            child: Child = await started
            return child
        finally:
            del self._starting[reqid]

    # what others tell

    def started(self, reqid: int, child: Child) -> None:
        waiting = self._starting.get(reqid)
        if waiting is None or waiting.done():
            child.close()          # whoever wanted it went away
        else:
            waiting.set_result(child)

    def refused(self, message: AuthRefused) -> None:
        waiting = self._starting.get(message.reqid)
        if waiting is not None and not waiting.done():
            waiting.set_exception(TableError(f"system users: {message.text}"))

    def answered(self, child: Child, message: AuthAnswered) -> None:
        found = self._asked.get(child)
        if found is not None and found[0] == message.reqid and not found[1].done():
            found[1].set_result(message.result)

    def lost(self, child: Child) -> None:
        found = self._asked.get(child)
        if found is not None and not found[1].done():
            found[1].set_exception(TableError("system users: the child that checks a password is gone"))


class SystemBackend(LocalBackend):
    """``auth`` without a table."""

    def __init__(self, children: Children, tables: Tables, random: Callable[[int], bytes]) -> None:
        super().__init__(random)
        self._children = children
        self._tables = tables

    async def check(self, user: str, password: str, dialogue: Dialogue) -> bool:
        result = await self._children.check(user, password, dialogue.address)
        if result not in (AuthResult.OK, AuthResult.PERMFAIL):
            raise TableError("system users: the password cannot be checked")
        return result is AuthResult.OK

    async def exists(self, user: str) -> bool:
        memo = Memo()

        def step(memo: Memo) -> str | None:
            return self._tables.lookup(GETPWNAM, Service.USERINFO, user, memo)

        try:
            return memo.run(step) is not None
        except Pending as pending:
            return await memo.settle(step, pending) is not None
