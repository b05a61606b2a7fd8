"""The reserved words of smtpd.conf(5): unquoted they are never a name or a value.

The names of limits (``max-session``) and our own additions (``resolver``) are not reserved, so that no file of
OpenSMTPD's reads differently here.
"""

import re

_MACRO = re.compile(r"([A-Za-z0-9_]+)=(.*)", re.DOTALL)

RESERVED = frozenset({
    "action", "admd", "alias", "any", "auth", "auth-optional", "backup", "bounce", "bypass", "ca", "cert", "chain",
    "chroot", "ciphers", "commit", "compression", "connect", "data", "data-line", "dhe", "disconnect", "domain",
    "ehlo", "encryption", "expand-only", "fcrdns", "filter", "for", "forward-only", "from", "group", "helo",
    "helo-src", "host", "hostname", "hostnames", "include", "inet4", "inet6", "junk", "key", "limit", "listen",
    "lmtp", "local", "mail-from", "maildir", "mask-src", "masquerade", "match", "max-deferred", "max-message-size",
    "mbox", "mda", "mta", "mx", "no-dsn", "no-verify", "noop", "on", "phase", "pki", "port", "proc", "proc-exec",
    "protocols", "proxy-v2", "queue", "quit", "rcpt-to", "rdns", "received-auth", "recipient", "regex", "reject",
    "relay", "report", "rewrite", "rset", "scheduler", "senders", "smtp", "smtp-in", "smtp-out", "smtps", "socket",
    "src", "srs", "sub-addr-delim", "table", "tag", "tagged", "tls", "tls-require", "ttl", "user", "userbase",
    "verify", "virtual", "warn-interval", "wrapper",
})

# The first words of statements that only the language before 6.4 has; conf/classic.py reads them.
CLASSIC_STATEMENTS = frozenset({
    "accept", "bounce-warn", "ciphers", "curve", "enqueuer", "expire", "hostname", "limit", "map", "max-message-size",
    "max-mta-deferred", "reject", "size", "subaddressing-delimiter",
})
# What was reserved in 6.0, and not only by some versions before.
CLASSIC_RESERVED = frozenset({
    "accept", "alias", "any", "as", "auth", "auth-optional", "authenticated", "backup", "bounce-warn", "ca",
    "certificate", "ciphers", "compression", "deliver", "dhe", "domain", "encryption", "expire", "filter",
    "for", "forward-only", "from", "hostname", "hostnames", "include", "inet4", "inet6", "key", "limit", "listen",
    "lmtp", "local", "maildir", "mask-source", "masquerade", "max-message-size", "max-mta-deferred", "mbox", "mda",
    "mta", "no-dsn", "on", "pki", "port", "queue", "rcpt-to", "received-auth", "recipient", "reject", "relay",
    "scheduler", "sender", "senders", "session", "smtps", "socket", "source",
    "subaddressing-delimiter", "table", "tag", "tagged", "tls", "tls-require", "to", "userbase", "verify", "via",
    "virtual",
})
# Words that stood inside statements then.
CLASSIC_INSIDE: dict[str, str] = {
    "as": "user, of an action that delivers, or mail-from, of one that relays",
    "certificate": "cert",
    "deliver": "action NAME mbox, maildir, mda or lmtp, and then match ... action NAME",
    "via": "action NAME relay host",
    "mask-source": "mask-src",
    "hostnames-from": "hostnames",
    "tagged": "tag",
    "secure": "tls, and another listener with smtps",
    "sender": "mail-from",
    "recipient": "rcpt-to",
    "source": "src",
    "expire": "ttl, at the end of the action",
    "relay-to": "relay host",
    "dhparams": "dhe",
    "tls-optional": "tls",
}


def definition(text: str) -> tuple[str, str] | None:
    """Name and value of a macro given by -D; None for what could never be used as ``$name``.

    OpenSMTPD splits at the last ``=``, so that no value could hold one."""
    match = _MACRO.fullmatch(text)
    return (match[1], match[2]) if match else None
