"""Trace bits: what -T and smtpctl trace name, in OpenSMTPD's words (smtpd(8))."""

import enum


class Trace(enum.IntEnum):
    """One bit for each subject; a set of them is an int (IntFlag would be a hundred times slower to test)."""

    DEBUG = 0x0001
    IMSG = 0x0002
    IO = 0x0004
    SMTP = 0x0008
    FILTERS = 0x0010
    MTA = 0x0020
    BOUNCE = 0x0040
    SCHEDULER = 0x0080
    LOOKUP = 0x0100
    STAT = 0x0200
    RULES = 0x0400
    MPROC = 0x0800
    EXPAND = 0x1000
    TABLES = 0x2000
    QUEUE = 0x4000


ALL = 0x7FFF & ~Trace.DEBUG

# Names that are OpenSMTPD's, and under which nothing of ours is told yet: whoever asks for them is told that.
SILENT = Trace.FILTERS | Trace.MTA | Trace.BOUNCE | Trace.TABLES

# -T takes the aliases of smtpd as well.
NAMES: dict[str, int] = {
    **{bit.name.lower(): int(bit) for bit in Trace if bit is not Trace.DEBUG},
    "transfer": Trace.MTA,
    "bounces": Trace.BOUNCE,
    "stats": Trace.STAT,
    "table": Trace.TABLES,
    "all": ALL,
}
