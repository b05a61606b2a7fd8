"""AUTH (RFC 4954): the dialogue in which a client proves who it is.

What is said in it is for lka: it knows the mechanisms and the back ends (lookup/sasl.py), a session only carries their
challenges and responses, in base64, and keeps none of them.
"""

import binascii
from collections.abc import Callable

from pysmtpd.base import logline, reply
from pysmtpd.base.reply import Reply
from pysmtpd.base.text import is_clean, vis
from pysmtpd.conf.config import Listener
from pysmtpd.imsg import Message
from pysmtpd.messages import AuthChallenge, AuthDone, AuthResult, SmtpAuth, SmtpAuthCancel, SmtpAuthResponse
from pysmtpd.session.client_limits import AUTH_FAIL
from pysmtpd.session.conversation import Conversation
from pysmtpd.session.effects import Ask, AuthFailed, Count

MECHANISMS = ("PLAIN", "LOGIN")    # what there is until lka says more
FAILURES_MAX = 10                  # in one session
DELAY_MAX = 8                      # seconds, beside up to one by chance, until a failure is told


class Authentication(Conversation):
    """The part of a session that is about who the client is."""

    def __init__(self, id: int, listener: Listener, address: str, random: Callable[[int], int],
                 may_log_in: Callable[[str], bool]) -> None:
        super().__init__(id, address)
        self._may_log_in = may_log_in
        self._listener = listener
        self._random = random
        self._identities: list[str] = []   # of the client's verified certificate
        self._authenticated = False
        self._username = ""
        # What comes before the next command: the answer to a challenge, or a reply that was delayed.
        self._instead: Callable[[], bool] | None = None
        self._exchanging = False   # lka is in the middle of an AUTH of ours
        self._mechanism = ""
        self._failures = 0

    # for the session

    @property
    def _number(self) -> int:
        """Which of the configuration's listeners this is."""
        raise NotImplementedError

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        """What lka can do for this listener."""
        raise NotImplementedError

    def _reply(self, text: Reply) -> None:
        raise NotImplementedError

    def _next_line(self, *, credentials: bool = False) -> bytes | None:
        """The next line; None when there is none, or when it ended the session."""
        raise NotImplementedError

    def _show(self, what: str) -> None:
        """How the log calls what is being answered."""
        raise NotImplementedError

    def _offered(self) -> tuple[str, ...]:
        """The mechanisms a client may use now: never in clear."""
        if not self.secure or self._authenticated or not self._listener.auth:
            return ()
        mechanisms = self._mechanisms
        return (*mechanisms, "EXTERNAL") if self._identities and "EXTERNAL" not in mechanisms else mechanisms

    def _proceed_auth(self, argument: str) -> None:
        """AUTH may be given now; ``argument`` is its mechanism, and perhaps an initial response."""
        name, _, initial = argument.replace("\t", " ").partition(" ")
        mechanism = name.upper()
        if mechanism not in self._offered():
            self._reply(reply.described(504, "7.4", f'AUTH method "{name}" not supported'))
            return
        if not self._may_log_in(self._address):
            self._log(logline.SMTP_LIMITED.format(
                id=self.id, address=logline.address_text(self._address), limit=AUTH_FAIL))
            self._effects.append(Count(f"smtp.limit.{AUTH_FAIL}"))
            self._hang_up(reply.R421_CLIENT_FAILURES, "quit")
            return
        self._mechanism = mechanism
        self._show_step(first=True)
        initial = initial.strip(" ")
        data = b"" if initial in ("", "=") else _decode(initial.encode("utf-8", "surrogateescape"))
        if data is None:
            self._reply(reply.R501_SYNTAX)
            return
        self._exchanging = True
        self._ask(SmtpAuth(self.id, self._number, mechanism, initial != "", data, self._address, self._identities),
                  self._auth_answered)

    # the dialogue

    def _show_step(self, *, first: bool) -> None:
        what = "..." if self._mechanism != "LOGIN" else "username" if first else "password"
        self._show(f"AUTH {self._mechanism} ({what})")

    def _auth_answered(self, message: Message) -> None:
        if isinstance(message, AuthChallenge):
            # It may be longer than a reply; RFC 4954 4 gives it 12288 octets.
            self._out.append(b"334 " + binascii.b2a_base64(message.data, newline=False) + b"\r\n")
            if message.data == b"Password:":
                self._show_step(first=False)
            self._instead = self._auth_response
            return
        assert isinstance(message, AuthDone)
        self._exchanging = False
        if message.user and message.result is not AuthResult.MALFORMED:
            self._log(logline.SMTP_AUTHENTICATION.format(
                id=self.id, user=vis(message.user.encode(), white=True), result=message.result.name.lower()))
        match message.result:
            case AuthResult.OK:
                self._prove(message.user)
            case AuthResult.PERMFAIL:
                self._fail(message.user)
            case AuthResult.TEMPFAIL:
                self._reply(reply.R454_AUTH)
            case _:
                self._reply(reply.R501_SYNTAX)

    def _auth_response(self) -> bool:
        line = self._next_line(credentials=True)
        if line is None:
            return self.closed
        self._instead = None
        data = None if line == b"*" else _decode(line)
        if data is None:
            self._drop_exchange()
            self._reply(reply.R501_SYNTAX)
            return True
        self._ask(SmtpAuthResponse(self.id, data), self._auth_answered)
        return True

    def _prove(self, user: str) -> None:
        self._effects.append(Count("smtp.auth.ok"))
        self._authenticated = True
        self._username = user if is_clean(user) else vis(user.encode())
        self._reply(reply.R235_AUTHENTICATED)

    def _fail(self, user: str) -> None:
        """Told late, and later each time: guessing takes time, and how much of it says nothing."""
        self._failures += 1
        self._log(logline.SMTP_AUTH_FAILED.format(
            id=self.id, address=logline.address_text(self._address), user=vis(user.encode(), white=True),
            mechanism=self._mechanism))
        self._effects.append(AuthFailed(user))
        self._wait(self._random(20) / (1 << 20) + min((1 << (self._failures - 1)) - 1, DELAY_MAX))
        self._instead = self._tell_failure

    def _tell_failure(self) -> bool:
        self._instead = None
        self._reply(reply.R535_AUTH)
        if self._failures >= FAILURES_MAX:
            self._hang_up(reply.R421_TOO_MANY_ERRORS, "quit")
        return True

    def _drop_exchange(self) -> None:
        """Have lka forget an AUTH that does not go on."""
        if self._exchanging:
            self._exchanging = False
            self._effects.append(Ask(SmtpAuthCancel(self.id)))


def _decode(data: bytes) -> bytes | None:
    """Base64 without anything that is none; None otherwise."""
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        return None
