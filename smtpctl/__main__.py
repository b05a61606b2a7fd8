"""smtpctl, under each of its names: smtpctl, mailq, sendmail, send-mail, newaliases, makemap."""

import io
import os
import sys


def main() -> int:
    """The whole program; returns the exit status."""
    name = os.path.basename(sys.argv[0])
    if name in ("__main__.py", "-m", "-c"):
        name = "smtpctl"
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Addresses are UTF-8 whatever the terminal speaks.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        status = run(name, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def run(name: str, arguments: list[str]) -> int:
    """What the program does under this name."""
    if name in ("smtpctl", "mailq"):
        from smtpctl import command_line

        return command_line.smtpctl(name, arguments)
    if name in ("sendmail", "send-mail"):
        from smtpctl import enqueue

        return enqueue.main(name, arguments)
    if name == "makemap":
        from smtpctl import makemap

        return makemap.makemap(arguments)
    if name == "newaliases":
        from smtpctl import newaliases

        return newaliases.newaliases(arguments)
    print(f"{name}: unsupported mode", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
