"""What smtpctl can do: one function per command, installed in OpenSMTPD's order."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from smtpctl.parser import Tree

if TYPE_CHECKING:
    from pysmtpd.imsg import Message
    from pysmtpd.messages import EnvelopeCommand, Listing
    from smtpctl.client import Control

EX_UNAVAILABLE = 69
EXPIRY_DAYS = 30                   # certificates that end sooner are shown

tree = Tree()
Connect = Callable[[], "Control"]


class Failure(Exception):
    """The command failed: what to say after the program's name, and the exit status."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status


class _NotYet:
    """A command of OpenSMTPD that is known but does not work yet."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _connect: Connect, *_arguments: object) -> int:
        raise Failure(f"{self._name}: not available yet", EX_UNAVAILABLE)


def is_later(action: Callable[..., int]) -> bool:
    """Whether a command does not work yet."""
    return isinstance(action, _NotYet)


def _later(*lines: str) -> None:
    """Some of them."""
    for line in lines:
        tree.install(line, _NotYet(" ".join(word for word in line.split() if not word.startswith("<"))))


def _result(answer: "Message") -> int:
    from pysmtpd.messages import CtlDone

    ok = isinstance(answer, CtlDone) and answer.ok
    print("command succeeded" if ok else "command failed")
    return 0 if ok else 1


# --- log, trace -----------------------------------------------------------------------------------

_later("discover <evpid>", "discover <msgid>", "pause mta from <addr> for <str>", "resume mta from <addr> for <str>",
       "show mta paused")


@tree.command("log brief")
def log_brief(connect: Connect) -> int:
    from pysmtpd.base.trace import ALL, Trace
    from pysmtpd.messages import CtlTrace

    return _result(connect().ask(CtlTrace(1, 0, int(ALL | Trace.DEBUG))))


@tree.command("log verbose")
def log_verbose(connect: Connect) -> int:
    from pysmtpd.base.trace import Trace
    from pysmtpd.messages import CtlTrace

    return _result(connect().ask(CtlTrace(1, int(Trace.DEBUG), 0)))


_later("monitor")

# --- pause, resume, remove, schedule ---------------------------------------------------------------


def _envelopes(command: str, done: str) -> Callable[..., int]:
    def act(connect: Connect, number: int = 0) -> int:
        from pysmtpd.messages import EnvelopeCommand

        return _on_envelopes(connect, EnvelopeCommand[command], done, number)

    return act


def _on_envelopes(connect: Connect, command: "EnvelopeCommand", done: str, number: int) -> int:
    """number is an evpid, a msgid, or 0 for all."""
    from pysmtpd.base.ids import MSGID_MAX
    from pysmtpd.messages import CtlCounted, CtlEnvelopes

    evpid, msgid = (number, 0) if number > MSGID_MAX else (0, number)
    answer = connect().ask(CtlEnvelopes(1, command, evpid, msgid, 0))
    if not isinstance(answer, CtlCounted):
        return _result(answer)
    print(f"{answer.count} envelope{'s' if answer.count > 1 else ''} {done}")
    return 0


def _pause(what: str, resume: bool) -> Callable[[Connect], int]:
    def act(connect: Connect) -> int:
        from pysmtpd.messages import CtlPause

        return _result(connect().ask(CtlPause(1, what, resume)))

    return act


for _line in ("<evpid>", "<msgid>", "all"):
    tree.install(f"pause envelope {_line}", _envelopes("PAUSE", "paused"))
for _line in ("mda", "mta", "smtp"):
    tree.install(f"pause {_line}", _pause(_line, False))
_later("profile <str>")
for _line in ("<evpid>", "<msgid>", "all"):
    tree.install(f"remove {_line}", _envelopes("REMOVE", "removed"))
for _line in ("<evpid>", "<msgid>", "all"):
    tree.install(f"resume envelope {_line}", _envelopes("RESUME", "resumed"))
for _line in ("mda", "mta"):
    tree.install(f"resume {_line}", _pause(_line, True))


@tree.command("resume route <routeid>")
def resume_route(connect: Connect, number: int) -> int:
    from pysmtpd.messages import CtlResumeRoute

    return _result(connect().ask(CtlResumeRoute(1, number)))


tree.install("resume smtp", _pause("smtp", True))
for _line in ("<msgid>", "<evpid>", "all"):
    tree.install(f"schedule {_line}", _envelopes("SCHEDULE", "scheduled"))

# --- show -----------------------------------------------------------------------------------------


@tree.command("show envelope <evpid>")
def show_envelope(connect: Connect, evpid: int) -> int:
    from pysmtpd.messages import CtlShowEnvelope, CtlText

    answer = connect().ask(CtlShowEnvelope(1, evpid))
    if not isinstance(answer, CtlText) or not answer.found:
        raise Failure(f"no such envelope: {evpid:016x}")
    _write(answer.chunk)
    return 0


def _show_mta(what: str) -> Callable[[Connect], int]:
    def show(connect: Connect) -> int:
        from pysmtpd.messages import CtlShowMta, CtlText

        control, after = connect(), 0
        while True:
            answer = control.ask(CtlShowMta(1, what, after))
            if not isinstance(answer, CtlText) or not answer.found:
                raise Failure("bad message type")
            _write(answer.chunk)
            if answer.last:
                return 0
            after += answer.chunk.count(b"\n")

    return show


tree.install("show hoststats", _show_mta("hoststats"))


@tree.command("show message <msgid>", "show message <evpid>")
def show_message(connect: Connect, number: int) -> int:
    from pysmtpd.base.ids import MSGID_MAX
    from pysmtpd.messages import CtlShowMessage, CtlText

    msgid = number >> 32 if number > MSGID_MAX else number
    control, offset = connect(), 0
    while True:
        answer = control.ask(CtlShowMessage(1, msgid, offset))
        if not isinstance(answer, CtlText) or not answer.found:
            raise Failure(f"no such message: {msgid:08x}")
        _write(answer.chunk)
        offset += len(answer.chunk)
        if answer.last:
            return 0
        if not answer.chunk:
            raise Failure("bad message: a piece without octets")


@tree.command("show queue", "show queue <msgid>")
def show_queue(connect: Connect, msgid: int = 0) -> int:
    from pysmtpd.messages import CtlQueueShown, CtlShowQueue

    control, after = connect(), 0
    while True:
        answer = control.ask(CtlShowQueue(1, msgid, after))
        if not isinstance(answer, CtlQueueShown):
            raise Failure("bad message type")
        now = int(time.time())
        for listing in answer.listings:
            print(queue_line(listing, now))
        if not answer.more or not answer.listings:
            return 0
        after = answer.listings[-1].envelope.evpid


def queue_line(listing: "Listing", now: int) -> str:
    """The 14 fields of an envelope in show queue."""
    from pysmtpd.base.envelope import Agent, Flag
    from pysmtpd.base.text import vis
    from pysmtpd.messages import RunState

    e, inflight = listing.envelope, listing.state is RunState.INFLIGHT
    facts = {
        "bounce": e.agent is Agent.BOUNCE,
        "auth": bool(e.flags & Flag.AUTHENTICATED),
        "internal": bool(e.flags & Flag.INTERNAL),
        "suspend": listing.suspended,
        "hold": listing.state is RunState.HELD,
    }
    source = "inet6" if ":" in e.source else "inet4" if e.source and e.source != "local" else "local"
    addresses = [f"{address.user}@{address.domain}" for address in (e.sender, e.rcpt, e.dest)]
    fields = [
        f"{e.evpid:016x}", source, e.agent.name.lower(), ",".join(name for name, true in facts.items() if true),
        *addresses, str(e.ctime), str(e.expire), str(e.last_try), str(e.retry),
        "inflight" if inflight else "pending", str(now - listing.time if inflight else listing.time - now),
        vis(e.errorline.encode()),
    ]
    return "|".join(fields)


for _line in ("hosts", "relays", "routes"):
    tree.install(f"show {_line}", _show_mta(_line))


@tree.command("show stats")
def show_stats(connect: Connect) -> int:
    from pysmtpd.messages import CtlStats, CtlStatsTold

    answer = connect().ask(CtlStats(1))
    if not isinstance(answer, CtlStatsTold):
        raise Failure("bad message type")
    for line in stats_lines(answer.values):
        print(line)
    return 0


def stats_lines(values: list[tuple[str, int]]) -> list[str]:
    """``key=value``, sorted by octets; uptime also for people."""
    from pysmtpd.base.logline import duration

    lines = []
    for key, value in sorted(values):
        lines.append(f"{key}={value}")
        if key == "uptime":
            lines.append(f"uptime.human={duration(value)}")
    return lines


@tree.command("show status")
def show_status(connect: Connect) -> int:
    from pysmtpd.messages import CtlShowStatus, CtlStatusShown

    answer = connect().ask(CtlShowStatus(1))
    if not isinstance(answer, CtlStatusShown):
        raise Failure("bad message type")
    for name in ("mda", "mta", "smtp"):
        print(f"{name.upper()} {'paused' if name in answer.paused else 'running'}")
    for line in expiry_lines(answer.expiries, int(time.time())):
        print(line)
    return 0


def expiry_lines(expiries: list[tuple[str, int]], now: int) -> list[str]:
    """One for each certificate that ends within the month, or has ended."""
    from pysmtpd.base.date import civil_date

    lines = []
    for name, expires in sorted(expiries):
        days = (expires - now) // 86400
        if days < 0:
            lines.append(f"certificate of pki {name} expired on {civil_date(expires)}")
        elif days < EXPIRY_DAYS:
            lines.append(f"certificate of pki {name} expires on {civil_date(expires)}, in {days} days")
    return lines


def _write(data: bytes) -> None:
    """Mail is bytes, whatever the terminal thinks."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


# --- trace ----------------------------------------------------------------------------------------


def _trace(connect: Connect, word: str, on: bool) -> int:
    from pysmtpd.base.trace import NAMES, SILENT
    from pysmtpd.messages import CtlTrace

    bits = NAMES.get(word)
    if bits is None:
        raise Failure(f"invalid trace keyword: {word}")
    if on and not bits & ~SILENT:
        raise Failure(f"nothing is traced yet under: {word}", EX_UNAVAILABLE)
    return _result(connect().ask(CtlTrace(1, int(bits) if on else 0, 0 if on else int(bits))))


@tree.command("trace <str>")
def trace(connect: Connect, word: str) -> int:
    return _trace(connect, word, True)


_later("unprofile <str>")


@tree.command("untrace <str>")
def untrace(connect: Connect, word: str) -> int:
    return _trace(connect, word, False)


# --- update ---------------------------------------------------------------------------------------


@tree.command("update table <str>")
def update_table(connect: Connect, name: str) -> int:
    from pysmtpd.messages import CtlUpdateTable

    return _result(connect().ask(CtlUpdateTable(1, name)))


_later("encrypt", "encrypt <str>", "spf walk")


# --- config, which is ours: no daemon is asked -------------------------------------------------------


@tree.command("config migrate <str>")
def config_migrate(_connect: Connect, path: str) -> int:
    from smtpctl import config

    return config.migrate(path)


@tree.command("config show ...")
def config_show(_connect: Connect, words: list[str]) -> int:
    from smtpctl import config

    return config.show(words)


@tree.command("explain ...")
def explain(connect: Connect, words: list[str]) -> int:
    from smtpctl import explain as explaining

    return explaining.main(connect, words)


tree.root.children["explain"].whole = True
