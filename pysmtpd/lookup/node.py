"""The tree of an expansion: what each step stands for, where it came from and what became of it.

Every node remembers why it is there, so that the tree is its own explanation.
"""

from typing import NamedTuple

from pysmtpd.base.envelope import Envelope
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.conf.config import Action, Rule
from pysmtpd.lookup.members import Kind
from pysmtpd.lookup.ruleset import Decision

INVALID_RECIPIENT = "550 Invalid recipient"
NOT_THIS_USER = "550 5.7.1 Delivery not authorized"
TEMPORARY = "451 Temporary failure"
ALIASES_DOWN = "451 4.3.0 Temporary failure"
EXPANSION_PERM = "524 5.2.4 Mailing list expansion problem"
EXPANSION_TEMP = "424 4.2.4 Mailing list expansion problem"


class Origin(NamedTuple):
    """What a node was read from: an entry of a table, or a file."""

    table: str = ""
    key: str = ""
    path: str = ""


class Node:
    """One step of an expansion."""

    __slots__ = ("action", "address", "children", "decision", "depth", "direct", "envelope", "error", "forwarded",
                 "home", "identity", "kind", "name", "note", "origin", "parent", "rule", "same", "tag", "uid")

    def __init__(self, kind: Kind, name: str, address: MailAddr, parent: "Node | None", *, direct: bool = False,
                 origin: Origin | None = None) -> None:
        """name: of the user, or the text of what it is; address: the nearest address above, or this one."""
        self.kind = kind
        self.name = name
        self.address = address
        self.parent = parent
        self.direct = direct
        self.origin = origin
        # A user that its own entry names again is that user, and not looked up another time.
        self.same = (parent is not None and kind is Kind.USERNAME and parent.kind is Kind.USERNAME
                     and parent.name == name)
        self.depth: int = 0 if parent is None else parent.depth + (parent.kind is not Kind.INCLUDE)
        self.children: list[Node] = []
        self.rule: Rule | None = parent.rule if parent is not None else None
        self.action: Action | None = parent.action if parent is not None else None
        self.decision: Decision | None = None
        self.envelope: Envelope | None = None
        self.uid: int | None = None    # of a user that exists
        self.home = ""
        self.tag = ""                  # its sub-address
        self.forwarded = False         # its .forward was asked for
        self.error = ""
        self.note = ""
        # Equal for nodes that would become the same.  As it came here: a name may lose its sub-address later.
        self.identity = self._identity()

    def _identity(self) -> tuple[object, ...]:
        action = self.action.name if self.action is not None and self.kind is not Kind.ADDRESS else ""
        owner = self.owner if self.kind in (Kind.COMMAND, Kind.FILE) else ""
        internal = self.parent is not None
        return (self.kind, self.name, self.address.user, self.address.domain.lower(), action, owner, self.direct,
                self.same, internal)

    @property
    def owner(self) -> str:
        """The user whose .forward a command or file stands in, or an empty string."""
        node = self.parent
        return node.name if node is not None and node.forwarded else ""

    def leads_to(self, identity: tuple[object, ...]) -> bool:
        """Whether this node or one above it is the same as what has that identity."""
        node: Node | None = self
        while node is not None:
            if node.identity == identity:
                return True
            node = node.parent
        return False


class Refusal(Exception):
    """Why a recipient is not accepted: the reply, and the reason for the log.

    alone: only when there is nobody else; a bad member of a list does not refuse the others.  whole: the reply is the
    administrator's, and the recipient is not put behind it."""

    def __init__(self, reply: str, why: str, *, alone: bool = False, whole: bool = False) -> None:
        super().__init__(reply)
        self.reply = reply
        self.why = why
        self.alone = alone
        self.whole = whole


class Expanded(NamedTuple):
    """The end of an expansion: envelopes, or a reply that refuses the recipient; whole: it is not named behind it.

    problems: what the log should know of members that were left out."""

    envelopes: list[Envelope]
    reply: str
    why: str
    root: Node
    whole: bool = False
    problems: tuple[str, ...] = ()
