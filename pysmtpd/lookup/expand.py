"""From a recipient to its envelopes.

An expansion is a tree: its root is the address of RCPT, and each node is replaced by what the rules and tables make
of it, breadth first, until only deliveries are left.  Every node remembers why it is there, so that the tree is its
own explanation.  One node that fails refuses the recipient.
"""

import enum
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from pysmtpd.base.envelope import Agent, Envelope
from pysmtpd.base.format import ADDRESSES, REPLY, ExpandError, Values, fill
from pysmtpd.base.format import parse as parse_format
from pysmtpd.base.mailaddr import MailAddr, split_tag
from pysmtpd.base.reply import REPLY_MAX
from pysmtpd.base.struct import replace
from pysmtpd.base.text import line_of
from pysmtpd.conf.config import Action, Config, Method, Rule
from pysmtpd.lookup.facts import Facts
from pysmtpd.lookup.memo import Memo
from pysmtpd.lookup.ruleset import Decision, Ruleset
from pysmtpd.lookup.table import Service, TableError, Tables

DEPTH_MAX = 10

INVALID_RECIPIENT = "550 Invalid recipient"
NOT_THIS_USER = "550 5.7.1 Delivery not authorized"
TEMPORARY = "451 Temporary failure"
EXPANSION_PERM = "524 5.2.4 Mailing list expansion problem"
EXPANSION_TEMP = "424 4.2.4 Mailing list expansion problem"

GETPWNAM = "<getpwnam>"
WHY_MAX = 1024


class Kind(enum.Enum):
    """What a node stands for."""

    ADDRESS = "address"
    USERNAME = "user"


class Node:
    """One step of an expansion."""

    __slots__ = ("action", "address", "children", "decision", "depth", "envelope", "error", "kind", "name", "parent",
                 "rule")

    def __init__(self, kind: Kind, name: str, address: MailAddr, parent: "Node | None") -> None:
        """name: of the user; address: the nearest address above, or this one."""
        self.kind = kind
        self.name = name
        self.address = address
        self.parent = parent
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.children: list[Node] = []
        self.rule: Rule | None = parent.rule if parent is not None else None
        self.action: Action | None = parent.action if parent is not None else None
        self.decision: Decision | None = None
        self.envelope: Envelope | None = None
        self.error = ""


class Refusal(Exception):
    """Why a recipient is not accepted: the reply, and the reason for the log.

    whole: the reply is the administrator's, and the recipient is not put behind it."""

    def __init__(self, reply: str, why: str, *, whole: bool = False) -> None:
        super().__init__(reply)
        self.reply = reply
        self.why = why
        self.whole = whole


class Expanded(NamedTuple):
    """The end of an expansion: envelopes, or a reply that refuses the recipient; whole: it is not named behind it."""

    envelopes: list[Envelope]
    reply: str
    why: str
    root: Node
    whole: bool = False


class Expander:
    """Expands recipients under one configuration."""

    def __init__(self, config: Config, ruleset: Ruleset, tables: Tables) -> None:
        self._actions: Mapping[str, Action] = config.actions
        self._ruleset = ruleset
        self._tables = tables
        self._delimiter = config.sub_addr_delim
        self._queue_ttl = config.queue_ttl
        self._only_user = config.user

    def expand(self, envelope: Envelope, *, tls: bool, local: bool, memo: Memo | None = None) -> Expanded:
        """The envelopes of a recipient (envelope.dest), which all else in envelope is copied to.

        Raises Pending when a slow table has to be asked first."""
        memo = memo if memo is not None else Memo()
        root = Node(Kind.ADDRESS, "", envelope.dest, None)
        work = deque([root])
        envelopes: list[Envelope] = []
        while work:
            node = work.popleft()
            try:
                self._step(node, envelope, tls, local, memo)
            except Refusal as refusal:
                node.error = line_of(refusal.why.encode(), WHY_MAX)
                return Expanded([], refusal.reply, node.error, root, refusal.whole)
            if node.envelope is not None:
                envelopes.append(node.envelope)
            work.extend(node.children)
        return Expanded(envelopes, "", "", root)

    def _step(self, node: Node, envelope: Envelope, tls: bool, local: bool, memo: Memo) -> None:
        """Replace a node by its children or its envelope."""
        if node.depth >= DEPTH_MAX:
            raise Refusal(EXPANSION_PERM, "expanded too deep")
        if node.kind is Kind.ADDRESS:
            self._address(node, envelope, tls, local, memo)
        else:
            self._username(node, envelope, memo)

    def _address(self, node: Node, envelope: Envelope, tls: bool, local: bool, memo: Memo) -> None:
        internal = node.parent is not None
        if internal:
            envelope = replace(envelope, dest=node.address)
        facts = Facts(envelope, tls=tls, local=local, internal=internal, memo=memo)
        decision = node.decision = self._ruleset.evaluate(facts)
        action = node.action = self._action(decision, envelope)
        node.rule = decision.rule
        if action.is_relay:
            node.envelope = self._envelope(node, envelope, action, Agent.MTA, "")
        else:
            node.children.append(Node(Kind.USERNAME, node.address.user.lower(), node.address, node))

    def _action(self, decision: Decision, envelope: Envelope) -> Action:
        rule = decision.rule
        if decision.error:
            raise Refusal(TEMPORARY, decision.error)
        if rule is None:
            raise Refusal(INVALID_RECIPIENT, "no rule matched")
        if not rule.action:
            why = f"rejected by the rule at {rule.at}"
            if rule.reply:
                raise Refusal(refusing_reply(rule.reply, envelope, self._delimiter), why, whole=True)
            raise Refusal(INVALID_RECIPIENT, why)
        action = self._actions.get(rule.action)
        if action is None:
            raise Refusal(TEMPORARY, f"the rule at {rule.at} names no action: {rule.action}")
        return action

    def _username(self, node: Node, envelope: Envelope, memo: Memo) -> None:
        action = node.action
        assert action is not None
        user = split_tag(node.name, self._delimiter)[0]
        self._check_user(user, action, memo)
        if action.method is Method.FORWARD_ONLY:
            raise Refusal(EXPANSION_TEMP, f"action {action.name} is forward-only, and {user} forwards nothing")
        if action.method is Method.EXPAND_ONLY:
            raise Refusal(EXPANSION_PERM, f"action {action.name} is expand-only, and {user} is a final user")
        node.name = user
        node.envelope = self._envelope(node, envelope, action, Agent.MDA, user)

    def _check_user(self, user: str, action: Action, memo: Memo) -> None:
        """There must be such a user; without root it must be ours, or the action must deliver as ours."""
        userbase = action.userbase or GETPWNAM
        try:
            known = user != "" and self._tables.lookup(userbase, Service.USERINFO, user, memo) is not None
        except TableError as error:
            raise Refusal(TEMPORARY, str(error)) from None
        if not known:
            raise Refusal(INVALID_RECIPIENT, f"no user {user or 'without a name'} in {userbase}")
        if self._only_user and (action.user or user) != self._only_user:
            raise Refusal(NOT_THIS_USER, f"the daemon runs without root, as {self._only_user}, and cannot deliver as "
                                         f"{action.user or user}")

    def _envelope(self, node: Node, envelope: Envelope, action: Action, agent: Agent, user: str) -> Envelope:
        return replace(envelope, agent=agent, action=action.name, dest=node.address, user=user, command="",
                       ttl=action.ttl or self._queue_ttl)


def refusing_reply(text: str, envelope: Envelope, delimiter: str) -> str:
    """The reply of a rule that rejects with a text of its own, in full."""
    values = Values(envelope.sender, envelope.rcpt, envelope.dest, delimiter=delimiter)
    try:
        return fill(parse_format(text, ADDRESSES, home=False), values, REPLY)[:REPLY_MAX]
    except ExpandError:
        # A range that this value is too short for: the code at least is the administrator's.
        return f"{text[:3]} Recipient refused"


def explain(node: Node, ruleset: Ruleset, indent: str = "") -> list[str]:
    """The tree below a node, one line a step, as ``-T expand`` shows it."""
    what = f"<{node.address}>" if node.kind is Kind.ADDRESS else node.name
    lines = [f"{indent}{node.kind.value} {what}"]
    if node.decision is not None:
        lines += [f"{indent}  {line}" for line in node.decision.trace(ruleset.rules)]
    if node.envelope is not None:
        lines.append(f"{indent}  deliver by {node.envelope.agent.name.lower()}, action {node.envelope.action}")
    if node.error:
        lines.append(f"{indent}  refused: {node.error}")
    for child in node.children:
        lines += explain(child, ruleset, indent + "  ")
    return lines
