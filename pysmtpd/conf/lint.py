"""Warnings: what is declared and never used, hosts that are none, listeners that clients will not get on with.  What
rules can never do is lookup.reach's."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pysmtpd.base import relay_url
from pysmtpd.base.netaddr import parse_network
from pysmtpd.conf.config import Position, Shape, Tls
from pysmtpd.conf.diagnostic import Diagnostic, about, shown
from pysmtpd.conf.draft import Draft

FALLBACK = "*"                     # the pki for names that no other has


def unused(draft: Draft, macros: AbstractSet[str]) -> Iterator[Diagnostic]:
    """macros: those that were used."""
    used = {("table", use.name) for use in draft.table_uses}
    used |= {(kind, name) for kind, name, _ in draft.references}
    # The tests of a file ask for actions, and use none.
    used -= {("action", one.text) for one, _ in draft.expectations}
    used |= {("action", rule.action) for rule in draft.rules}
    used |= {("proc", one.proc) for one in draft.filters.values()}
    for (kind, name), token in draft.declared.items():
        if (kind, name) not in used and (kind, name) != ("pki", FALLBACK):
            yield about(token, f'{kind} "{name}" is never used', warning=True)
    for name, token in draft.macro_tokens.items():
        if name not in macros:
            yield about(token, f"macro ${name} is never used", warning=True)


def values(draft: Draft) -> Iterator[Diagnostic]:
    """A value that stands alone, where the table of that name was probably meant."""
    for name, token, use in draft.table_uses:
        table = draft.tables.get(name)
        if table is None or not name.startswith("<dynamic:") or token.is_mark("{") or len(table.keys) != 1:
            continue
        named = draft.tables.get(table.keys[0])
        if named is not None and named.shape in use.shapes:
            yield about(token, f"this is one value; the table of that name is <{table.keys[0]}>", warning=True)


def hosts(draft: Draft) -> Iterator[Diagnostic]:
    """Relays whose hosts stand in the file, and of which some cannot be reached, or cannot be logged in to."""
    for action in draft.actions.values():
        table = draft.tables.get(action.host)
        if table is None or table.backend != "static" or not table.keys:
            continue
        found = []
        for text in table.keys:
            try:
                found.append(relay_url.parse(text))
            except ValueError as error:
                yield _warning(table.at, f"{shown(text)} is no host to relay to: {error}")
        labels = [one.label for one in found if one.label]
        if labels and not action.auth:
            yield _warning(table.at, f"the label {shown(labels[0])} is of no use: "
                                     f"action {shown(action.name)} has no auth table where to find it")
        if action.auth and found and not labels:
            yield _warning(table.at, f"auth of action {shown(action.name)} is of no use: the host has no label, "
                                     "such as smtp+tls://LABEL@mail.example.org")


def clients(draft: Draft) -> Iterator[Diagnostic]:
    """What stands in the file as the address of a client, and is none."""
    for rule in draft.rules:
        for criterion in rule.criteria:
            table = draft.tables.get(criterion.table)
            if criterion.kind != "from" or criterion.regex or table is None or table.backend != "static":
                continue
            for text in table.keys:
                if text.lower() != "local" and parse_network(text) is None:
                    yield _warning(table.at, f"no client has the address {shown(text)}: it is no address or network")


def listeners(draft: Draft) -> Iterator[Diagnostic]:
    """TLS that is not what the port is for (RFC 8314 3.3), and tables in which no user has a password."""
    for listen in draft.listens:
        port, tls = listen.fields.get("port"), listen.fields.get("tls", Tls.NO)
        token = listen.seen.get("port", listen.at)
        if port == 465 and tls is not Tls.SMTPS:
            yield about(token, "clients begin with TLS on port 465, and wait for ever here: it needs smtps",
                        warning=True)
        elif port in (25, 587) and tls is Tls.SMTPS:
            yield about(token, f"clients begin without TLS on port {port}: it needs tls or tls-require, not smtps",
                        warning=True)
        table = draft.tables.get(listen.fields.get("auth_table", ""))
        if table is not None and table.shape is Shape.LIST:
            title = "this table" if table.name.startswith("<") else f"table {shown(table.name)}"
            yield about(listen.seen.get("auth", listen.at), f"nobody can log in: {title} is a list, and not of users "
                        "with passwords", warning=True)


def _warning(at: Position, message: str) -> Diagnostic:
    return Diagnostic(at, message, warning=True)
