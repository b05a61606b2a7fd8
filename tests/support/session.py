"""A session whose questions are answered at once, and always with yes."""

from typing import Any

from pysmtpd.conf.config import Listener
from pysmtpd.session.effects import Effect, Log, Send
from pysmtpd.session.smtp_settings import SessionSettings
from tests.support import chat


class Always(chat.Player):
    """A player whose lka and queue always say yes."""

    def run(self, effects: list[Effect]) -> None:
        self.carry_out(effects)
        while self.question is not None and not self.session.closed:
            question, self.question = self.question, None
            words = {"SmtpLookupName": "NameLookedUp client.example.org", "ExpandRcpt": "RcptExpanded 1",
                     "SmtpMessage": "SmtpMessageCommitted ok", "SmtpMessageCommit": "SmtpMessageCommitted ok",
                     "SmtpLookup": "SmtpLookedUp YES", "Admit": "SmtpLookedUp YES",
                     "SmtpAuth": "AuthDone OK joe", "SmtpAuthResponse": "AuthDone OK joe"}[type(question).__name__]
            self.carry_out(self.session.answer(chat.answer_to(question, words), 0))


def player(listener: Listener | None = None, client: str = "192.0.2.10", max_message_size: int = 1 << 25,
           **more: Any) -> Always:
    """A session that has greeted; ``more`` are fields of its settings."""
    settings = SessionSettings("mx.example.org", max_message_size, **more)
    found = Always(chat.Chat(listener or Listener(address="192.0.2.1", port=25), settings, client, False, []))
    found.start(False)
    return found


def say(found: Always, data: bytes) -> None:
    found.run(found.session.receive(data, 0))


def logs(effects: list[Effect]) -> list[str]:
    return [effect.line[17:] for effect in effects if isinstance(effect, Log)]


def sent(effects: list[Effect]) -> bytes:
    return b"".join(effect.data for effect in effects if isinstance(effect, Send))
