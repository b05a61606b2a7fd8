"""The inbound SMTP session (RFC 5321), without I/O: what the server says to each command.

Conversation is how it runs.  A command is a row of COMMANDS: ``_check_*`` says whether it may be given now,
``_proceed_*`` does it.  What RSET forgets is one object, the Tx.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pysmtpd.base import logline, reply
from pysmtpd.base.date import UTC, Zone, rfc5322
from pysmtpd.base.ids import MsgId
from pysmtpd.base.logline import address_text
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.reply import Reply
from pysmtpd.base.text import vis
from pysmtpd.conf.config import Config, Listener, Tls
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    ExpandRcpt,
    Found,
    NameLookedUp,
    RcptExpanded,
    SenderChecked,
    SmtpCheckSender,
    SmtpEnvelopes,
    SmtpLookedUp,
    SmtpLookup,
    SmtpLookupName,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMessageRollback,
)
from pysmtpd.session import extensions
from pysmtpd.session.effects import Ask, Body, Effect
from pysmtpd.session.header import Completion
from pysmtpd.session.incoming import Chunked, Incoming
from pysmtpd.session.lines import LineError
from pysmtpd.session.parameters import Parameters, read_mail, read_rcpt
from pysmtpd.session.path import parse_path, valid_domain
from pysmtpd.session.received import received
from pysmtpd.session.smtp_auth import MECHANISMS
from pysmtpd.session.smtp_bdat import Chunking
from pysmtpd.session.smtp_command import Command, FilterPhase, loggable, split
from pysmtpd.session.smtp_tx import Tx, template

LOCAL = "local"                    # the address of a session over the control socket
SUBMISSION_PORTS = (587, 465)      # RFC 6409, RFC 8314
ERRORS_SOFT = 20                   # after so many commands that are none, each further one costs a second
ERRORS_HARD = 100                  # and after so many the session


class SessionSettings(NamedTuple):
    """What a session has to know beside its listener."""

    smtpname: str                  # the name it greets with
    max_message_size: int = 35 * 1024 * 1024
    max_rcpt: int = 1000           # in a transaction
    max_mails: int = 100           # in a session
    zone: Zone = UTC
    number: int = 0                # which of the listeners this is
    mechanisms: tuple[str, ...] = MECHANISMS  # of AUTH

    @classmethod
    def of(cls, config: Config, listener: Listener, zone: Zone, number: int = 0) -> "SessionSettings":
        """Those that a configuration gives a listener."""
        limits = config.limits
        return cls(listener.hostname or config.hostname, config.max_message_size, limits.smtp_max_rcpt,
                   limits.smtp_max_mails, zone, number)


class TlsFacts(NamedTuple):
    """What a handshake agreed on."""

    text: str
    fingerprint: str
    verified: bool


class SmtpSession(Chunking):
    """One conversation with a client."""

    def __init__(self, listener: Listener, settings: SessionSettings, id: int, address: str,
                 msgids: Callable[[], MsgId | None], *, random: Callable[[int], int], username: str = "",
                 local: str = "", may_log_in: Callable[[str], bool] = lambda _address: True) -> None:
        """``address`` is an IP address or LOCAL, whose sessions count as authenticated; ``msgids`` gives the next
        message id, or None when there is none at hand; ``random`` gives so many random bits;
        ``local`` is our address, where names depend on it; ``may_log_in`` says whether an address may try to."""
        super().__init__(id, listener, address, random, may_log_in)
        # An smtps listener shakes hands before start().
        self._shaking = self._pausing = listener.tls is Tls.SMTPS
        self._settings = settings
        self._lacking = listener.lacking
        self._source = address_text(address)
        self._hostname = settings.smtpname if address == LOCAL else "<unknown>"
        self._authenticated = address == LOCAL or username != ""
        self._username = username
        self._msgids = msgids
        self._local = local
        self._commands = LMTP_COMMANDS if listener.lmtp else COMMANDS
        self._tls: TlsFacts | None = None
        self._greeted = False
        self._helo = ""
        self._ehlo = False
        self._tx: Tx | None = None
        self._incoming: Incoming | None = None
        self._spare: MsgId | None = None  # a message id no message got
        self._mails = 0
        self._errors = 0
        self._command = b""        # the command being answered, for the log
        self._secretive = False    # AUTH was refused: what follows may be a password

    # what the shell tells, beside what every conversation hears

    def start(self, now: int) -> list[Effect]:
        """The client is connected, and hands were shaken if that comes first."""
        self._now = now
        if self._address == LOCAL:
            self._connected()
        elif self._local:
            self._ask(SmtpLookup(self.id, "addrname", self._listener.hostnames, self._local), self._own_name_looked_up)
        else:
            self._ask(SmtpLookupName(self.id, self._address), self._name_looked_up)
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
            self._log(logline.SMTP_FAILED_COMMAND.format(id=self.id, command=loggable(self._command), result=text))

    # connected

    def _own_name_looked_up(self, message: Message) -> None:
        """Where the table has no name, or fails, the listener's own does."""
        assert isinstance(message, SmtpLookedUp)
        if message.found is Found.YES and message.value:
            self._settings = self._settings._replace(smtpname=message.value)
        self._ask(SmtpLookupName(self.id, self._address), self._name_looked_up)

    def _name_looked_up(self, message: Message) -> None:
        assert isinstance(message, NameLookedUp)
        self._hostname = message.hostname
        self._connected()

    def _connected(self) -> None:
        self._log(logline.SMTP_CONNECTED.format(id=self.id, address=self._source, host=self._hostname))
        self._greeted = True
        if self._tls is not None:
            self._log_tls(self._tls)
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
        line = self._next_line()
        if line is None:
            return self.closed
        self._command = line
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
        refused = command.check(self, argument)
        if refused is None:
            command.proceed(self, argument)
        else:
            self._reply(refused)
        return True

    def _mistake(self, text: Reply) -> None:
        """It is no command.  Who goes on with such is slowed down, then left."""
        self._errors += 1
        if self._secretive:
            self._command = b"(...)"
        self._reply(text)
        if self._errors >= ERRORS_HARD:
            self._hang_up(reply.R421_TOO_MANY_ERRORS, "quit")
        elif self._errors > ERRORS_SOFT:
            self._wait(1.0)

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
            return reply.R501_EHLO_DOMAIN
        return None if valid_domain(argument) else reply.R501_DOMAIN

    def _proceed_helo(self, argument: str) -> None:
        self._identified(argument, ehlo=False)
        self._reply(self._hello())

    def _proceed_ehlo(self, argument: str) -> None:
        self._identified(argument, ehlo=True)
        offer = extensions.Offer(self._listener.tls, self.secure, self._lacking,
                                 self._settings.max_message_size, self._offered())
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

    def _check_mail_from(self, argument: str) -> Reply | None:
        if not self._helo or self._tx is not None:
            return reply.R503_NOT_ALLOWED
        if self._listener.tls is Tls.REQUIRED and not self.secure:
            return reply.R530_STARTTLS_FIRST
        if self._listener.auth == "required" and not self._authenticated:
            return reply.R530_AUTH_FIRST
        return reply.R452_MESSAGES if self._mails >= self._settings.max_mails else None

    def _proceed_mail_from(self, argument: str) -> None:
        path = parse_path(argument, self._settings.smtpname)
        if path is None:
            self._reply(reply.R553_SENDER)
            return
        parameters = read_mail(path[1], self._lacking, max_size=self._settings.max_message_size)
        if not isinstance(parameters, Parameters):
            self._reply(parameters)
        elif not (parameters.smtputf8 or _ascii_path(argument, path[1])):
            self._reply(reply.R553_SMTPUTF8)
        elif self._listener.senders and self._username:
            question = SmtpCheckSender(self.id, self._listener.senders, self._username, path[0])
            self._ask(question, partial(self._sender_checked, path[0], parameters))
        else:
            self._begin(path[0], parameters)

    def _sender_checked(self, sender: MailAddr, parameters: Parameters, message: Message) -> None:
        assert isinstance(message, SenderChecked)
        if message.found is Found.YES:
            self._begin(sender, parameters)
        else:
            self._reply(reply.R550_NOT_YOURS if message.found is Found.NO else reply.R451_TEMPORARY)

    def _begin(self, sender: MailAddr, parameters: Parameters) -> None:
        msgid = self._spare if self._spare is not None else self._msgids()
        if msgid is None:
            self._reply(reply.R451_TEMPORARY)
            return
        self._spare = msgid
        self._tx = Tx(msgid, template(
            sender=sender, parameters=parameters, tag=self._listener.tag, smtpname=self._settings.smtpname,
            helo=self._helo, hostname=self._hostname, username=self._username, source=self._source,
            authenticated=self._authenticated, now=self._now,
        ), may_be_binary=parameters.binary)
        self._reply(reply.R250_OK)

    def _check_rcpt_to(self, argument: str) -> Reply | None:
        if self._tx is None or self._tx.chunked is not None:
            return reply.R503_NOT_ALLOWED
        return reply.R451_RECIPIENTS if len(self._tx.rcpts) >= self._settings.max_rcpt else None

    def _proceed_rcpt_to(self, argument: str) -> None:
        tx = self._tx
        assert tx is not None
        path = parse_path(argument, self._settings.smtpname)
        if path is None or path[0].is_null:
            self._reply(reply.R501_RECIPIENT)
            return
        rcpt = path[0]
        parameters = read_rcpt(path[1], self._lacking, smtputf8=tx.smtputf8)
        if not (tx.smtputf8 or _ascii_path(argument, path[1])):
            self._reply(reply.R553_SMTPUTF8)
        elif isinstance(parameters, Parameters):
            question = ExpandRcpt(self.id, tx.asked(rcpt, parameters), self.secure, self._address == LOCAL)
            self._ask(question, self._expanded)
        else:
            self._reply(parameters)

    def _expanded(self, message: Message) -> None:
        """An answer about a recipient, of which there may be several."""
        assert isinstance(message, RcptExpanded)
        tx = self._tx
        assert tx is not None
        tx.expanded(message.sealed, message.count)
        if message.more:
            self._waiting = self._expanded
        elif message.reply or not tx.expanding:
            tx.refuse()
            if message.why:
                why = vis(message.why.encode())
                self._log(logline.SMTP_REFUSED_RCPT.format(id=self.id, rcpt=tx.asking, why=why))
            self._reply(reply.refusal(message.reply, str(tx.asking), whole=message.whole) or reply.R451_TEMPORARY)
        else:
            tx.accept()
            self._reply(reply.R250_RECIPIENT)

    def _check_data(self, argument: str) -> Reply | None:
        if argument:
            return reply.R500_ARGUMENTS
        tx = self._tx
        if tx is None or tx.chunked is not None or tx.may_be_binary:
            return reply.R503_NOT_ALLOWED   # RFC 3030 2 and 3: what BDAT began, or needs, is no matter for DATA
        return None if tx.rcpts else reply.R503_NO_RECIPIENT

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

    # mail data

    def _proceed_data(self, argument: str) -> None:
        assert self._tx is not None
        self._incoming = Incoming(self._tx, self._settings.max_message_size, *self._fields(self._tx))
        self._reply(reply.R354_ENTER_MAIL)

    def _chunked(self, tx: Tx) -> Chunked:
        return Chunked(tx, self._settings.max_message_size, *self._fields(tx))

    def _fields(self, tx: Tx) -> tuple[bytes, Completion | None, bytes]:
        """What comes before the message, what to add to its header, and the sender that takes the place of From's."""
        settings = self._settings
        date = rfc5322(self._now, settings.zone)
        trace = received(
            helo=self._helo, hostname=self._hostname, address=self._source, smtpname=settings.smtpname,
            protocol=self._protocol(tx), msgid=tx.msgid, date=date, tls=self._tls_clause(), auth=self._auth_clause(),
            rcpt=str(tx.rcpts[0][0]) if len(tx.rcpts) == 1 else "", mask_src=self._listener.mask_src,
        )
        masked = str(tx.sender).encode() if self._listener.masquerade and self._username else b""
        return trace, self._completion(date), masked

    def _protocol(self, tx: Tx) -> str:
        """RFC 3848, and RFC 6531 4.3."""
        kind = f"UTF8{self._speaks[-4:]}" if tx.smtputf8 else self._speaks
        return f"{kind}{'S' if self.secure else ''}{'A' if self._authenticated else ''}"

    @property
    def _speaks(self) -> str:
        return "LMTP" if self._listener.lmtp else "ESMTP" if self._ehlo else "SMTP"

    def _tls_clause(self) -> str:
        return f" ({self._tls.text}:{'YES' if self._tls.verified else 'NO'})" if self._tls else ""

    def _auth_clause(self) -> str:
        if not self._listener.received_auth or not self.secure:
            return ""
        return f" auth=yes user={vis(self._username.encode(), white=True)}" if self._username else " auth=no"

    def _completion(self, date: str) -> Completion | None:
        """The fields to add to a user's own mail where they are missing."""
        listener = self._listener
        if not (listener.is_local or listener.port in SUBMISSION_PORTS):
            return None
        message_id = f"Message-ID: <{self._random(64):016x}@{self._settings.smtpname}>\r\n"
        return Completion(f"Date: {date}\r\n".encode(), message_id.encode(), self._settings.smtpname.encode())

    def _receive_data(self, incoming: Incoming) -> bool:
        """Take in mail data; False when its end has not come."""
        if not len(self._lines):
            return False
        chunks, rest = incoming.feed(self._lines.rest())
        self._effects.extend(map(Body, chunks))
        if rest is None:
            return False
        self._lines.feed(rest)
        self._incoming = None
        self._note_header(incoming)
        self._end_of_data(incoming.fault)
        return True

    def _note_header(self, incoming: Incoming | Chunked) -> None:
        tx = self._tx
        if tx is not None and tx.smtputf8:
            tx.utf8_header = incoming.utf8_header

    def _end_of_data(self, fault: Reply | None) -> None:
        tx = self._tx
        assert tx is not None
        if fault is not None:
            self._rollback()
            self._reply_data(fault, tx)
            return
        self._spare = None
        if tx.fits:
            self._ask(SmtpMessage(self.id, tx.msgid, tx.sealed, tx.flush()), self._committed)
            return
        for batch in tx.batches():
            self._effects.append(Ask(SmtpEnvelopes(self.id, batch)))
        self._effects.append(Body(tx.flush()))
        self._ask(SmtpMessageCommit(self.id, tx.msgid, tx.envelopes, tx.size, tx.binary, tx.utf8_header),
                  self._committed)

    def _reply_data(self, text: Reply, tx: Tx) -> None:
        """What became of the mail data: in LMTP said once for each recipient that was accepted (RFC 2033 4.2)."""
        for _ in range(len(tx.rcpts) if self._listener.lmtp else 1):
            self._reply(text)

    @property
    def _committing(self) -> bool:
        return self._waiting == self._committed

    def _committed(self, message: Message) -> None:
        """250 only here: the queue has it on stable storage."""
        assert isinstance(message, SmtpMessageCommitted)
        tx, self._tx = self._tx, None
        assert tx is not None
        if not message.ok:
            self._reply_data(reply.R452_STORAGE if message.full else reply.R451_TEMPORARY, tx)
            return
        self._mails += 1
        self._reply_data(Reply(f"250 2.0.0 {tx.msgid:08x} Message accepted for delivery"), tx)
        self._log(logline.SMTP_MESSAGE.format(id=self.id, msgid=tx.msgid, size=tx.size, nrcpt=len(tx.rcpts),
                                              proto=self._speaks))
        for rcpt, evp in tx.rcpts:
            self._log(logline.SMTP_ENVELOPE.format(id=self.id, evpid=evp, sender=tx.sender, rcpt=rcpt))

    def _rollback(self) -> None:
        """Forget the transaction, and have the queue forget it; one that is being committed is beyond that."""
        if self._tx is not None and self._tx.sent and not self._committing:
            self._effects.append(Ask(SmtpMessageRollback(self.id)))
            self._spare = None
        self._tx = None


def _ascii_path(argument: str, parameters: str) -> bool:
    """Whether the path before the parameters has nothing beyond ASCII."""
    return argument.isascii() or argument[: len(argument) - len(parameters)].isascii()


COMMANDS: dict[str, Command[SmtpSession]] = {
    row.verb: row
    for row in (
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
        Command("HELP", SmtpSession._check_bare, FilterPhase.HELP, SmtpSession._proceed_help),
        Command("WIZ", SmtpSession._check_bare, FilterPhase.NONE, SmtpSession._proceed_wiz),
    )
}
# RFC 2033 4.1: LHLO is EHLO, and there is no other.
LMTP_COMMANDS: dict[str, Command[SmtpSession]] = {
    "LHLO": COMMANDS["EHLO"]._replace(verb="LHLO"),
    **{verb: row for verb, row in COMMANDS.items() if verb not in ("HELO", "EHLO")},
}
