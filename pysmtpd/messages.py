"""Every message there is, declared once, by conversation.

Questions are imperatives, answers participles that carry the same reqid.  Numbers are grouped by
conversation.  docs/imsg.md is printed from this file; tests/frozen/messages.txt repeats it, so that a
change of the wire format is a line somebody reviewed.
"""

import enum
from typing import Annotated

from msgspec import Meta

from pysmtpd.base.envelope import U8, U32, U64, Agent, Envelope, Name, Schedule, Time
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.procs import CHILDREN, Proc
from pysmtpd.imsg import BODY_MAX, CHUNK_MAX, Message, declare

PARENT, CONF, CONTROL, LKA = Proc.PARENT, Proc.CONF, Proc.CONTROL, Proc.LKA
QUEUE, SCHEDULER, SMTP, MTA, MDA = Proc.QUEUE, Proc.SCHEDULER, Proc.SMTP, Proc.MTA, Proc.MDA
WORKER, CLIENT, AUTH, HOME = Proc.WORKER, Proc.CLIENT, Proc.AUTH, Proc.HOME

Chunk = Annotated[bytes, Meta(max_length=CHUNK_MAX)]
Text = Annotated[str, Meta(max_length=1024)]
Bytes = Annotated[bytes, Meta(max_length=2048)]
Ids = Annotated[list[U64], Meta(max_length=1024)]
SEALED_MAX = BODY_MAX - 2048       # what one envelope may have, with an error to be added later
Sealed = Annotated[bytes, Meta(max_length=SEALED_MAX)]  # envelopes, see base/seal.py
PKI_MAX = 128                      # certificates that are told of
CARRIED_MAX = 16 * 1024             # octets of a body that comes along with its envelope
Port = Annotated[int, Meta(ge=0, le=65535)]

# --- parent and conf set a process up -------------------------------------------------------------


@declare(0x01, *(PARENT >> child for child in (*CHILDREN, CONF)), fd=True)
class SetupPeer(Message):
    """The socket to another process."""

    proc: Name
    index: U8


@declare(0x02, *(CONF >> child for child in (PARENT, *CHILDREN)), bulk=True)
class ConfView(Message):
    """A piece of the receiver's view of the configuration."""

    chunk: Chunk
    last: bool


@declare(0x03, PARENT >> SMTP, fd=True)
class SetupListener(Message):
    """A bound and listening socket, for one of the configured listeners."""

    index: U32


@declare(0x04, PARENT >> CONTROL, fd=True)
class SetupControlSocket(Message):
    """The bound and listening control socket."""


@declare(0x05, PARENT >> SMTP, PARENT >> MTA, fd=True)
class SetupFile(Message):
    """A certificate, key or CA file of the configuration, opened and checked, not read."""

    kind: Name                     # cert, key or ca
    name: Name                     # of the pki or ca


@declare(0x0C, PARENT >> SMTP, PARENT >> MTA)
class RenewFiles(Message):
    """The files that came since are what stands on disk now: use them, or keep what is in use and say why."""


@declare(0x06, *(PARENT >> child for child in (*CHILDREN, CONF)))
class SetupDone(Message):
    """Nothing more comes: enter the jail."""

    verbose: U32                   # trace bits
    paused: list[Name]             # of smtp, mta, mda: what starts paused


@declare(0x07, *(child >> PARENT for child in CHILDREN))
class SetupReady(Message):
    """In the jail, and at work."""


@declare(0x08, CONF >> PARENT)
class ConfDone(Message):
    """The configuration is valid and every view was handed over."""


@declare(0x09, *(child >> PARENT for child in CHILDREN))
class LogReopen(Message):
    """The syslog socket went away, or the file of the log."""


@declare(0x0A, *(PARENT >> child for child in CHILDREN), fd=True)
class LogSocket(Message):
    """Where the log goes from now on: a socket to syslog, or a file."""


@declare(0x0B, *(PARENT >> child for child in CHILDREN))
class Shutdown(Message):
    """Finish what is in hand and leave.  Sent to one process after the other, queue last."""


@declare(0x0D, SMTP >> CONTROL)
class Certificates(Message):
    """When the certificates in use expire, by the name of their pki: for show status."""

    expiries: Annotated[list[tuple[Name, Time]], Meta(max_length=PKI_MAX)]


# --- smtp asks lka: who is there, and where does this recipient go -----------------------------------


@declare(0x20, SMTP >> LKA)
class SmtpLookupName(Message):
    """The name of a client, confirmed by a forward look-up."""

    reqid: U64
    address: Name                  # 192.0.2.1 or 2001:db8::1


class Fcrdns(enum.IntEnum):
    """Whether a client's name leads back to its address."""

    FAIL = 0
    PASS = 1
    ERROR = 2


@declare(0x21, LKA >> SMTP)
class NameLookedUp(Message):
    """hostname is <unknown> when there is none."""

    reqid: U64
    hostname: Name
    fcrdns: Fcrdns


@declare(0x22, SMTP >> LKA, QUEUE >> LKA)
class ExpandRcpt(Message):
    """Where a recipient goes.  envelope says all the rules may ask; dest is the recipient, and evpid the number
    that the first envelope is to have."""

    reqid: U64
    envelope: Envelope
    tls: bool
    local: bool                    # from the socket, or a bounce: counts as this machine


@declare(0x23, LKA >> SMTP, LKA >> QUEUE)
class RcptExpanded(Message):
    """The envelopes of a recipient, numbered one after the other and sealed, or the reply that refuses it.

    With ``more`` another RcptExpanded of this reqid follows.  reply is empty when it is accepted; otherwise
    a reply without the recipient, e.g. ``550 Invalid recipient``, or one that is whole as it is.
    """

    reqid: U64
    sealed: Sealed
    count: U32                     # of envelopes in it
    reply: Text
    why: Text                      # for the log: the rule, the table, the error
    more: bool = False
    whole: bool = False            # the administrator's own reply: the recipient is not put behind it


@declare(0x24, LKA >> QUEUE)
class SealKey(Message):
    """The key of all seals, made at the start: nobody else knows it."""

    key: Annotated[bytes, Meta(max_length=64)]

    def __repr__(self) -> str:
        return "SealKey(...)"


# --- smtp asks lka: who does this client say it is, and may it ------------------------------------------

class Found(enum.IntEnum):
    """How a look-up ended."""

    YES = 0
    NO = 1
    TEMPFAIL = 2


Sasl = Annotated[bytes, Meta(max_length=12288)]   # RFC 4954 4


@declare(0x25, SMTP >> LKA)
class SmtpLookup(Message):
    """Something about an address, from a table that the configuration names."""

    reqid: U64
    service: Name                  # netaddr, addrname
    table: Name
    key: Name


@declare(0x26, LKA >> SMTP)
class SmtpLookedUp(Message):
    """YES: the table has it, and this is its value, if it has one."""

    reqid: U64
    found: Found
    value: Name


@declare(0x28, SMTP >> LKA)
class SmtpAuth(Message):
    """An AUTH begins; its credentials are what follows, or already here.  lka answers each of these and each
    SmtpAuthResponse by an AuthChallenge or an AuthDone."""

    reqid: U64
    listener: U32                  # which of the configuration's
    mechanism: Name
    has_initial: bool              # something came with the command:
    initial: Sasl
    address: Name                  # the client's
    identities: Annotated[list[Name], Meta(max_length=16)]  # the names in its verified certificate

    def __repr__(self) -> str:
        return f"SmtpAuth(reqid={self.reqid}, mechanism={self.mechanism}, ...)"


@declare(0x29, SMTP >> LKA)
class SmtpAuthResponse(Message):
    """The answer to an AuthChallenge."""

    reqid: U64
    data: Sasl

    def __repr__(self) -> str:
        return f"SmtpAuthResponse(reqid={self.reqid}, ...)"


@declare(0x2A, SMTP >> LKA)
class SmtpAuthCancel(Message):
    """Forget it; there is no answer."""

    reqid: U64


@declare(0x2B, LKA >> SMTP)
class AuthChallenge(Message):
    """Ask the client this."""

    reqid: U64
    data: Sasl


class AuthResult(enum.IntEnum):
    """How an AUTH ended."""

    OK = 0
    PERMFAIL = 1
    TEMPFAIL = 2
    MALFORMED = 3


@declare(0x2C, LKA >> SMTP)
class AuthDone(Message):
    """user is who the client is, or said it was; empty where it did not come to that."""

    reqid: U64
    result: AuthResult
    user: Name


@declare(0x2D, LKA >> SMTP)
class AuthMechanisms(Message):
    """What a listener can offer, from now on."""

    listener: U32
    names: Annotated[list[Name], Meta(max_length=32)]


@declare(0x2E, SMTP >> LKA)
class SmtpCheckSender(Message):
    """Whether a user may send as this."""

    reqid: U64
    table: Name
    user: Name
    sender: MailAddr


@declare(0x2F, LKA >> SMTP)
class SenderChecked(Message):
    """YES: it may."""

    reqid: U64
    found: Found


# --- lka, the child that checks a system user's password, and the parent that starts it -----------------


@declare(0x30, LKA >> PARENT)
class AuthStart(Message):
    """Start one.  The parent refuses when no listener authenticates system users."""

    reqid: U64


@declare(0x31, PARENT >> LKA, fd=True)
class AuthStarted(Message):
    """The socket to it."""

    reqid: U64


@declare(0x32, PARENT >> LKA)
class AuthRefused(Message):
    """There is none."""

    reqid: U64
    text: Text


@declare(0x33, LKA >> AUTH)
class AuthAsk(Message):
    """Whether it is the password."""

    reqid: U64
    user: Name
    password: Annotated[str, Meta(max_length=2047)]
    address: Name                  # the client's

    def __repr__(self) -> str:
        return f"AuthAsk(reqid={self.reqid}, user={self.user!r}, ...)"


@declare(0x34, AUTH >> LKA)
class AuthAnswered(Message):
    """OK, PERMFAIL or TEMPFAIL."""

    reqid: U64
    result: AuthResult


# --- smtp asks queue to make a message durable, with all its envelopes, in one step ------------------


@declare(0x40, SMTP >> QUEUE)
class SmtpMsgidsAsk(Message):
    """More message ids, please."""


@declare(0x41, QUEUE >> SMTP)
class SmtpMsgids(Message):
    """count ids from first on are this smtp process's."""

    first: U32
    count: U32


@declare(0x44, SMTP >> QUEUE)
class SmtpEnvelopes(Message):
    """As many as needed, in the order of their numbers, as lka sealed them."""

    reqid: U64
    sealed: Annotated[list[Sealed], Meta(max_length=1000)]


@declare(0x45, SMTP >> QUEUE, bulk=True)
class SmtpBody(Message):
    """A piece of the message as it came, lines ending in CRLF unless it is binary.  At most BODY_WINDOW octets beyond
    those that BodyCredit gave back may be on their way."""

    reqid: U64
    chunk: Chunk


@declare(0x46, SMTP >> QUEUE)
class SmtpMessageCommit(Message):
    """Make it durable.  Refused when counts or size do not match what arrived."""

    reqid: U64
    msgid: U32
    envelope_count: U32
    size: U64
    binary: bool = False           # it has bare CR, bare LF or NUL (RFC 3030 3)
    utf8_header: bool = False      # its header is for those with SMTPUTF8 only


@declare(0x47, QUEUE >> SMTP)
class SmtpMessageCommitted(Message):
    """ok: on stable storage.  Not ok: nothing of it is; full: because the disk has no room for it."""

    reqid: U64
    ok: bool
    full: bool = False


@declare(0x48, SMTP >> QUEUE)
class SmtpMessageRollback(Message):
    """Forget what arrived under this reqid."""

    reqid: U64


@declare(0x49, QUEUE >> SMTP, MTA >> QUEUE, MDA >> QUEUE, WORKER >> MDA)
class BodyCredit(Message):
    """size octets of a body were consumed; as many more may be sent."""

    reqid: U64
    size: U32


@declare(0x4A, SMTP >> QUEUE, bulk=True)
class SmtpMessage(Message):
    """All of a message in one frame, if it fits, and the wish to have it made durable: answered as its commit is."""

    reqid: U64
    msgid: U32
    sealed: Annotated[list[Sealed], Meta(max_length=1000)]
    body: Chunk


BODY_WINDOW = 4 * CHUNK_MAX        # octets of one body on their way without credit

# --- queue and scheduler: what is due ------------------------------------------------------------


@declare(0x60, QUEUE >> SCHEDULER)
class QueueEnvelopes(Message):
    """New, or changed, and durable.  The scheduler may forget what is due late: it can fetch it again."""

    schedules: Annotated[list[Schedule], Meta(max_length=256)]


@declare(0x61, SCHEDULER >> QUEUE)
class SchedFetch(Message):
    """The next envelopes of one agent in the order (due, evpid), after this one and not after ``until``.

    One agent at a time, so that a million due for the relay never keep those of local delivery waiting.
    """

    reqid: U64
    agent: Agent
    after_due: Time
    after_evpid: U64
    until: Time
    limit: U32


@declare(0x62, QUEUE >> SCHEDULER)
class SchedFetched(Message):
    """more: the limit was reached, or the frame full."""

    reqid: U64
    schedules: Annotated[list[Schedule], Meta(max_length=256)]
    more: bool


@declare(0x63, SCHEDULER >> QUEUE)
class SchedDispatch(Message):
    """Hand these to their agents."""

    evpids: Ids


@declare(0x64, SCHEDULER >> QUEUE)
class SchedExpire(Message):
    """Too old: bounce and delete."""

    evpids: Ids


@declare(0x65, SCHEDULER >> QUEUE)
class SchedRetry(Message):
    """A delivery failed for now: try again at due; with delay > 0 tell the sender that it took so long.

    Answered by QueueEnvelopes once that is durable, or by QueueDone when the envelope is gone.
    """

    evpid: U64
    retry: U32
    due: Time
    delay: U32


@declare(0x66, QUEUE >> SCHEDULER)
class QueueDone(Message):
    """These are gone: delivered, failed for good, removed, or not to be found."""

    evpids: Ids
    result: U8                     # Outcome, or 0 for removed


@declare(0x67, QUEUE >> SCHEDULER)
class QueueTempfail(Message):
    """It failed for now; retry counts this attempt not yet."""

    schedule: Schedule


@declare(0x68, QUEUE >> SCHEDULER)
class QueueHold(Message):
    """The agent has enough for holdq: keep it until QueueRelease."""

    evpid: U64
    holdq: U64


@declare(0x69, QUEUE >> SCHEDULER)
class QueueRelease(Message):
    """count of holdq may go: 0 is all, -1 is all, to be tried again at their normal time."""

    holdq: U64
    count: int


# --- queue and the agents: delivery ---------------------------------------------------------------


class Outcome(enum.IntEnum):
    """How a delivery ended."""

    OK = 1
    TEMPFAIL = 2
    PERMFAIL = 3
    LOOP = 4


@declare(0x80, QUEUE >> MTA, QUEUE >> MDA, bulk=True)
class QueueDeliver(Message):
    """Deliver this.  A small body comes along, as long as not too many are on their way; otherwise it is opened."""

    envelope: Envelope
    size: U64                      # of the body in octets
    has_8bit: bool                 # whether the body has octets above 127
    body: Annotated[bytes, Meta(max_length=CARRIED_MAX)] = b""  # all of it, or nothing
    binary: bool = False           # not all of it are lines that end in CRLF: nothing of it may be converted
    utf8_header: bool = False      # its header is for those with SMTPUTF8 only


@declare(0x81, MTA >> QUEUE, MDA >> QUEUE)
class BodyOpen(Message):
    """Send me the body."""

    reqid: U64
    msgid: U32


@declare(0x82, QUEUE >> MTA, QUEUE >> MDA, bulk=True)
class QueueBody(Message):
    """The next piece.  not ok: it cannot be read; nothing more comes."""

    reqid: U64
    chunk: Chunk
    last: bool
    ok: bool = True


@declare(0x83, MTA >> QUEUE, MDA >> QUEUE)
class BodyClose(Message):
    """No more of it, please."""

    reqid: U64


class Result(Message):
    """The end of one delivery attempt."""

    evpid: U64
    outcome: Outcome
    esc: Annotated[str, Meta(max_length=11)]
    text: Text                     # the remote reply, the command's last words
    dsn_relayed: bool = False      # the peer took over our NOTIFY duty (RFC 3461 5.2.1)
    remote: Name = ""              # the host whose reply text is, when it is one's


@declare(0x84, MTA >> QUEUE, MDA >> QUEUE)
class Delivered(Message):
    """How attempts ended."""

    results: Annotated[list[Result], Meta(max_length=256)]


@declare(0x85, MTA >> QUEUE, MDA >> QUEUE)
class DeliveryHold(Message):
    """Too much of the same: the scheduler should keep this one back, in this hold queue."""

    evpid: U64
    holdq: U64


@declare(0x86, MTA >> QUEUE, MDA >> QUEUE)
class DeliveryRelease(Message):
    """See QueueRelease."""

    holdq: U64
    count: int


@declare(0x88, QUEUE >> MTA, QUEUE >> MDA)
class QueueCancel(Message):
    """These were removed: what is not being sent yet shall not be."""

    evpids: Ids


@declare(0x87, MTA >> QUEUE)
class DeliverySchedule(Message):
    """Where these failed to be delivered somebody answers again: they are due now."""

    evpids: Ids


# --- mta asks lka: where to ---------------------------------------------------------------------


class HostList(enum.IntEnum):
    """How a look-up of a relay's hosts ended."""

    OK = 0
    TEMPFAIL = 1
    PERMFAIL = 2


class Host(Message):
    """One address to try."""

    preference: Annotated[int, Meta(ge=0, le=65535)]
    name: Name
    address: Name


@declare(0xA0, MTA >> LKA)
class MtaResolve(Message):
    """The hosts of a domain by MX, or the addresses of one host."""

    reqid: U64
    name: Name
    mx: bool


@declare(0xA1, LKA >> MTA)
class MtaResolved(Message):
    """Hosts by ascending preference; text says why there are none."""

    reqid: U64
    status: HostList
    hosts: Annotated[list[Host], Meta(max_length=128)]
    text: Text
    esc: Annotated[str, Meta(max_length=11)]


@declare(0xA2, MTA >> LKA)
class MtaLookup(Message):
    """Something from a table: a smarthost (key: domain, or empty to fetch the next), a source address
    (fetched), a HELO name (key: source address), credentials (key: label), a PTR name (key: address),
    a sender by SRS (table: the domain it gets, key: the sender)."""

    reqid: U64
    service: Name                  # relayhost, source, addrname, credentials, ptr, srs
    table: Name
    key: Name


@declare(0xA3, LKA >> MTA)
class MtaLookedUp(Message):
    """value: one per line of the service's syntax; of credentials it is a secret."""

    reqid: U64
    found: Found
    value: Text

    def __repr__(self) -> str:
        return f"MtaLookedUp(reqid={self.reqid}, found={self.found}, value=...)"


# --- mda, its workers, and the parent that starts them --------------------------------------------


class WorkerKind(enum.IntEnum):
    """What a worker may do at all."""

    USER = 1                       # everything, with the recipient's uid and gid
    MBOX = 2                       # mbox only, with the recipient's uid and the mail directory's gid


@declare(0xC0, MDA >> PARENT)
class MdaWorkerStart(Message):
    """Start a delivery worker.  The parent looks the user up itself, and refuses what no action of the
    configuration could ask for."""

    reqid: U64
    action: Name
    user: Name
    kind: WorkerKind


@declare(0xC1, PARENT >> MDA, fd=True)
class MdaWorkerStarted(Message):
    """The socket to it."""

    reqid: U64
    pid: U32
    home: Text                     # of the user it runs as


@declare(0xC2, PARENT >> MDA)
class MdaWorkerRefused(Message):
    """There is none; temporary says whether to try again."""

    reqid: U64
    temporary: bool
    text: Text


@declare(0xC3, PARENT >> MDA)
class MdaWorkerExited(Message):
    """A worker is gone; cause is what its end was, e.g. ``exited abnormally``."""

    reqid: U64
    cause: Text


@declare(0xC4, MDA >> PARENT)
class MdaWorkerStop(Message):
    """This worker was let go of and must end: it may be one that does not want to."""

    reqid: U64


FORWARD_MAX = 4096                 # octets of a .forward, and one more is too many


@declare(0xC5, LKA >> PARENT)
class ForwardOpen(Message):
    """Open the .forward of a user.  Who a user of the system is, and home and file, is judged again."""

    reqid: U64
    action: Name                   # that the recipient has come to
    user: Name
    uid: U32
    home: Text


class ForwardState(enum.IntEnum):
    """Why there is no descriptor."""

    NONE = 0                       # there is no such file
    TEMPORARY = 1
    REFUSED = 2                    # it is there, and may not be used


@declare(0xC6, HOME >> PARENT, PARENT >> LKA, fd=True)
class ForwardOpened(Message):
    """The checked file's first FORWARD_MAX octets, in a pipe: nothing but a pipe, so that no file system can make
    parent or lka wait."""

    reqid: U64


@declare(0xC7, HOME >> PARENT, PARENT >> LKA)
class ForwardMissing(Message):
    """There is none for lka."""

    reqid: U64
    state: ForwardState
    why: Text


@declare(0xCB, PARENT >> LKA)
class UserAsk(Message):
    """Who is this user of a userbase?"""

    reqid: U64
    table: Name
    user: Name


@declare(0xCC, LKA >> PARENT)
class UserTold(Message):
    """uid, gid and home are meant only when it was found."""

    reqid: U64
    found: Found
    uid: U32
    gid: U32
    home: Text


@declare(0xC8, MDA >> WORKER)
class WorkerDeliver(Message):
    """One delivery; the body follows in WorkerBody."""

    jobid: U64
    method: Name                   # mbox, maildir, mda or lmtp; file for /path of an expansion
    argument: Annotated[str, Meta(max_length=4096)]  # path, command or destination, expanded
    wrapper: Annotated[str, Meta(max_length=4096)]   # a command around any method but mda, expanded, or empty
    mbox_from: Text                # the sender for a From_ line
    lmtp_from: Text                # lmtp: MAIL FROM, empty for the null reverse-path
    lmtp_rcpt: Text                # lmtp: RCPT TO
    size: U64                      # octets of the body, and whether it has octets above 127
    has_8bit: bool
    junk: bool
    extension: Name
    environment: Annotated[list[tuple[Name, Text]], Meta(max_length=32)]
    timeout: U32                   # seconds
    binary: bool = False           # the body has bare CR, bare LF or NUL, and must not be converted


@declare(0xC9, MDA >> WORKER, bulk=True)
class WorkerBody(Message):
    """The next piece of the body, lines ending in CRLF unless it is binary."""

    jobid: U64
    chunk: Chunk
    last: bool
    abort: bool = False            # the rest cannot be had: undo


@declare(0xCA, WORKER >> MDA)
class WorkerDelivered(Message):
    """The end of a delivery.  text is a stranger's."""

    jobid: U64
    outcome: Outcome
    esc: Annotated[str, Meta(max_length=11)]
    text: Bytes


# --- lka and the parent: table programs ------------------------------------------------------------


@declare(0xD0, LKA >> PARENT)
class TableStart(Message):
    """Start the program of this table.  The parent knows which program that is; one that runs is ended first."""

    table: Name


@declare(0xD1, PARENT >> LKA, fd=True)
class TableStarted(Message):
    """A socket to it: its standard input and output, or where its standard error arrives."""

    table: Name
    errors: bool


@declare(0xD2, PARENT >> LKA)
class TableRefused(Message):
    """It was not started; text says why."""

    table: Name
    text: Text


@declare(0xD3, LKA >> PARENT)
class TableStop(Message):
    """Its program must end."""

    table: Name


# --- the parent, and who goes where one may hang -----------------------------------------------------


@declare(0xD8, PARENT >> HOME)
class HomeUser(Message):
    """Who is this user of the system?"""

    reqid: U64
    user: Name


@declare(0xD9, PARENT >> HOME)
class HomeMember(Message):
    """Does the system itself give this user this group?"""

    reqid: U64
    uid: U32
    gid: U32


@declare(0xDA, PARENT >> HOME)
class HomeMailbox(Message):
    """Make the mailbox of this user, unless there is one."""

    reqid: U64
    user: Name
    uid: U32


@declare(0xDB, PARENT >> HOME)
class HomeForward(Message):
    """Open the .forward in a home; user is empty when it is none of the system.  Answered by ForwardOpened or
    ForwardMissing."""

    reqid: U64
    user: Name
    uid: U32
    home: Text


@declare(0xDC, HOME >> PARENT)
class HomeTold(Message):
    """uid, gid and home of a user; the gid for dot-locks beside a mailbox, or 0; otherwise why not."""

    reqid: U64
    found: Found
    uid: U32
    gid: U32
    home: Text
    why: Text


# --- smtpctl, control, and the processes control asks -----------------------------------------------

Count = U32
CONTROLLED = (LKA, QUEUE, SCHEDULER, SMTP, MTA, MDA)


@declare(0xE0, CLIENT >> CONTROL, CONTROL >> SMTP)
class CtlSubmit(Message):
    """An SMTP session, please: any user may.  uid is the client's as control saw it."""

    reqid: U64
    uid: U32


@declare(0xE1, SMTP >> CONTROL, CONTROL >> CLIENT, fd=True)
class CtlSubmitReady(Message):
    """The client's end of the session."""

    reqid: U64


@declare(0xE2, CLIENT >> CONTROL, *(CONTROL >> proc for proc in (SMTP, SCHEDULER)))
class CtlPause(Message):
    """what: smtp, mta or mda.  resume undoes it."""

    reqid: U64
    what: Name
    resume: bool


@declare(0xE3, *(proc >> CONTROL for proc in CONTROLLED), CONTROL >> CLIENT)
class CtlDone(Message):
    """A command succeeded or failed; text says why, and may be empty."""

    reqid: U64
    ok: bool
    text: Text


class EnvelopeCommand(enum.IntEnum):
    """What may be done to envelopes."""

    SCHEDULE = 1
    REMOVE = 2
    PAUSE = 3
    RESUME = 4


@declare(0xE4, CLIENT >> CONTROL, CONTROL >> QUEUE)
class CtlEnvelopes(Message):
    """Do something to one envelope, to those of one message, or to all; exactly one of the ids is not 0."""

    reqid: U64
    command: EnvelopeCommand
    evpid: U64
    msgid: U32                     # evpid and msgid 0: all
    uid: U32                       # who asked, for the log; control fills it in


@declare(0xE5, QUEUE >> CONTROL, CONTROL >> CLIENT)
class CtlCounted(Message):
    """On how many envelopes it was done."""

    reqid: U64
    count: Count


@declare(0xE6, CLIENT >> CONTROL, CONTROL >> QUEUE)
class CtlShowQueue(Message):
    """The next page of envelopes in the order of their ids; msgid 0 is all messages."""

    reqid: U64
    msgid: U32
    after: U64


@declare(0xE7, QUEUE >> CONTROL)
class QueueListed(Message):
    """A page."""

    reqid: U64
    envelopes: Annotated[list[Envelope], Meta(max_length=64)]
    schedules: Annotated[list[Schedule], Meta(max_length=64)]
    more: bool


@declare(0xE8, CONTROL >> SCHEDULER)
class SchedStates(Message):
    """What is being done with these envelopes?"""

    reqid: U64
    evpids: Ids


class RunState(enum.IntEnum):
    """What the scheduler does with an envelope."""

    UNKNOWN = 0                    # not read ahead: due later than what the scheduler holds
    PENDING = 1
    INFLIGHT = 2
    HELD = 3


@declare(0xE9, SCHEDULER >> CONTROL)
class SchedStated(Message):
    """For each evpid asked: state, and since when (inflight) or until when (pending)."""

    reqid: U64
    states: Annotated[list[tuple[RunState, Time]], Meta(max_length=1024)]


class Listing(Message):
    """One line of show queue."""

    envelope: Envelope
    state: RunState
    time: Time
    suspended: bool


@declare(0xEA, CONTROL >> CLIENT)
class CtlQueueShown(Message):
    """A page; ask for the next after its last envelope while more."""

    reqid: U64
    listings: Annotated[list[Listing], Meta(max_length=64)]
    more: bool


@declare(0xEB, CLIENT >> CONTROL, CONTROL >> QUEUE)
class CtlShowEnvelope(Message):
    """One envelope as text."""

    reqid: U64
    evpid: U64


@declare(0xEC, CLIENT >> CONTROL, CONTROL >> QUEUE)
class CtlShowMessage(Message):
    """The message from this octet on."""

    reqid: U64
    msgid: U32
    offset: U64


@declare(0xED, QUEUE >> CONTROL, LKA >> CONTROL, MTA >> CONTROL, CONTROL >> CLIENT, bulk=True)
class CtlText(Message):
    """A piece of what was asked for; not found: there is no such thing."""

    reqid: U64
    chunk: Chunk
    last: bool
    found: bool = True


@declare(0xEE, CLIENT >> CONTROL, *(CONTROL >> proc for proc in CONTROLLED))
class CtlStats(Message):
    """Your counters, please."""

    reqid: U64


@declare(0xEF, *(proc >> CONTROL for proc in CONTROLLED), CONTROL >> CLIENT)
class CtlStatsTold(Message):
    """Keys of base.stats and their values."""

    reqid: U64
    values: Annotated[list[tuple[Name, U64]], Meta(max_length=512)]


@declare(0xF0, CLIENT >> CONTROL)
class CtlShowStatus(Message):
    """What is running, what is paused."""

    reqid: U64


@declare(0xF1, CONTROL >> CLIENT)
class CtlStatusShown(Message):
    """The names of what is paused, and when the certificates in use expire."""

    reqid: U64
    paused: Annotated[list[Name], Meta(max_length=8)]
    expiries: Annotated[list[tuple[Name, Time]], Meta(max_length=PKI_MAX)] = []


@declare(0xF2, CLIENT >> CONTROL, *(CONTROL >> proc for proc in CONTROLLED))
class CtlTrace(Message):
    """Set and clear trace bits, as base.trace numbers them."""

    reqid: U64
    on: U32
    off: U32


@declare(0xF3, CLIENT >> CONTROL, CONTROL >> LKA)
class CtlUpdateTable(Message):
    """Read a table again.  Answered by CtlDone; one that cannot be read keeps what it had, and text says why."""

    reqid: U64
    table: Name


@declare(0xF5, CLIENT >> CONTROL, CONTROL >> MTA)
class CtlShowMta(Message):
    """hosts, hoststats, relays or routes, from behind this many lines on; answered by CtlText."""

    reqid: U64
    what: Name
    after: U32


@declare(0xF6, CLIENT >> CONTROL, CONTROL >> MTA)
class CtlResumeRoute(Message):
    """A route that rests shall be tried again now; answered by CtlDone."""

    reqid: U64
    route: U64


@declare(0xF4, CLIENT >> CONTROL, CONTROL >> LKA)
class CtlExplain(Message):
    """What would RCPT say, and why?  Answered by CtlText: compressed JSON (zlib) of lookup.explained."""

    reqid: U64
    sender: Text
    rcpt: Text
    source: Name                   # local: this machine
    rdns: Name                     # empty: look it up
    helo: Name
    username: Name                 # empty: not authenticated
    tls: bool
    tag: Name


AGENTS: dict[Agent, Proc] = {Agent.MDA: MDA, Agent.MTA: MTA}
