"""What tables are asked for, and how a question fails."""

import enum

from pysmtpd.lookup.memo import LookupFailed


class Service(enum.StrEnum):
    """What a table is asked for; it decides how keys are compared and what values mean (table(5))."""

    ALIAS = "alias"
    DOMAIN = "domain"
    CREDENTIALS = "credentials"
    NETADDR = "netaddr"
    USERINFO = "userinfo"
    SOURCE = "source"
    MAILADDR = "mailaddr"
    ADDRNAME = "addrname"
    MAILADDRMAP = "mailaddrmap"
    RELAYHOST = "relayhost"
    AUTH = "auth"
    STRING = "string"
    REGEX = "regex"


class TableError(LookupFailed):
    """A look-up that cannot be answered now; its text is for the log."""
