"""An envelope: one recipient of one message, and all that is known of its delivery.

Times are whole seconds since the epoch.  The field order is the wire format between processes (see
tests/frozen/messages.txt); the spool has a column for each.
"""

import enum
from typing import Annotated

import msgspec

from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.struct import Wire
from pysmtpd.base.text import check_clean

NAME_MAX = 255
ERRORLINE_MAX = 1024
ENVID_MAX = 100
ORCPT_MAX = 500
AUTH_MAX = 500
COMMAND_MAX = 1024

U8 = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
U64 = Annotated[int, msgspec.Meta(ge=0)]  # MessagePack itself has no larger integer
Time = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_MAX)]


class Agent(enum.IntEnum):
    """Who delivers an envelope."""

    MDA = 1
    MTA = 2
    BOUNCE = 3


class BounceKind(enum.IntEnum):
    """What a bounce tells its reader."""

    NONE = 0
    FAILED = 1
    DELAYED = 2
    DELIVERED = 3
    EXPANDED = 4


class Flag(enum.IntEnum):
    """Facts about the session or the expansion that made the envelope."""

    AUTHENTICATED = 1
    INTERNAL = 2
    SMTPUTF8 = 4
    BODY_8BIT = 8


class Notify(enum.IntEnum):
    """NOTIFY= of RFC 3461 4.1; 0 is a recipient that gave none."""

    SUCCESS = 1
    FAILURE = 2
    DELAY = 4
    NEVER = 8


class Ret(enum.IntEnum):
    """RET= of RFC 3461 4.3."""

    NONE = 0
    HDRS = 1
    FULL = 2


class Envelope(Wire):
    """One recipient.  Raises ValueError when a text is unclean or too long."""

    evpid: U64                   # 0 until the queue's id is known
    agent: Agent
    action: Name                 # the name in smtpd.conf: looked up again at each delivery
    sender: MailAddr             # the reverse-path
    rcpt: MailAddr               # as the client gave it
    dest: MailAddr               # after expansion
    user: Name                   # whose delivery it is; empty for a relay
    command: Annotated[str, msgspec.Meta(max_length=COMMAND_MAX)]  # |command or /file of an expansion
    tag: Name
    smtpname: Name               # the name the listener greeted with
    helo: Name
    hostname: Name               # the client's name, or <unknown>
    username: Name               # as whom it authenticated
    source: Name                 # the client's address as logged, or local
    flags: U32                   # Flag
    ctime: Time
    ttl: U32                     # seconds; expires at ctime + ttl
    last_try: Time
    last_bounce: Time
    retry: U32                   # attempts that failed temporarily
    notify: U8                   # Notify
    ret: Ret
    envid: Annotated[str, msgspec.Meta(max_length=ENVID_MAX)]      # xtext, as given
    orcpt: Annotated[str, msgspec.Meta(max_length=ORCPT_MAX)]      # addr-type;xtext, as given
    errorline: Annotated[str, msgspec.Meta(max_length=ERRORLINE_MAX)]
    esc: Annotated[str, msgspec.Meta(max_length=11)]               # enhanced status code of errorline, or ""
    bounce: BounceKind
    bounce_delay: U32            # of a DELAYED bounce: seconds since ctime that it reports
    auth: Annotated[str, msgspec.Meta(max_length=AUTH_MAX)] = ""   # AUTH= of MAIL (RFC 4954 5): xtext, <>, or none
    remote: Name = ""            # the host whose reply errorline is, when it is one's
    subaddress: Name = ""        # of a local delivery: what stood behind the delimiter of whom it is for

    def __post_init__(self) -> None:
        # One search over all texts: they are many, short, and nearly always clean.
        check_clean(
            f"{self.action} {self.user} {self.command} {self.tag} {self.smtpname} {self.helo} {self.hostname} "
            f"{self.username} {self.source} {self.envid} {self.orcpt} {self.errorline} {self.esc} "
            f"{self.auth} {self.remote} {self.subaddress}",
            16384,
            "envelope",
        )

    @property
    def expire(self) -> int:
        return self.ctime + self.ttl


class Schedule(Wire):
    """What the scheduler has to know of an envelope."""

    evpid: U64
    agent: Agent
    due: Time                    # when to try next
    expire: Time
    ctime: Time
    retry: U32
    last_bounce: Time
    suspended: bool = False
