"""The inbound SMTP session (RFC 5321), without I/O: what the server says to each command.

Conversation is how it runs.  A command is a row of COMMANDS: ``_check_*`` says whether it may be given now,
``_proceed_*`` does it.  Those about messages are in Transactions, those of a proxy in Proxied.
"""

from collections.abc import Callable

from pysmtpd.base import logline, reply
from pysmtpd.base.ids import MsgId
from pysmtpd.base.reply import Reply
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    Found,
    NameLookedUp,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
)
from pysmtpd.session import extensions
from pysmtpd.session.effects import Effect
from pysmtpd.session.lines import LineError
from pysmtpd.session.path import valid_domain
from pysmtpd.session.smtp_command import Command, FilterPhase, loggable, split
from pysmtpd.session.smtp_proxied import Proxied
from pysmtpd.session.smtp_settings import LOCAL, SessionSettings, TlsFacts

# What brings a message on, and is bounded by limits of its own.
_LEADING = (FilterPhase.RCPT_TO, FilterPhase.DATA)


class SmtpSession(Proxied):
    """One conversation with a client."""

    def __init__(self, listener: Listener, settings: SessionSettings, id: int, address: str,
                 msgids: Callable[[], MsgId | None], *, random: Callable[[int], int], username: str = "",
                 local: str = "", may_log_in: Callable[[str], bool] = lambda _address: True) -> None:
        """``address`` is an IP address or LOCAL, whose sessions count as authenticated; ``msgids`` gives the next
        message id, or None when there is none at hand; ``random`` gives so many random bits;
        ``local`` is our address, where names depend on it; ``may_log_in`` says whether an address may try to."""
        super().__init__(id, listener, settings, address, msgids, random, may_log_in)
        # An smtps listener shakes hands before start().
        self._shaking = self._pausing = listener.tls is Tls.SMTPS
        self._authenticated = address == LOCAL or username != ""
        self._username = username
        self._local = local
        self._commands = LMTP_COMMANDS if listener.lmtp else COMMANDS
        self._greeted = False
        self._client_known = False
        self._struck = False       # something that is not borne for ever happened
        self._erred = False        # the command in hand was counted as an error
        self._rcpt = False         # it is RCPT
        self._command = b""        # the command being answered, for the log
        self._secretive = False    # AUTH was refused: what follows may be a password

    # what the shell tells, beside what every conversation hears

    def start(self, now: int) -> list[Effect]:
        """The client is connected, and hands were shaken if that comes first."""
        self._now = now
        if self._address == LOCAL:
            self._connected()
        else:
            self._find_trust(self._find_names)
        return self._done()

    def tls_ready(self, text: str, now: int, fingerprint: str = "", verified: bool = False,
                  identities: tuple[str, ...] = ()) -> list[Effect]:
        """The handshake is done.  Whatever the client said before is forgotten (RFC 3207 4.2).

        ``text`` is version, cipher and bits; ``fingerprint`` that of the client's certificate, if it gave one, and
        ``identities`` the names of people in it."""
        self._now = now
        if self.closed:
            return []
        self.secure = True
        self._tls = TlsFacts(text, fingerprint, verified)
        self._identities = list(identities) if verified else []
        self._helo = ""
        self._forwarded = None
        if self._proxied:          # a login that a proxy told in clear
            self._username, self._authenticated = "", False
        self._lines.rest()
        self._shaking = self._pausing = False
        if not self._greeted:
            return []              # smtps: start() follows
        self._log_tls(self._tls)
        return self._run()

    @property
    def held(self) -> int:
        """Octets of the client's in memory: commands not answered yet, and of a message what has not gone on."""
        tx = self._tx
        incoming = self._incoming if tx is None else self._incoming or tx.chunked
        return len(self._lines) if incoming is None else len(self._lines) + incoming.held

    # what a conversation needs to know

    def _advance(self) -> bool:
        incoming = self._incoming
        if incoming is not None:
            return self._receive_data(incoming)
        return self._next_command() if self._instead is None else self._instead()

    @property
    def _between(self) -> bool:
        return self._incoming is None and (self._tx is None or self._tx.chunked is None)

    def _forget(self) -> None:
        self._rollback()
        self._incoming = None
        self._drop_exchange()

    @property
    def _number(self) -> int:
        return self._settings.number

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return self._settings.mechanisms

    def _show(self, what: str) -> None:
        self._command = what.encode()

    def _reply(self, text: Reply) -> None:
        self._send(text)
        if text[0] in "45":
            if text[0] == "5" and not self._erred:
                self._erred = True
                self._struck |= self._patience.refusal() if self._rcpt else self._patience.error()
            self._log(logline.SMTP_FAILED_COMMAND.format(id=self.id, command=loggable(self._command), result=text))

    # connected

    def _find_names(self) -> None:
        if self._local:
            self._ask(SmtpLookup(self.id, "addrname", self._listener.hostnames, self._local), self._own_name_looked_up)
        else:
            self._find_client()

    def _find_client(self) -> None:
        if self._client_known:
            self._connected()
        else:
            self._ask(SmtpLookupName(self.id, self._address), self._name_looked_up)

    def _begin_anew(self, *, name_known: bool) -> None:
        self._client_known = name_known
        self._secretive = False
        self._find_names()

    def _own_name_looked_up(self, message: Message) -> None:
        """Where the table has no name, or fails, the listener's own does."""
        assert isinstance(message, SmtpLookedUp)
        if message.found is Found.YES and message.value:
            self._settings = self._settings._replace(smtpname=message.value)
        self._find_client()

    def _name_looked_up(self, message: Message) -> None:
        assert isinstance(message, NameLookedUp)
        self._hostname = message.hostname
        self._connected()

    def _connected(self) -> None:
        self._log(logline.SMTP_CONNECTED.format(id=self.id, address=self._source, host=self._hostname))
        if self._tls is not None and not self._greeted:
            self._log_tls(self._tls)
        self._greeted = True
        speaks = "LMTP" if self._listener.lmtp else "ESMTP"
        self._reply(reply.line(f"220 {self._settings.smtpname} {speaks} {reply.SOFTWARE}"))

    def _log_tls(self, tls: TlsFacts) -> None:
        self._log(logline.SMTP_TLS.format(id=self.id, ciphers=tls.text))
        if tls.fingerprint:
            result = "verified" if tls.verified else "unchecked"
            self._log(logline.SMTP_CERT_CHECK.format(id=self.id, result=result, fingerprint=tls.fingerprint))

    # commands

    def _next_line(self, *, credentials: bool = False) -> bytes | None:
        try:
            return self._lines.next(credentials=credentials)
        except LineError as error:
            self._log(logline.SMTP_BAD_INPUT.format(id=self.id, result=error.reply))
            self._hang_up(error.reply, "quit")
            return None

    def _next_command(self) -> bool:
        """Do the next command; False when there is none yet."""
        if self._struck and self._lose_patience():
            return True
        line = self._next_line()
        if line is None:
            return self.closed
        self._command = line
        self._erred = self._rcpt = False
        parts = split(line)
        if parts is None:
            self._mistake(reply.R500_CONTROL)
            return True
        verb, argument = parts
        command = self._commands.get(verb)
        if command is None:
            self._mistake(reply.R500_UNRECOGNIZED)
            return True
        self._secretive = verb == "AUTH"
        if command.phase not in _LEADING:
            self._struck = self._patience.command()
        elif command.phase is FilterPhase.RCPT_TO:
            self._rcpt = True
        refused = command.check(self, argument)
        if refused is None:
            command.proceed(self, argument)
        else:
            self._reply(refused)
        return True

    def _mistake(self, text: Reply) -> None:
        """It is no command."""
        if self._secretive:
            self._command = b"(...)"
        self._reply(text)

    def _lose_patience(self) -> bool:
        """After what is not borne for ever: the client is slowed down, in the end left."""
        self._struck = False
        if self._patience.lost:
            self._hang_up(reply.R421_TOO_MANY_ERRORS, "quit")
        elif self._patience.delay:
            self._wait(self._patience.delay)
        else:
            return False
        return True

    def _check_any(self, argument: str) -> Reply | None:
        return None

    def _check_bare(self, argument: str) -> Reply | None:
        return reply.R500_ARGUMENTS if argument else None

    def _check_helo(self, argument: str) -> Reply | None:
        if not argument:
            return reply.R501_HELO_DOMAIN
        return None if valid_domain(argument) else reply.R501_DOMAIN

    def _check_ehlo(self, argument: str) -> Reply | None:
        if not argument:
            return reply.R501_LHLO_DOMAIN if self._listener.lmtp else reply.R501_EHLO_DOMAIN
        return None if valid_domain(argument) else reply.R501_DOMAIN

    def _proceed_helo(self, argument: str) -> None:
        self._identified(argument, ehlo=False)
        self._reply(self._hello())

    def _proceed_ehlo(self, argument: str) -> None:
        self._identified(argument, ehlo=True)
        offer = extensions.Offer(self._listener.tls, self.secure, self._lacking,
                                 self._settings.max_message_size, self._offered(), self._settings.max_mails,
                                 self._settings.max_rcpt, self._may_xclient, self._may_xforward)
        self._out.append(reply.multiline(250, self._hello(), extensions.keywords(offer)))

    def _identified(self, helo: str, *, ehlo: bool) -> None:
        """RFC 5321 4.1.4: EHLO may come again, and has the effect of RSET."""
        self._rollback()
        self._helo = helo
        self._ehlo = ehlo

    def _hello(self) -> Reply:
        ip = self._source if self._source.startswith("[") else f"[{self._source}]"
        return reply.line(f"250 {self._settings.smtpname} Hello {self._helo} {ip}, pleased to meet you")

    def _check_starttls(self, argument: str) -> Reply | None:
        if not self._helo or self._tx is not None:
            return reply.R503_NOT_ALLOWED
        if self.secure:
            return reply.R503_ALREADY_SECURE
        if self._listener.tls not in (Tls.OFFERED, Tls.REQUIRED):
            return reply.R503_NOT_SUPPORTED
        return reply.R501_NO_PARAMETERS if argument else None

    def _proceed_starttls(self, argument: str) -> None:
        self._reply(reply.R220_START_TLS)
        self._shake_hands()

    def _check_auth(self, argument: str) -> Reply | None:
        if not self._helo or self._tx is not None:
            return reply.R503_NOT_ALLOWED
        if self._authenticated:
            return reply.R503_AUTHENTICATED
        if not self._offered():
            return reply.R503_NOT_SUPPORTED
        return None if argument else reply.R501_NO_MECHANISM

    def _proceed_rset(self, argument: str) -> None:
        self._rollback()
        self._reply(reply.R250_RESET)

    def _proceed_noop(self, argument: str) -> None:
        self._reply(reply.R250_OK)

    def _proceed_help(self, argument: str) -> None:
        self._out.append(reply.R214_HELP)

    def _proceed_wiz(self, argument: str) -> None:
        self._reply(reply.R500_WIZ)

    def _proceed_quit(self, argument: str) -> None:
        self._reply(reply.R221_BYE)
        self._end("quit")

_ROWS: tuple[Command[SmtpSession], ...] = (
    Command("HELO", SmtpSession._check_helo, FilterPhase.HELO, SmtpSession._proceed_helo),
    Command("EHLO", SmtpSession._check_ehlo, FilterPhase.EHLO, SmtpSession._proceed_ehlo),
    Command("STARTTLS", SmtpSession._check_starttls, FilterPhase.STARTTLS, SmtpSession._proceed_starttls),
    Command("AUTH", SmtpSession._check_auth, FilterPhase.AUTH, SmtpSession._proceed_auth),
    Command("MAIL FROM:", SmtpSession._check_mail_from, FilterPhase.MAIL_FROM, SmtpSession._proceed_mail_from),
    Command("RCPT TO:", SmtpSession._check_rcpt_to, FilterPhase.RCPT_TO, SmtpSession._proceed_rcpt_to),
    Command("DATA", SmtpSession._check_data, FilterPhase.DATA, SmtpSession._proceed_data),
    Command("BDAT", SmtpSession._check_any, FilterPhase.DATA, SmtpSession._proceed_bdat),
    Command("RSET", SmtpSession._check_bare, FilterPhase.RSET, SmtpSession._proceed_rset),
    Command("QUIT", SmtpSession._check_bare, FilterPhase.QUIT, SmtpSession._proceed_quit),
    Command("NOOP", SmtpSession._check_any, FilterPhase.NOOP, SmtpSession._proceed_noop),
    Command("HELP", SmtpSession._check_any, FilterPhase.HELP, SmtpSession._proceed_help),
    Command("XCLIENT", SmtpSession._check_xclient, FilterPhase.NONE, SmtpSession._proceed_xclient),
    Command("XFORWARD", SmtpSession._check_xforward, FilterPhase.NONE, SmtpSession._proceed_xforward),
    Command("WIZ", SmtpSession._check_bare, FilterPhase.NONE, SmtpSession._proceed_wiz),
)
COMMANDS = {row.verb: row for row in _ROWS}
# RFC 2033 4.1: LHLO is EHLO, and there is no other.
LMTP_COMMANDS: dict[str, Command[SmtpSession]] = {
    "LHLO": COMMANDS["EHLO"]._replace(verb="LHLO"),
    **{verb: row for verb, row in COMMANDS.items() if verb not in ("HELO", "EHLO")},
}
