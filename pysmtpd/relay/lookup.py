"""Questions to lka, and their answers.  Equal questions are asked once at a time."""

from collections.abc import Callable

from pysmtpd.messages import Found, MtaLookedUp, MtaLookup, MtaResolve, MtaResolved
from pysmtpd.relay.shell import Shell

KEEP = 5.0                         # seconds an answer about a smarthost serves the messages that follow
KEPT_MAX = 1000

Answer = Callable[[Found, str], None]
Hosts = Callable[[MtaResolved], None]
Question = tuple[str, str, str]    # service, table, key


class Questions:
    """Those that are out, and the answers that are still fresh."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._asked: dict[int, Question] = {}
        self._waiting: dict[Question, list[Answer]] = {}
        self._hosts: dict[int, Hosts] = {}
        self._fresh: dict[Question, tuple[float, str]] = {}

    def smarthost(self, table: str, key: str, answer: Answer) -> None:
        """A relay URL; an answer serves for some seconds."""
        question = ("relayhost", table, key)
        kept = self._fresh.get(question)
        if kept is not None and kept[0] > self._shell.clock():
            answer(Found.YES, kept[1])
        else:
            self._ask(question, answer)

    def lookup(self, service: str, table: str, key: str, answer: Answer) -> None:
        """Anything else."""
        self._ask((service, table, key), answer)

    def resolve(self, name: str, mx: bool, answer: Hosts) -> None:
        """The hosts of a name."""
        reqid = self._shell.new_reqid()
        self._hosts[reqid] = answer
        self._shell.tell_lka(MtaResolve(reqid, name, mx))

    def _ask(self, question: Question, answer: Answer) -> None:
        if question in self._waiting:
            self._waiting[question].append(answer)
            return
        self._waiting[question] = [answer]
        reqid = self._shell.new_reqid()
        self._asked[reqid] = question
        self._shell.tell_lka(MtaLookup(reqid, *question))

    def looked_up(self, message: MtaLookedUp) -> None:
        question = self._asked.pop(message.reqid, None)
        if question is None:
            return
        if question[0] == "relayhost" and message.found is Found.YES:
            if len(self._fresh) >= KEPT_MAX:
                self._fresh.clear()
            self._fresh[question] = self._shell.clock() + KEEP, message.value
        for answer in self._waiting.pop(question):
            answer(message.found, message.value)

    def resolved(self, message: MtaResolved) -> None:
        answer = self._hosts.pop(message.reqid, None)
        if answer is not None:
            answer(message)
