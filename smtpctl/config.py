"""``smtpctl config``: what a configuration says, without a daemon and without root."""

import getopt
import json
import sys

from smtpctl.commands import Failure

USAGE = "usage: smtpctl config show [-jm] [-D macro=value] [-f file]"


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


class Options:
    """What the words behind the command ask for.  Raises Failure."""

    def __init__(self, words: list[str]) -> None:
        self.file = ""
        self.json = False
        self.masked = False
        self.macros: dict[str, str] = {}
        try:
            options, rest = getopt.getopt(words, "jmD:f:")
        except getopt.GetoptError as error:
            raise Failure(f"config show: {error}\n{USAGE}") from None
        if rest:
            raise Failure(f"config show: unexpected argument: {rest[0]}\n{USAGE}")
        for name, value in options:
            self._option(name, value)

    def _option(self, name: str, value: str) -> None:
        if name == "-f":
            self.file = value
        elif name == "-D":
            from pysmtpd.conf.words import definition

            found = definition(value)
            if found is None:
                raise Failure(f"config show: -D {value}: not macro=value\n{USAGE}")
            self.macros[found[0]] = found[1]
        elif name == "-j":
            self.json = True
        else:
            self.masked = True


def show(words: list[str]) -> int:
    """Print it; 1 when the file has errors, which go to standard error."""
    from pysmtpd.conf import canonical, printer
    from pysmtpd.conf.load import load
    from pysmtpd.privsep.source import SystemSource
    from pysmtpd.privsep.startup import StartError, find_config

    options = Options(words)
    try:
        path = find_config(options.file)
    except StartError as error:
        raise Failure(str(error)) from None
    loaded = load(path, SystemSource(network=False), options.macros)
    for told in [*loaded.errors, *loaded.unchecked]:
        print(told, file=sys.stderr)
    if loaded.config is None or loaded.incomplete:
        return 1
    config = canonical.masked(loaded.config) if options.masked else loaded.config
    if options.json:
        print(json.dumps(canonical.builtins(canonical.canonical(config)), indent=2, ensure_ascii=False))
    else:
        print(printer.text(config, path), end="")
    return 0
