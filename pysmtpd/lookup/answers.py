"""Answers that take time: the questions of others are answered meanwhile, and each asker gets one answer, whatever
happens."""

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from pysmtpd.imsg import ImsgError, Message
from pysmtpd.lookup.memo import Memo, Pending


class Asker(Protocol):
    """Whom an answer goes to."""

    def send(self, message: Message, /) -> None: ...


class Answers:
    """All that are being worked on.  tell: hears of bugs; begin: makes a task, also before the loop runs."""

    def __init__(self, tell: Callable[[str], None],
                 begin: Callable[[Coroutine[Any, Any, Message | None]], asyncio.Task[Message | None]]) -> None:
        self.tasks: set[asyncio.Task[Message | None]] = set()
        self._tell = tell
        self._begin = begin

    def step(self, asker: Asker, step: Callable[[Memo], Message], failed: Message) -> None:
        """Send what an evaluation comes to: at once, if nothing slow has to be asked."""
        memo = Memo()
        try:
            asker.send(memo.run(step))
        except Pending as pending:
            self.later(asker, memo.settle(step, pending), failed)

    def later(self, asker: Asker, work: Coroutine[Any, Any, Message | None], failed: Message) -> None:
        """Send what work returns, if anything; should it fail with a bug, send failed."""
        task = self._begin(work)
        self.tasks.add(task)
        task.add_done_callback(self._done(asker, failed))

    def _done(self, asker: Asker, failed: Message) -> Callable[[asyncio.Task[Message | None]], None]:
        def done(task: asyncio.Task[Message | None]) -> None:
            self.tasks.discard(task)
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error is not None:
                text = " | ".join("".join(traceback.format_exception(error, limit=-8)).split("\n"))
                self._tell(f"bug: lka: {text}")
            answer = failed if error is not None else task.result()
            if answer is None:
                return
            try:
                asker.send(answer)
            except ImsgError as refused:
                self._tell(f"bug: lka: {refused}")
                asker.send(failed)

        return done
