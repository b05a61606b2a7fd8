"""The command line of pysmtpd(8)."""

import getopt
import os
import sys

from pysmtpd import NAME, VERSION
from pysmtpd.base.trace import NAMES, Trace

USAGE = (
    "usage: pysmtpd [-dFhnv] [-D macro=value] [-f file] [-P system] [-T trace] [--state-dir directory]"
)
PAUSABLE = ("smtp", "mta", "mda")


class Arguments:
    """What the command line says; raises SystemExit for what it may not say."""

    def __init__(self, argv: list[str]) -> None:
        self.config = ""
        self.state_dir = ""
        self.macros: dict[str, str] = {}
        self.paused: list[str] = []
        self.traces = 0
        self.flags: set[str] = set()
        try:
            options, rest = getopt.getopt(argv, "dFhnvD:f:P:T:", ["state-dir="])
        except getopt.GetoptError as error:
            raise SystemExit(_usage(str(error))) from None
        if rest:
            raise SystemExit(_usage(f"unexpected argument: {rest[0]}"))
        for name, value in options:
            self._option(name, value)

    def _option(self, name: str, value: str) -> None:
        if name == "-f":
            self.config = value
        elif name == "--state-dir":
            if not value:
                # Of an unset variable, most likely: not a reason to work on the system's spool.
                raise SystemExit(_usage("--state-dir: empty"))
            self.state_dir = value
        elif name == "-D":
            self._macro(value)
        elif name == "-P":
            if value not in PAUSABLE:
                raise SystemExit(_usage(f"-P {value}: there is only {', '.join(PAUSABLE)}"))
            self.paused.append(value)
        elif name == "-T":
            self._trace(value)
        else:
            self.flags.add(name[1])

    def _macro(self, text: str) -> None:
        from pysmtpd.conf.words import definition

        found = definition(text)
        if found is None:
            print(f"warn: could not parse macro definition {text}", file=sys.stderr)
            return
        self.macros[found[0]] = found[1]

    def _trace(self, name: str) -> None:
        if name not in NAMES:
            raise SystemExit(_usage(f"-T {name}: unknown trace, there is {', '.join(sorted(NAMES))}"))
        self.traces |= NAMES[name] | Trace.DEBUG

    @property
    def verbose(self) -> int:
        return self.traces | (Trace.DEBUG if "v" in self.flags else 0)


def _usage(complaint: str) -> str:
    return f"pysmtpd: {complaint}\n{USAGE}"


def main() -> None:
    """Run the daemon, or check its configuration."""
    arguments = Arguments(sys.argv[1:])
    if "h" in arguments.flags:
        print(f"version: {NAME} {VERSION}\n{USAGE}", file=sys.stderr)
        raise SystemExit(1)
    # Only now: a wrong option should not cost an import of everything.
    from pysmtpd.privsep import lean  # noqa: F401, I001  (before all that could import asyncio)
    from pysmtpd import parent
    from pysmtpd.privsep import startup

    try:
        config = startup.find_config(arguments.config)
        if "n" in arguments.flags:
            raise SystemExit(_check(config, arguments))
        options = parent.Options(
            config=os.path.abspath(config), macros=arguments.macros, foreground=bool(arguments.flags & {"d", "F"}),
            stderr="d" in arguments.flags, verbose=arguments.verbose, paused=tuple(arguments.paused),
        )
        parent.main(options, arguments.state_dir, os.environ)
    except startup.StartError as error:
        raise SystemExit(f"pysmtpd: {error}") from None


def _check(config: str, arguments: Arguments) -> int:
    """-n: needs no root, no network and no spool."""
    from pysmtpd.readconf import Job, read

    user = ""
    if arguments.state_dir and os.geteuid() != 0:
        from pysmtpd.privsep import startup

        user = startup.identities(os.environ).user
    job = Job(path=config, macros=arguments.macros, user=user, state_dir=arguments.state_dir,
              verbose="v" in arguments.flags)
    if read(job) is None:
        return 1
    print("configuration OK", file=sys.stderr)
    return 0


if __name__ == "__main__":
    main()
