"""The short-lived children that check a password of a system user, for the parent: it never sees the password."""

import signal

from pysmtpd.conf.config import Config
from pysmtpd.messages import AuthRefused, AuthStart, AuthStarted
from pysmtpd.privsep import spawn
from pysmtpd.privsep.mproc import Peer, pair, refuse_descriptors

AT_ONCE = 8


class PasswordChecks:
    """Those that run."""

    def __init__(self) -> None:
        self.running: set[int] = set()

    def start(self, config: Config, peer: Peer, ask: AuthStart) -> None:
        """lka asks for one, and gets its socket."""
        refused = self._judge(config)
        if refused:
            peer.send(AuthRefused(ask.reqid, refused))
            return
        mine, theirs = pair()
        refuse_descriptors(mine)
        try:
            self.running.add(spawn.spawn("pysmtpd.lookup.system_users", [], theirs))
        except OSError as error:
            mine.close()
            peer.send(AuthRefused(ask.reqid, f"{error.strerror}"))
            return
        finally:
            theirs.close()
        peer.send(AuthStarted(ask.reqid), mine.detach())

    def _judge(self, config: Config) -> str:
        """Why no password may be checked, or an empty string."""
        if not any(one.auth and not one.auth_table and not one.auth_backend for one in config.listeners):
            return "no listener authenticates system users"
        return "too many at once" if len(self.running) >= AT_ONCE else ""

    def stop_all(self) -> None:
        """The daemon ends."""
        for pid in self.running:
            spawn.kill(pid, signal.SIGTERM)

    def gone(self, pid: int) -> bool:
        """A child ended; False when it was none of these."""
        known = pid in self.running
        self.running.discard(pid)
        return known
