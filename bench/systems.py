"""The mail servers that are measured, each from its own directory, relaying everything to the sink."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from bench.sandbox import Place
from tests.support.confined import OpenSmtpd, wait_listening
from tests.support.daemon import Daemon, free_port
from tests.support.postfix import Postfix

# OpenSMTPD opens one connection to a route in five seconds, and leaves it after 100 messages: in a short run that is
# all one would see.  It is measured without these delays.
UNHURRIED = "".join(f"mta limit {limit}\n" for limit in (
    "conn-delay-route 0", "conn-delay-relay 0", "reconn-delay-route 0", "session-mail-max 1000000"))


class System(Protocol):
    """A mail server."""

    name: str
    durability: str                # when it answers 250
    port: int

    def start(self, wrapper: Sequence[str] = ()) -> None: ...

    def stop(self) -> None: ...

    @property
    def pid(self) -> int:
        """The process above all others."""


class Ours:
    """pysmtpd."""

    name = "pysmtpd"
    durability = "250 after the commit is on stable storage (fdatasync of SQLite's log)"

    def __init__(self, where: Path, place: Place) -> None:
        self.port = free_port()
        host = f" host smtp+notls://{place.smarthost}" if place.smarthost else ""
        resolver = f"resolver {place.resolver}\n" if place.resolver else ""
        self.config = (
            f'smtp limit max-mails 1000000\n{resolver}listen on 127.0.0.1 port {self.port}\naction "out" relay{host}\n'
            'match from any for any action "out"\n'
        )
        self._where = where
        self._daemon: Daemon | None = None

    def start(self, wrapper: Sequence[str] = ()) -> None:
        where = self._where / "pysmtpd"
        where.mkdir(mode=0o711, exist_ok=True)
        self._daemon = Daemon(self.config, where=where, arguments=(), wrapper=wrapper)
        self._daemon.start(wait=False)
        assert self._daemon.process is not None
        wait_listening(self.port, self._daemon.process, f"pysmtpd ({self._daemon.log[-500:]})")

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.remove()

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid


class OfPostfix:
    """Postfix of Debian's package."""

    name = "postfix"
    durability = "250 after fsync of the queue file"

    def __init__(self, where: Path, place: Place) -> None:
        self.port = free_port()
        settings = {
            "smtp_tls_security_level": "none", "smtpd_tls_security_level": "none", "default_process_limit": "100",
            "smtpd_recipient_restrictions": "permit_mynetworks,reject", "smtpd_relay_restrictions": "",
            "smtpd_client_connection_count_limit": "0",
        }
        if place.smarthost:
            host, _, port = place.smarthost.rpartition(":")
            settings["relayhost"] = f"[{host}]:{port}"
        self._postfix = Postfix(where / "postfix", self.port, settings)

    def start(self, wrapper: Sequence[str] = ()) -> None:
        self._postfix.start(tuple(wrapper))

    def stop(self) -> None:
        self._postfix.stop()

    @property
    def pid(self) -> int:
        assert self._postfix.process is not None
        return self._postfix.process.pid


class OfOpenSMTPD:
    """OpenSMTPD of Debian's package."""

    name = "opensmtpd"
    durability = "250 before any sync: a power cut loses what was answered"

    def __init__(self, where: Path, place: Place) -> None:
        self.port = free_port()
        host = f" host smtp+notls://{place.smarthost}" if place.smarthost else ""
        self._server = OpenSmtpd(where / "opensmtpd", self.port, (
            f'smtp limit max-mails 1000000\n{UNHURRIED}'
            f'listen on 127.0.0.1 port {self.port}\naction "out" relay{host}\nmatch from any for any action "out"\n'))

    def start(self, wrapper: Sequence[str] = ()) -> None:
        self._server.start(wrapper)

    def stop(self) -> None:
        self._server.stop()

    @property
    def pid(self) -> int:
        assert self._server.process is not None
        return self._server.process.pid


SYSTEMS: dict[str, type[Ours] | type[OfPostfix] | type[OfOpenSMTPD]] = {
    one.name: one for one in (Ours, OfPostfix, OfOpenSMTPD)
}
