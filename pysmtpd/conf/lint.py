"""Warnings: what is declared, and never used.  What rules can never do is lookup.reach's."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from pysmtpd.conf.diagnostic import Diagnostic, about
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
