"""Before an envelope has a relay: which action, by way of which smarthost, and with which sender."""

from collections.abc import Callable
from functools import partial

from pysmtpd.base.envelope import NAME_MAX, Envelope
from pysmtpd.conf.config import Action, Config
from pysmtpd.messages import Found, Outcome, QueueDeliver
from pysmtpd.relay.lookup import Questions

# The envelope, its action, its smarthost or nothing, and the sender that takes the place of its own, or nothing.
Addressed = Callable[[QueueDeliver, Action, str, str], None]
Fail = Callable[[Envelope, Outcome, str, str], None]


class Addressing:
    """Asks lka what the action leaves open."""

    def __init__(self, config: Config, questions: Questions, done: Addressed, fail: Fail) -> None:
        """Each envelope ends in one call of ``done`` or of ``fail``."""
        self.waiting = 0           # envelopes that wait for an answer
        self._config = config
        self._questions = questions
        self._done = done
        self._fail = fail

    def deliver(self, message: QueueDeliver) -> None:
        """An envelope is due."""
        envelope = message.envelope
        action = self._config.actions.get(envelope.action)
        if action is None or not action.is_relay:
            self._fail(envelope, Outcome.TEMPFAIL, "4.3.5", f"no relay action {envelope.action} in smtpd.conf any more")
        elif not envelope.dest.domain.isascii():
            # lka gives domains in A-form: this one has none.
            self._fail(envelope, Outcome.PERMFAIL, "5.6.7", "No such domain name can be")
        elif action.host or action.domain:
            self.waiting += 1
            table, key = (action.host, "") if action.host else (action.domain, envelope.dest.domain.lower())
            self._questions.smarthost(table, key, partial(self._smarthost_found, message, action))
        else:
            self._rewrite(message, action, "")

    def _smarthost_found(self, message: QueueDeliver, action: Action, found: Found, value: str) -> None:
        self.waiting -= 1
        if found is not Found.YES:
            self._fail(message.envelope, Outcome.TEMPFAIL, "4.3.5", "Cannot retrieve smarthost")
            return
        self._rewrite(message, action, value)

    def _rewrite(self, message: QueueDeliver, action: Action, smarthost: str) -> None:
        """Ask lka for a sender that leads back here, for what is forwarded by an action with srs: it has the key."""
        envelope = message.envelope
        sender = str(envelope.sender)
        if not action.srs or action.mail_from or envelope.rcpt == envelope.dest or not envelope.sender.domain \
                or len(sender) > NAME_MAX:
            self._done(message, action, smarthost, "")
            return
        self.waiting += 1
        self._questions.lookup("srs", envelope.rcpt.domain, sender,
                               partial(self._rewritten, message, action, smarthost))

    def _rewritten(self, message: QueueDeliver, action: Action, smarthost: str, found: Found, value: str) -> None:
        self.waiting -= 1
        if found is Found.TEMPFAIL:
            self._fail(message.envelope, Outcome.TEMPFAIL, "4.3.5", "Cannot rewrite the sender")
        else:
            self._done(message, action, smarthost, value)
