"""``smtpctl config``: what a configuration says, without a daemon and without root."""

import sys


def migrate(path: str) -> int:
    """Print a file of the language before OpenSMTPD 6.4 in today's.  0, or 1 when it cannot be read."""
    from pysmtpd.conf.migrate import migrate as migrated
    from pysmtpd.privsep.source import SystemSource

    found = migrated(path, SystemSource())
    for one in (*found.errors, *found.warnings):
        print(one, file=sys.stderr)
    if found.errors:
        return 1
    # What is not UTF-8, in a comment, goes out as it came in.
    sys.stdout.flush()
    sys.stdout.buffer.write(found.text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()
    return 0
