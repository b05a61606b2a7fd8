"""Mail transactions of a session (RFC 5321 3.3): MAIL, RCPT, DATA, and from the end of data to the 250.

What RSET forgets is one object, the Tx.
"""

from collections.abc import Callable
from functools import partial

from pysmtpd.base import logline, reply, xtext
from pysmtpd.base.date import rfc5322
from pysmtpd.base.ids import MsgId
from pysmtpd.base.logline import address_text
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.reply import Reply
from pysmtpd.base.text import vis
from pysmtpd.conf.config import Listener, Tls
from pysmtpd.imsg import Message
from pysmtpd.messages import (
    ExpandRcpt,
    Found,
    RcptExpanded,
    SenderChecked,
    SmtpCheckSender,
    SmtpEnvelopes,
    SmtpMessage,
    SmtpMessageCommit,
    SmtpMessageCommitted,
    SmtpMessageRollback,
)
from pysmtpd.session.attributes import Attributes
from pysmtpd.session.effects import Ask, Body
from pysmtpd.session.header import Completion
from pysmtpd.session.incoming import Chunked, Incoming
from pysmtpd.session.parameters import Parameters, read_mail, read_rcpt
from pysmtpd.session.path import parse_path
from pysmtpd.session.patience import Patience
from pysmtpd.session.received import Trace, received
from pysmtpd.session.smtp_bdat import Chunking
from pysmtpd.session.smtp_settings import LOCAL, SessionSettings, TlsFacts
from pysmtpd.session.smtp_tx import Tx, template

SUBMISSION_PORTS = (587, 465)      # RFC 6409, RFC 8314


class Transactions(Chunking):
    """The part of a session that is about messages."""

    def __init__(self, id: int, listener: Listener, settings: SessionSettings, address: str,
                 msgids: Callable[[], MsgId | None], random: Callable[[int], int],
                 may_log_in: Callable[[str], bool]) -> None:
        super().__init__(id, listener, address, random, may_log_in)
        self._settings = settings
        self._lacking = listener.lacking
        self._source = address_text(address)
        self._hostname = settings.smtpname if address == LOCAL else "<unknown>"
        self._msgids = msgids
        self._tls: TlsFacts | None = None
        self._helo = ""
        self._ehlo = False
        self._tx: Tx | None = None
        self._incoming: Incoming | None = None
        self._spare: MsgId | None = None  # a message id no message got
        self._mails = 0
        self._patience = Patience(settings.patience)
        self._port = listener.port
        self._proxied = False      # XCLIENT was said
        self._forwarded: Attributes | None = None  # by XFORWARD, for one message

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
            authenticated=self._authenticated, now=self._now, vouches=self._vouches(sender, parameters.auth),
        ), may_be_binary=parameters.binary)
        if self._forwarded is not None:
            said = " ".join(f"{name.lower()}={value or '-'}" for name, value in self._forwarded.items())
            self._log(logline.SMTP_XFORWARD.format(id=self.id, msgid=msgid, said=said))
        self._reply(reply.R250_OK)

    def _vouches(self, sender: MailAddr, submitter: str) -> bool:
        """Whether it is believed about who submitted the message: somebody who has logged in, and where senders are
        held to their own addresses, only of the sender."""
        return bool(submitter and self._username and self._address != LOCAL) and (
            not self._listener.senders or xtext.decode(submitter) == str(sender))

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

    # mail data

    def _proceed_data(self, argument: str) -> None:
        assert self._tx is not None
        self._incoming = Incoming(self._tx, self._settings.max_message_size, *self._fields(self._tx),
                                  normalize=self._settings.normalize)
        self._reply(reply.R354_ENTER_MAIL)

    def _chunked(self, tx: Tx) -> Chunked:
        return Chunked(tx, self._settings.max_message_size, *self._fields(tx), normalize=self._settings.normalize)

    def _fields(self, tx: Tx) -> tuple[Trace, Completion | None, bytes, bytes]:
        """What comes before the message, what to add to its header, the sender that takes the place of From's, and the
        name by which it may hold no results of authentication."""
        date = rfc5322(self._now, self._settings.zone)
        rcpt = str(tx.rcpts[0][0]) if len(tx.rcpts) == 1 else ""
        full = plain = self._received(tx, date, rcpt)
        if not rcpt.isascii() and tx.sender.user.isascii():
            plain = self._received(tx, date, "")
        masked = str(tx.sender).encode() if self._listener.masquerade and self._username else b""
        admd = b"" if self._is_near else self._settings.admd.lower().encode()
        return Trace(full, plain), self._completion(date), masked, admd

    def _received(self, tx: Tx, date: str, rcpt: str) -> bytes:
        return received(
            helo=self._helo, hostname=self._hostname, address=self._source, smtpname=self._settings.smtpname,
            protocol=self._protocol(tx), msgid=tx.msgid, date=date, tls=self._tls_clause(), auth=self._auth_clause(),
            rcpt=rcpt, mask_src=self._listener.mask_src,
        )

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
        users_own = self._username or self._port in SUBMISSION_PORTS
        if not (self._is_near or (users_own and not self._is_forwarded)):
            return None
        message_id = f"Message-ID: <{self._random(64):016x}@{self._settings.smtpname}>\r\n"
        return Completion(f"Date: {date}\r\n".encode(), message_id.encode(), self._settings.smtpname.encode())

    @property
    def _is_forwarded(self) -> bool:
        """Whether a proxy says that it comes from elsewhere (XFORWARD)."""
        return (self._forwarded or {}).get("SOURCE") == "REMOTE"

    @property
    def _is_near(self) -> bool:
        """Whether it comes from this machine: a user's own mail, or what a content filter gives back."""
        return self._listener.is_local and not self._proxied and not self._is_forwarded

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
        tx, self._tx, self._forwarded = self._tx, None, None
        assert tx is not None
        if not message.ok:
            self._reply_data(reply.R452_STORAGE if message.full else reply.R451_TEMPORARY, tx)
            return
        self._mails += 1
        self._patience.renew()
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
        self._tx = self._forwarded = None


def _ascii_path(argument: str, parameters: str) -> bool:
    """Whether the path before the parameters has nothing beyond ASCII."""
    return argument.isascii() or argument[: len(argument) - len(parameters)].isascii()
