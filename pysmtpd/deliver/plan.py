"""What one delivery comes down to: who has to do it, and what that worker is told.

Pure: envelope and configuration go in, a WorkerDeliver comes out, or the verdict that there can be none.
"""

from typing import NamedTuple

from pysmtpd.base import format
from pysmtpd.base.envelope import Envelope
from pysmtpd.base.format import COMMAND, PATH, ExpandError, Values
from pysmtpd.conf.config import ALIAS_USER, Action, Method
from pysmtpd.deliver.command import INNER_COMMAND
from pysmtpd.deliver.verdict import permfail, tempfail
from pysmtpd.messages import WorkerDeliver, WorkerKind

TIMEOUT = 300                      # seconds for a delivery
DEFAULT_PATH = "/usr/bin:/bin"


class Identity(NamedTuple):
    """Which workers can do it."""

    user: str
    kind: WorkerKind
    userbase: str = ""             # the table that says who the user is; empty: the system does


def identity(envelope: Envelope, action: Action) -> Identity:
    """As whom.  mbox has a worker of its own kind, because it needs the mail directory's group, and may be root's."""
    plain = action.method is Method.MBOX and not action.wrapper and not envelope.command
    userbase = "" if action.user or envelope.user == ALIAS_USER else action.userbase
    return Identity(action.user or envelope.user, WorkerKind.MBOX if plain else WorkerKind.USER, userbase)


def environment(envelope: Envelope, home: str) -> list[tuple[str, str]]:
    """All that a command sees."""
    found = [
        ("PATH", DEFAULT_PATH), ("DOMAIN", envelope.rcpt.domain), ("HOME", home),
        ("ORIGINAL_RECIPIENT", str(envelope.rcpt)), ("RECIPIENT", str(envelope.dest)), ("SHELL", "/bin/sh"),
        ("LOCAL", envelope.rcpt.user), ("LOGNAME", envelope.user), ("USER", envelope.user),
        ("SENDER", str(envelope.sender)),
    ]
    tag = envelope.subaddress
    return [*found, ("EXTENSION", tag)] if tag else found


class Plan:
    """Makes a WorkerDeliver.  ``home`` is that of the user the worker is."""

    def __init__(self, envelope: Envelope, action: Action, wrappers: dict[str, str], home: str, delimiter: str) -> None:
        self._envelope = envelope
        self._action = action
        self._home = home
        self._delimiter = delimiter
        self._wrapper = wrappers.get(action.wrapper, "") if action.wrapper else ""
        own = not action.user or action.user == envelope.user
        self._values = Values(envelope.sender, envelope.rcpt, envelope.dest, envelope.user, home if own else None,
                              delimiter)

    def message(self, jobid: int, size: int, *, has_8bit: bool, binary: bool = False) -> WorkerDeliver:
        """Raises Failed."""
        if self._action.wrapper and not self._wrapper:
            raise tempfail("4.3.5", f"there is no wrapper {self._action.wrapper}")
        try:
            method, argument, wrapper = self._method()
        except ExpandError as error:
            text = f"mda command line could not be expanded: {error}"
            # What only the administrator can mend waits for him; what depends on the address never gets better.
            raise (tempfail("4.3.5", text) if error.config else permfail("5.3.0", text)) from None
        if binary and (wrapper or method in ("mbox", "file")):
            raise permfail("5.6.1", f"{'a wrapper' if wrapper else 'an mbox'} cannot take binary mail (BINARYMIME)")
        envelope, action = self._envelope, self._action
        return WorkerDeliver(
            jobid=jobid, method=method, argument=argument, wrapper=wrapper,
            mbox_from=format.mbox_from(envelope.sender), lmtp_from=str(envelope.sender),
            lmtp_rcpt=str(envelope.dest) if action.lmtp_rcpt_to else envelope.user,
            size=size, has_8bit=has_8bit, junk=action.junk, extension=envelope.subaddress,
            environment=environment(envelope, self._home), timeout=TIMEOUT, binary=binary,
        )

    def _method(self) -> tuple[str, str, str]:
        """Method, argument and wrapper."""
        command, action = self._envelope.command, self._action
        if command.startswith("|"):
            return self._command(command[1:])
        if command:
            return "file", format.expand(command, self._values, PATH), self._around()
        match action.method:
            case Method.MDA:
                return self._command(action.argument)
            case Method.MAILDIR | Method.LMTP:
                return action.method.value, format.expand(action.argument, self._values, PATH), self._around()
            case Method.MBOX:
                return "mbox", "", self._around()
        raise permfail("5.3.5", f"action {action.name} does not deliver")

    def _command(self, template: str) -> tuple[str, str, str]:
        command = format.expand(template, self._values, COMMAND)
        if self._wrapper:
            command = format.expand(self._wrapper, self._values._replace(mda=command), COMMAND)
        return "mda", command, ""

    def _around(self) -> str:
        """The wrapper around a method that is no command itself."""
        return format.expand(self._wrapper, self._values._replace(mda=INNER_COMMAND), COMMAND)


def check(action: Action, wrappers: dict[str, str]) -> str:
    """What is wrong with an action whatever the envelope, or an empty string."""
    null = format.SAMPLE._replace(directory=None if action.user else "/")
    try:
        if action.method in (Method.MAILDIR, Method.LMTP):
            format.expand(action.argument, null, PATH)
        if action.method is Method.MDA:
            format.expand(action.argument, null, COMMAND)
        if action.wrapper:
            format.expand(wrappers.get(action.wrapper, ""), null._replace(mda=":"), COMMAND)
    except ExpandError as error:
        return str(error) if error.config else ""
    return ""
