"""What became of envelopes: one line of the log each, and one message to the queue for all of a turn."""

from pysmtpd.base import logline
from pysmtpd.base.envelope import Envelope
from pysmtpd.base.text import bounded
from pysmtpd.messages import Delivered, DeliverySchedule, Outcome, Result
from pysmtpd.relay.hoststat import HostStats
from pysmtpd.relay.shell import Shell

TEXT_MAX = 1000                    # octets
FRAME_MAX = 12288                  # octets of results in one message, so that a frame always holds it
COUNT_MAX = 256
IDS_MAX = 1024                     # in one DeliverySchedule
_WORDS = {Outcome.OK: "Ok", Outcome.TEMPFAIL: "TempFail", Outcome.PERMFAIL: "PermFail", Outcome.LOOP: "PermFail"}
_CLASSES = {Outcome.OK: "2", Outcome.TEMPFAIL: "4", Outcome.PERMFAIL: "5", Outcome.LOOP: "5"}


def status(outcome: Outcome, esc: str) -> str:
    """The enhanced status code of an outcome: the server's own, when it is of the right class."""
    kind = _CLASSES[outcome]
    return esc if esc[:1] == kind else f"{kind}.0.0"


class Results:
    """Those of this turn."""

    def __init__(self, shell: Shell, hosts: HostStats) -> None:
        self._shell = shell
        self._hosts = hosts
        self._all: list[Result] = []

    def add(self, envelope: Envelope, outcome: Outcome, esc: str, text: str, *, session: int = 0,
            source: str = "", relay: str = "", dsn_relayed: bool = False, remote: str = "",
            unreachable: bool = False) -> None:
        """``session`` is 0 when it never came to one; ``relay`` is then the domain.  ``remote``: who says so.
        ``unreachable``: there was no host to speak with."""
        now = self._shell.now()
        if len(text) > TEXT_MAX // 4:
            text = bounded(text.encode(), TEXT_MAX).decode()
        if not self._all:
            self._shell.soon(self.flush)
        self._all.append(Result(envelope.evpid, outcome, status(outcome, esc), text, dsn_relayed, remote))
        if session or unreachable:
            self._tell_hosts(envelope, outcome, text, now, unreachable=unreachable)
        dest, rcpt = str(envelope.dest), str(envelope.rcpt)
        self._shell.log(logline.MTA_DELIVERY.format(
            id=session, evpid=envelope.evpid, sender=envelope.sender, dest=dest, rcpt="-" if rcpt == dest else rcpt,
            source=logline.address_text(source) or "-", relay=relay,
            delay=logline.duration(now - envelope.ctime), result=_WORDS[outcome], stat=text,
        ))

    def _tell_hosts(self, envelope: Envelope, outcome: Outcome, text: str, now: int, *, unreachable: bool) -> None:
        domain = envelope.dest.domain
        if outcome is not Outcome.OK:
            self._hosts.failed(domain, envelope.evpid, text, now, unreachable=unreachable)
            return
        waiting = self._hosts.delivered(domain, envelope.evpid, text, now)
        for at in range(0, len(waiting), IDS_MAX):
            self._shell.tell_queue(DeliverySchedule(waiting[at : at + IDS_MAX]))

    def flush(self) -> None:
        """Tell the queue."""
        results, self._all = self._all, []
        batch: list[Result] = []
        size = 0
        for result in results:
            octets = len(result.text) * 4 + 32 if not result.text.isascii() else len(result.text) + 32
            if batch and (size + octets > FRAME_MAX or len(batch) >= COUNT_MAX):
                self._shell.tell_queue(Delivered(batch))
                batch, size = [], 0
            batch.append(result)
            size += octets
        if batch:
            self._shell.tell_queue(Delivered(batch))
