"""Why a recipient is accepted or refused, as it is told: every rule tried, the tree of the expansion, each delivery.

Made by lookup.explain, printed by smtpctl; as JSON its field names are a promise.
"""

from collections.abc import Iterator

from pysmtpd.base.struct import Frozen


class Tried(Frozen):
    """A rule: where it stands, and the criterion that did not hold with what it was compared with; or that it
    matched, and what it does."""

    at: str
    matched: bool
    text: str


class Delivery(Frozen):
    """One envelope.  where: the mailbox, command or LMTP server; or each host a relay would try, and its TLS."""

    agent: str
    action: str
    user: str
    dest: str
    where: tuple[str, ...]


class Part(Frozen):
    """A node of the tree.  origin: the table and key, and the file and line where they stand."""

    kind: str
    name: str
    origin: str = ""
    rules: tuple[Tried, ...] = ()
    notes: tuple[str, ...] = ()
    refused: str = ""
    delivery: Delivery | None = None
    children: tuple["Part", ...] = ()


class Explained(Frozen):
    """The whole answer.  reply is what the client of the session reads."""

    client: str
    sender: str
    rcpt: str
    accepted: bool
    reply: str
    why: str
    problems: tuple[str, ...]
    tree: Part


def lines(explained: Explained) -> Iterator[str]:
    """It as text."""
    yield f"MAIL FROM:<{explained.sender}> RCPT TO:<{explained.rcpt}> from {explained.client}"
    yield f"reply: {explained.reply}"
    if explained.why:
        yield f"because: {explained.why}"
    for problem in explained.problems:
        yield f"left out: {problem}"
    yield ""
    yield from _part(explained.tree, "")


def _part(part: Part, indent: str) -> Iterator[str]:
    yield f"{indent}{part.kind} {part.name}" + (f"  ({part.origin})" if part.origin else "")
    indent += "  "
    for rule in part.rules:
        yield f"{indent}{rule.at}: {'matches' if rule.matched else 'does not match'}: {rule.text}"
    for note in part.notes:
        yield f"{indent}{note}"
    if part.refused:
        yield f"{indent}refused: {part.refused}"
    if part.delivery is not None:
        delivery = part.delivery
        as_whom = f" as {delivery.user}" if delivery.user else ""
        yield f"{indent}delivery by {delivery.agent}{as_whom}, action \"{delivery.action}\", to <{delivery.dest}>"
        for where in delivery.where:
            yield f"{indent}  {where}"
    for child in part.children:
        yield from _part(child, indent)
