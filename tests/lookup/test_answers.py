"""lookup.answers: each asker gets one answer."""

import asyncio

from pysmtpd.imsg import Message
from pysmtpd.lookup.answers import Answers
from pysmtpd.messages import CtlDone

FAILED = CtlDone(1, False, "internal error")
DONE = CtlDone(1, True, "")


class Asker:
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        self.sent.append(message)


def test_work_may_be_given_before_the_loop_runs() -> None:
    loop, told, asker = asyncio.new_event_loop(), list[str](), Asker()
    answers = Answers(told.append, loop.create_task)

    async def work() -> Message:
        return DONE

    async def broken() -> Message:
        raise KeyError("x")

    answers.later(asker, work(), FAILED)
    answers.later(asker, broken(), FAILED)
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    assert asker.sent == [DONE, FAILED] and not answers.tasks
    assert len(told) == 1 and told[0].startswith("bug: lka: ")
