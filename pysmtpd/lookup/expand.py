"""From a recipient to its envelopes.

An expansion is a tree: its root is the address of RCPT, and each node is replaced by what rules, aliases, virtual users
and .forward files make of it, breadth first, until only deliveries are left.  What a node becomes is a function of the
node and of what slow tables and files answered (lookup.memo), so that a step is simply run again when it lacked an
answer.  What fails for now refuses the recipient; a member of a list that fails for good leaves the others alone.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from pysmtpd.base.envelope import Agent, BounceKind, Envelope
from pysmtpd.base.format import ADDRESSES, REPLY, ExpandError, Values, fill
from pysmtpd.base.format import parse as parse_format
from pysmtpd.base.mailaddr import MailAddr, split_tag
from pysmtpd.base.reply import REPLY_MAX
from pysmtpd.base.srs import is_rewritten
from pysmtpd.base.struct import replace
from pysmtpd.base.text import line_of
from pysmtpd.conf.config import ALIAS_USER, Action, Config, Criterion, Method
from pysmtpd.lookup import forward, members, notices
from pysmtpd.lookup.facts import Facts
from pysmtpd.lookup.forward import FORWARD_NODES_MAX, Forward, Included, Opening, User
from pysmtpd.lookup.match import tagged
from pysmtpd.lookup.members import Kind, Members
from pysmtpd.lookup.memo import NEXT_TURN, Asked, Memo, Pending
from pysmtpd.lookup.node import (
    ALIASES_DOWN,
    EXPANSION_PERM,
    EXPANSION_TEMP,
    INVALID_RECIPIENT,
    NOT_THIS_USER,
    TEMPORARY,
    Expanded,
    Node,
    Origin,
    Refusal,
)
from pysmtpd.lookup.order import forms
from pysmtpd.lookup.ruleset import Decision, Ruleset
from pysmtpd.lookup.table import Service, TableError, Tables
from pysmtpd.lookup.userinfo import GETPWNAM, UserInfo, userinfo
from pysmtpd.messages import FORWARD_MAX

DEPTH_MAX = 10
NODES_MAX = 20_000                 # of one recipient
ASK_MAX = 500                      # questions of one recipient at the same time
OWNERS_TOLD_MAX = 50               # bad members of one recipient that owners of lists are told of
WHY_MAX = 1024                     # octets
SLICE = 25_000                     # rules of work, about 5 ms, before others have their turn
STEP_WORK = 100                    # what a node costs besides its rules, in rules
BAD_MEMBER_ESC = "5.1.1"


PARSED_AT_ONCE = 8192              # characters of a list; a longer one is read by a thread
PROBLEMS_MAX = 50                  # members of one recipient that are left out, told of one by one


class Listed(Collection[Node]):
    """The members of a list as nodes, each made when it is come to: they may be thousands."""

    def __init__(self, node: Node, read: Members, origin: Origin) -> None:
        self._node, self._read, self._origin = node, read, origin

    def __len__(self) -> int:
        return len(self._read.good) + len(self._read.bad)

    def __contains__(self, node: object) -> bool:
        return any(node is one for one in self)

    def __iter__(self) -> Iterator[Node]:
        node, origin = self._node, self._origin
        for member in self._read.good:
            address = member.address if member.address is not None else node.address
            yield Node(member.kind, member.text, address, node, direct=member.direct, origin=origin)
        for bad in self._read.bad:
            child = Node(Kind.BAD, bad.text[: members.SHOWN_MAX], node.address, node, origin=origin)
            child.error = str(bad)
            yield child


class Step(NamedTuple):
    """What a node becomes."""

    children: Collection[Node] = ()
    envelope: Envelope | None = None


class Expander:
    """Expands recipients under one configuration."""

    def __init__(self, config: Config, ruleset: Ruleset, tables: Tables,
                 forwards: Asked[User, Forward] | None = None,
                 includes: Asked[str, Included] | None = None, *, lists: Asked[str, Members] | None = None,
                 only_uid: int | None = None) -> None:
        """lists: reads long ones, while others are answered.
        only_uid: that of the one user whom a daemon without root delivers to (config.user)."""
        self.actions: Mapping[str, Action] = config.actions
        self.ruleset = ruleset
        self.tables = tables
        self.forwards = forwards
        self.includes = includes
        self.lists = lists
        self.delimiter = config.sub_addr_delim
        self.queue_ttl = config.queue_ttl
        self.only_user = config.user
        self.only_uid = only_uid
        # Has the recipient of a bounce to a rewritten sender replaced by whom that stands for.
        self.reverse: Callable[[Envelope], Envelope] | None = None

    def expansion(self, envelope: Envelope, *, tls: bool, local: bool) -> "Expansion":
        """Of a recipient (envelope.dest); all else in envelope is copied to its envelopes."""
        note = ""
        if self.reverse is not None and is_rewritten(envelope.dest.user):
            envelope, note = self._reversed(envelope, self.reverse)
        return Expansion(self, envelope, tls=tls, local=local, note=note)

    def _reversed(self, envelope: Envelope, reverse: Callable[[Envelope], Envelope]) -> tuple[Envelope, str]:
        if not envelope.sender.is_null:
            return envelope, "SRS: only mail from the null sender is taken back"
        found = reverse(envelope)
        if found.dest == envelope.dest:
            return found, "SRS: it is not ours, or too old"
        return found, f"SRS: <{envelope.dest}> stands for it"

    def expand(self, envelope: Envelope, *, tls: bool, local: bool, memo: Memo | None = None) -> Expanded:
        """Expand at once.  Raises Pending when something slow has to be asked first."""
        expansion = self.expansion(envelope, tls=tls, local=local)
        expansion.slice = math.inf
        return expansion.run(memo if memo is not None else Memo())


class Expansion:
    """One recipient on its way."""

    def __init__(self, expander: Expander, envelope: Envelope, *, tls: bool, local: bool, note: str = "") -> None:
        self._x = expander
        self._envelope = envelope
        self._tls = tls
        self._local = local
        self._root = Node(Kind.ADDRESS, str(envelope.dest), envelope.dest, None)
        self._root.note = note
        self.slice: float = SLICE
        self._work = 0
        self._level = [self._root]     # of which those in _todo have no step yet, and the first _applied are replaced
        self._todo = [self._root]
        self._applied = 0
        self._placing: Iterator[Node] | None = None   # the rest of the children of the next one to be replaced
        self._below: list[Node] = []
        self._failing: list[Criterion] = []
        self._steps: dict[Node, Step | Refusal] = {}
        self._seen = {self._root.identity}
        self._nodes = 1
        self._envelopes: dict[tuple[object, ...], Envelope] = {}
        self._failed: list[tuple[Node, Refusal]] = []
        self._loop = ""

    def run(self, memo: Memo) -> Expanded:
        """Go as far as the answers lead.  Raises Pending; run it again with those answers in memo."""
        try:
            while self._level:
                self._run_level(memo)
            return self._end(memo)
        except Refusal as refusal:
            return Expanded([], refusal.reply, line_of(refusal.why.encode(), WHY_MAX), self._root,
                            refusal.whole)

    def _run_level(self, memo: Memo) -> None:
        todo, self._todo = self._todo, []
        wanted: list[tuple[Asked[object, object], object]] = []
        for at, node in enumerate(todo):
            if len(wanted) >= ASK_MAX or self._work >= self.slice:
                self._todo += todo[at:]
                break
            try:
                self._steps[node] = self._step(node, memo)
            except Pending as pending:
                wanted += pending.wanted
                self._todo.append(node)
            except Refusal as refusal:
                # Of thousands of members each would keep the frames it came through.
                self._steps[node] = refusal.with_traceback(None)
            self._work += STEP_WORK
        if wanted or self._todo:
            self._work = 0
            raise Pending(wanted or [NEXT_TURN])
        self._apply_level()

    def _apply_level(self) -> None:
        while self._applied < len(self._level):
            self._let_others()
            node = self._level[self._applied]
            if self._placing is None:
                self._placing = iter(self._apply(node, self._steps.pop(node)))
            for child in self._placing:
                self._place(node, child)
                self._work += STEP_WORK // 4
                self._let_others()
            self._placing = None
            self._applied += 1
        self._level, self._below, self._applied = self._below, [], 0
        self._todo = self._level.copy()

    def _let_others(self) -> None:
        if self._work >= self.slice:
            self._work = 0
            raise Pending([NEXT_TURN])

    def _apply(self, node: Node, step: Step | Refusal) -> Collection[Node]:
        """Returns its children, which have to be placed yet."""
        self._work += STEP_WORK // 4
        if isinstance(step, Refusal):
            node.error = line_of(step.why.encode(), WHY_MAX)
            if not step.alone:
                raise step
            self._failed.append((node, step))
            return ()
        if step.envelope is not None:
            self._deliver(node, step.envelope)
        return step.children

    def _place(self, node: Node, child: Node) -> None:
        node.children.append(child)
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise Refusal(EXPANSION_TEMP, f"more than {NODES_MAX} members")
        identity = child.identity
        if identity not in self._seen:
            self._seen.add(identity)
            self._below.append(child)
        elif node.leads_to(identity):
            child.note = "loop: it led here itself"
            self._loop = f"loop: {child.kind.value} {child.name} leads to itself"
        else:
            child.note = "duplicate"

    def _deliver(self, node: Node, envelope: Envelope) -> None:
        dest = envelope.dest
        key = (envelope.agent, envelope.action, envelope.user, envelope.command, envelope.subaddress, dest.user,
               dest.domain.lower())
        if key in self._envelopes:
            node.note = "duplicate"
            return
        self._envelopes[key] = node.envelope = envelope

    def _end(self, memo: Memo) -> Expanded:
        envelopes = list(self._envelopes.values())
        if not envelopes:
            if self._failed:
                # Nobody is left: what may be mended in time is said before what is final.
                node, found = next((one for one in self._failed if one[1].reply.startswith("4")), self._failed[0])
                raise Refusal(found.reply, self._whose(node) + found.why, whole=found.whole)
            raise Refusal(EXPANSION_PERM, self._loop or "expanded to nothing")
        problems = tuple(f"member {node.name} of <{self._root.address}>: {node.error}"
                         for node, _ in self._failed[:PROBLEMS_MAX])
        if len(self._failed) > PROBLEMS_MAX:
            problems += (f"and {len(self._failed) - PROBLEMS_MAX} more members of <{self._root.address}>",)
        bounces = self._tell_owners(memo) if self._failed else []
        envelopes = notices.expanded(self._envelope, envelopes, self._x.queue_ttl)
        return Expanded(envelopes + bounces, "", "", self._root, False, problems)

    def _whose(self, node: Node) -> str:
        """The address that is refused, where it is not the recipient's own."""
        elsewhere = node.kind is Kind.ADDRESS and node.address != self._envelope.rcpt
        return f"<{node.address}>: " if elsewhere else ""

    def _tell_owners(self, memo: Memo) -> list[Envelope]:
        """Bounces to the owners of lists about members that nothing could be delivered to.  Nobody is told of mail
        that was a bounce itself."""
        if self._envelope.sender.is_null:
            return []
        return [self._bounce(owner, node) for node, _ in self._failed[:OWNERS_TOLD_MAX]
                if (owner := self._owner(node, memo)) is not None]

    def _owner(self, node: Node, memo: Memo) -> MailAddr | None:
        """owner-NAME of the list NAME that a node is a member of, when the same table has it."""
        listed: Node | None = node
        while listed is not None and (listed.origin is None or not listed.origin.table):
            listed = listed.parent
        if listed is None or listed.origin is None:
            return None
        table, key, _ = listed.origin
        name, _, domain = key.rpartition("@") if "@" in key else (key, "", "")
        if not name or name.startswith("owner-"):
            return None
        keys = [f"owner-{name}@{domain}", f"owner-{name}"] if domain else [f"owner-{name}"]
        try:
            found = self._x.tables.first(table, Service.ALIAS, keys, memo)
            return MailAddr(f"owner-{name}", domain or listed.address.domain) if found is not None else None
        except (TableError, ValueError):
            return None

    def _bounce(self, owner: MailAddr, node: Node) -> Envelope:
        dest = node.address if node.kind is Kind.ADDRESS else self._root.address
        return replace(self._envelope, agent=Agent.BOUNCE, bounce=BounceKind.FAILED, sender=owner, dest=dest, user="",
                       command="", action=node.action.name if node.action is not None else "", notify=0,
                       ttl=self._x.queue_ttl, esc=BAD_MEMBER_ESC,
                       errorline=line_of(f"member {node.name} of a list: {node.error}".encode(), WHY_MAX))

    # what a node becomes

    def _step(self, node: Node, memo: Memo) -> Step:
        """Raises Pending or Refusal."""
        if node.depth >= DEPTH_MAX:
            raise Refusal(EXPANSION_PERM, "expanded too deep", alone=True)
        if node.kind is Kind.ADDRESS:
            return self._address(node, memo)
        if node.kind is Kind.USERNAME:
            return self._username(node, memo)
        if node.kind is Kind.INCLUDE:
            return self._include(node, memo)
        if node.kind is Kind.BAD:
            raise Refusal(EXPANSION_TEMP, node.error or node.name, alone=True)
        assert node.action is not None
        if node.action.method is Method.FORWARD_ONLY:
            raise Refusal(TEMPORARY, f"action {node.action.name} is forward-only, and has a {node.kind.value}")
        if node.kind is Kind.ERROR:
            raise Refusal(line_of(node.name.encode(), WHY_MAX), f"refused by an error: {node.name}")
        return self._program(node, node.action)

    def _address(self, node: Node, memo: Memo) -> Step:
        internal = node.parent is not None
        envelope = replace(self._envelope, dest=node.address) if internal else self._envelope
        facts = Facts(envelope, tls=self._tls, local=self._local, internal=internal, memo=memo)
        decision = node.decision = self._decide(facts)
        action = node.action = self._action(decision, envelope)
        node.rule = decision.rule
        if action.is_relay:
            return Step(envelope=self._envelope_of(node, action, Agent.MTA, ""))
        if not action.virtual:
            return Step([Node(Kind.USERNAME, node.address.user.lower(), node.address, node)])
        children = self._from_table(node, action.virtual, self._virtual_keys(node.address), memo)
        if children is None:
            raise Refusal(EXPANSION_PERM, f"{node.address} is not in {action.virtual}", alone=True)
        return Step(children)

    def _decide(self, facts: Facts) -> Decision:
        decision = self._x.ruleset.evaluate(facts)
        self._work += len(decision.failed)
        if decision.failed == self._failing:
            # As for the member before it: a list of thousands would keep thousands of rules for each.
            return decision._replace(failed=self._failing)
        self._failing = decision.failed
        return decision

    def _virtual_keys(self, address: MailAddr) -> list[str]:
        """``user+tag@dom``, ``user@dom``, ``user+tag``, ``user``, ``@dom``, ``@``."""
        names, domain = tagged(address.user.lower(), self._x.delimiter), address.domain.lower()
        domains = forms(domain)
        keys = [f"{name}@{host}" for name in names for host in domains] + list(names)
        return [*keys, *(f"@{host}" for host in domains), "@"] if domain else keys

    def _action(self, decision: Decision, envelope: Envelope) -> Action:
        rule = decision.rule
        if decision.error:
            raise Refusal(TEMPORARY, decision.error)
        if rule is None:
            raise Refusal(INVALID_RECIPIENT, "no rule matched", alone=True)
        if not rule.action:
            why = f"rejected by the rule at {rule.at}"
            if rule.reply:
                reply = refusing_reply(rule.reply, envelope, self._x.delimiter)
                raise Refusal(reply, why, alone=not reply.startswith("4"), whole=True)
            raise Refusal(INVALID_RECIPIENT, why, alone=True)
        action = self._x.actions.get(rule.action)
        if action is None:
            raise Refusal(TEMPORARY, f"the rule at {rule.at} names no action: {rule.action}")
        return action

    def _username(self, node: Node, memo: Memo) -> Step:
        action = node.action
        assert action is not None
        user, _, tag = split_tag(node.name, self._x.delimiter)
        node.tag = tag or self._tag_kept(node)
        if not node.same and not node.direct:
            children = self._aliases(node, action, memo)
            if children:
                return Step(children)
        info = self._user(user, action, memo)
        node.uid, node.home = info.uid, info.home
        if not self._forwards(node, user, action):
            return self._final(node, user, action, "")
        return self._forward(node, user, info, action, memo)

    def _tag_kept(self, node: Node) -> str:
        """bob stays bob+tag where an entry of bob, or his .forward, names himself; not where one of bob+tag does."""
        user, tag = self._above(node)
        taken = node.origin is not None and split_tag(node.origin.key.partition("@")[0], self._x.delimiter)[1]
        return tag if user == node.name and not taken else ""

    def _above(self, node: Node) -> tuple[str, str]:
        """Whom a member stands for: user and sub-address."""
        above = node.parent
        while above is not None and above.kind is Kind.INCLUDE:
            above = above.parent
        if above is None:
            return "", ""
        name = above.name if above.kind is Kind.USERNAME else above.address.user.lower()
        user, _, tag = split_tag(name, self._x.delimiter)
        return user, tag or above.tag

    def _aliases(self, node: Node, action: Action, memo: Memo) -> Listed | None:
        if action.alias:
            return self._from_table(node, action.alias, list(tagged(node.name, self._x.delimiter)), memo)
        if action.virtual:
            names = tagged(node.name, self._x.delimiter)
            return self._from_table(node, action.virtual, [f"{name}@" for name in names] + list(names), memo)
        return None

    def _from_table(self, node: Node, table: str, keys: list[str], memo: Memo) -> Listed | None:
        """What the first of these keys leads to; None when the table has none of them."""
        try:
            found = self._x.tables.first(table, Service.ALIAS, keys, memo)
        except TableError as error:
            raise Refusal(ALIASES_DOWN, str(error)) from None
        if found is None:
            return None
        key, value = found
        if len(value) > PARSED_AT_ONCE and self._x.lists is not None:
            read = memo.recall(self._x.lists, value)
        else:
            read = members.parse(value)
        return Listed(node, read, Origin(table, key))

    def _user(self, user: str, action: Action, memo: Memo) -> UserInfo:
        """There must be such a user; without root it must be ours, or the action must deliver as ours."""
        userbase = action.userbase or GETPWNAM
        try:
            value = self._x.tables.lookup(userbase, Service.USERINFO, user, memo) if user else None
            info = userinfo(value, userbase, user) if value is not None else None
        except TableError as error:
            raise Refusal(TEMPORARY, str(error)) from None
        if info is None:
            raise Refusal(INVALID_RECIPIENT, f"no user {user or 'without a name'} in {userbase}", alone=True)
        if action.userbase and not action.bounds(info.uid, info.gid):
            raise Refusal(NOT_THIS_USER, f"{user} has {info.uid}:{info.gid} in {userbase}, and action {action.name} is "
                                         "for other ids", alone=True)
        return info

    def _forwards(self, node: Node, user: str, action: Action) -> bool:
        """Whether a user's .forward counts: not for who was named by it, nor where another user delivers."""
        if node.direct or (node.same and node.parent is not None and node.parent.forwarded):
            return False
        return not action.user or action.user == user

    def _forward(self, node: Node, user: str, info: UserInfo, action: Action, memo: Memo) -> Step:
        if self._x.forwards is None or not self._ours(user, info.uid):
            return self._final(node, user, action, "no .forward")
        found = memo.recall(self._x.forwards, User(action.name, user, info.uid, info.gid, info.home))
        path = f"{info.home}/.forward"
        if found.opening is Opening.TEMPORARY:
            raise Refusal(EXPANSION_TEMP, found.why)
        if found.opening is Opening.REFUSED:
            raise Refusal(EXPANSION_PERM, found.why, alone=True)
        if found.opening is Opening.NONE:
            return self._final(node, user, action, "no .forward")
        if len(found.content) >= FORWARD_MAX:
            raise Refusal(EXPANSION_TEMP, f"{path}: larger than {FORWARD_MAX - 1} octets")
        read = forward.read_forward(found.content)
        if read.bad:
            raise Refusal(EXPANSION_TEMP, f"{path}: {read.bad[0]}")
        if len(read.good) > FORWARD_NODES_MAX:
            raise Refusal(EXPANSION_TEMP, f"{path}: more than {FORWARD_NODES_MAX} members")
        if not read.good:
            return self._final(node, user, action, "an empty .forward")
        node.name = user
        node.forwarded = True
        return Step(Listed(node, read, Origin(path=path)))

    def _final(self, node: Node, user: str, action: Action, forwards: str) -> Step:
        """A delivery to a user, unless the action makes none."""
        if action.method is Method.FORWARD_ONLY:
            raise Refusal(EXPANSION_TEMP, f"action {action.name} is forward-only, and {user} has "
                                          f"{forwards or 'forwarded to itself'}")
        if action.method is Method.EXPAND_ONLY:
            raise Refusal(EXPANSION_PERM, f"action {action.name} is expand-only, and {user} is a final user",
                          alone=True)
        self._check_ours(action.user or user, None if action.user else node.uid)
        node.name = user
        return Step(envelope=self._envelope_of(node, action, Agent.MDA, user))

    def _check_ours(self, user: str, uid: int | None = None) -> None:
        if not self._ours(user, uid):
            raise Refusal(NOT_THIS_USER, f"the daemon runs without root, as {self._x.only_user}, and cannot deliver "
                                         f"as {user}", alone=True)

    def _ours(self, user: str, uid: int | None) -> bool:
        """Whether this daemon can deliver as a user at all; by a userbase its own user may have many names."""
        return not self._x.only_user or user == self._x.only_user or (uid is not None and uid == self._x.only_uid)

    def _program(self, node: Node, action: Action) -> Step:
        """A command or a file: run or written as whose .forward named it, else as a user without rights."""
        parent = node.parent
        assert parent is not None
        if parent.uid == 0:
            raise Refusal(TEMPORARY, f"a {node.kind.value} is not allowed in the .forward of root")
        user = node.owner or self._x.only_user or ALIAS_USER
        self._check_ours(action.user or user, parent.uid if node.owner else None)
        node.home = parent.home if node.owner else ""
        node.tag = self._above(node)[1]
        command = f"|{node.name}" if node.kind is Kind.COMMAND else node.name
        return Step(envelope=self._envelope_of(node, action, Agent.MDA, user, command))

    def _include(self, node: Node, memo: Memo) -> Step:
        if self._x.includes is None:
            raise Refusal(EXPANSION_TEMP, f"{node.name}: cannot be read here")
        found = memo.recall(self._x.includes, node.name)
        if found.why:
            raise Refusal(EXPANSION_TEMP, found.why)
        origin = node.origin or Origin()
        return Step(Listed(node, found.members, origin._replace(path=node.name)))

    def _envelope_of(self, node: Node, action: Action, agent: Agent, user: str, command: str = "") -> Envelope:
        return replace(self._envelope, agent=agent, action=action.name, dest=node.address, user=user, command=command,
                       subaddress=node.tag, ttl=action.ttl or self._x.queue_ttl)


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
    if node.note:
        lines.append(f"{indent}  {node.note}")
    for child in node.children:
        lines += explain(child, ruleset, indent + "  ")
    return lines
