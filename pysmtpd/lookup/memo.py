"""What an evaluation knows, and what has to be asked before it can go on.

Evaluators (rules, expansions, what mta looks up) are plain synchronous code.  Where an answer takes time, they find it
in the Memo of this evaluation, or raise Pending with the questions; a driver awaits the answers, puts them into the
memo and runs the same step again.  A step must therefore change nothing before it has all its answers.  Whoever asks
nothing slow pays nothing for this.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

TOGETHER = 16                      # questions asked at the same time for one look-up

Q = TypeVar("Q", bound=Hashable)
Q_contra = TypeVar("Q_contra", bound=Hashable, contravariant=True)
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)
T = TypeVar("T")


class LookupFailed(Exception):
    """A question that cannot be answered now; its text is for the log."""


class Unknown:
    """What ``known`` returns when the answer is not at hand."""


UNKNOWN_YET = Unknown()


class Asked(Protocol[Q_contra, A_co]):
    """Whoever answers questions that take time."""

    def known(self, question: Q_contra, /) -> A_co | Unknown:
        """The answer, if it is at hand without waiting."""

    async def answer(self, question: Q_contra, /) -> A_co:
        """The answer, within a bounded time.  Raises LookupFailed."""


class _NextTurn:
    """Asked for nothing but that others have their turn."""

    def known(self, _question: None) -> Unknown:
        return UNKNOWN_YET

    async def answer(self, _question: None) -> None:
        await asyncio.sleep(0)


NEXT_TURN: tuple[Asked[Any, Any], Hashable] = (_NextTurn(), None)


class Pending(Exception):
    """These have to be answered first."""

    def __init__(self, wanted: list[tuple[Asked[Any, Any], Hashable]]) -> None:
        super().__init__(f"{len(wanted)} questions")
        self.wanted = wanted


class Memo:
    """The answers of one evaluation: one question is asked once, and so has one answer."""

    def __init__(self) -> None:
        self._answers: dict[tuple[Any, Hashable], Any] = {}
        self._turns: dict[Hashable, int] = {}
        self.told: set[Hashable] = set()   # what a trace was told already

    def recall(self, asked: Asked[Q, A], question: Q) -> A:
        """The answer to one question.  Raises Pending, or LookupFailed when that is how it was answered."""
        answer: A | LookupFailed = self.recall_all(asked, [question])[0]
        return given(answer)

    def recall_all(self, asked: Asked[Q, A], questions: Sequence[Q]) -> list[A | LookupFailed]:
        """The answers to several, which are asked at the same time.  Raises Pending when any is missing."""
        answers: list[A | LookupFailed] = []
        wanted: list[tuple[Asked[Any, Any], Hashable]] = []
        for question in questions:
            at = (asked, question)
            answer = self._answers.get(at, UNKNOWN_YET)
            if answer is UNKNOWN_YET:
                answer = self._answers[at] = asked.known(question)
            if answer is UNKNOWN_YET:
                wanted.append(at)
            else:
                answers.append(answer)
        if wanted:
            raise Pending(wanted)
        return answers

    def turn(self, what: Hashable) -> int:
        """How often a step came here before in this run: makes questions with a new answer each time different."""
        number = self._turns[what] = self._turns.get(what, -1) + 1
        return number

    def run(self, step: Callable[["Memo"], T]) -> T:
        """Run a step with what is known.  Raises Pending."""
        self._turns.clear()
        return step(self)

    async def settle(self, step: Callable[["Memo"], T], pending: Pending) -> T:
        """Ask what a step wanted, and run it again, until it has all it wants."""
        while True:
            await self._learn(pending)
            try:
                return self.run(step)
            except Pending as more:
                pending = more

    async def _learn(self, pending: Pending) -> None:
        wanted = list(dict.fromkeys(pending.wanted))
        if len(wanted) == 1:
            self._answers[wanted[0]] = await _ask(*wanted[0])
            return
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_ask(asked, question)) for asked, question in wanted]
        for at, task in zip(wanted, tasks, strict=True):
            self._answers[at] = task.result()


async def _ask(asked: Asked[Any, Any], question: Hashable) -> Any:
    try:
        return await asked.answer(question)
    except LookupFailed as error:
        return error


def given(answer: A | LookupFailed) -> A:
    """An answer as a value; one that failed is raised."""
    if isinstance(answer, LookupFailed):
        raise type(answer)(*answer.args)
    return answer
