"""The TLS of an smtp process: a context for each listener, made of the certificates on disk, and made again when
they are replaced.

A new pair that is not one leaves the old one in use: mail does not stop because somebody copied the wrong file.
"""

from collections.abc import Callable

from pysmtpd.base import logline
from pysmtpd.base.date import civil_date
from pysmtpd.base.logline import Level
from pysmtpd.conf.config import Config, Listener, Tls
from pysmtpd.privsep import tls_context
from pysmtpd.privsep.keyfiles import KeyFiles
from pysmtpd.privsep.tls import TlsContext, TlsError
from pysmtpd.privsep.tls_context import Authorities, Pair

WARN_DAYS = 14
DAY = 86400

Say = Callable[[str, Level], None]


class ServerTls:
    """Contexts by the listener's number, and the pairs they are made of, by the name of the pki."""

    def __init__(self) -> None:
        self.files = KeyFiles()
        self.contexts: dict[int, TlsContext] = {}
        self._pairs: dict[str, Pair] = {}
        self._authorities: dict[str, Authorities] = {}   # by the name of the ca; "" are the system's
        self._config = Config(hostname="")

    def prepare(self, config: Config) -> None:
        """Before the jail.  Raises TlsError with the name of what is wrong."""
        self._config = config
        listeners = self._listeners()
        for name in {name for _, listener in listeners for name in listener.pki}:
            try:
                self._pairs[name] = self._pair(name)
            except TlsError as error:
                raise TlsError(f"pki {name}: {error}") from None
        for listener in (one for _, one in listeners if one.tls_verify):
            self._authorities[listener.ca] = (
                self._ca(listener.ca) if listener.ca else tls_context.system_authorities()
            )
        for number, listener in listeners:
            try:
                self.contexts[number] = self._context(listener, self._pairs, self._authorities)
            except TlsError as error:
                raise TlsError(f"{listener.at}: {error}") from None
        self.files.forget()

    def renew(self, say: Say) -> None:
        """Take what was handed over since into use; what is no good is logged, and the old one stays."""
        pairs, authorities = dict(self._pairs), dict(self._authorities)
        for name in pairs:
            try:
                pairs[name] = self._pair(name)
            except KeyError:
                continue           # the parent could not open it, and said so
            except TlsError as error:
                say(logline.CERT_KEPT.format(name=name, reason=error), Level.ERR)
        for name in authorities.keys() - {""}:
            try:
                authorities[name] = self._ca(name)
            except KeyError:
                continue
            except TlsError as error:
                say(f"warn: smtp: {error}; the one in use stays", Level.ERR)
        self.files.forget()
        self._replace(pairs, authorities, say)

    def _replace(self, pairs: dict[str, Pair], authorities: dict[str, Authorities], say: Say) -> None:
        contexts = {}
        for number, listener in self._listeners():
            try:
                contexts[number] = self._context(listener, pairs, authorities)
            except TlsError as error:
                say(logline.CERT_KEPT.format(name=" ".join(listener.pki), reason=error), Level.ERR)
                return
        renewed = [name for name, pair in pairs.items() if pair.chain[0] != self._pairs[name].chain[0]]
        self.contexts, self._pairs, self._authorities = contexts, pairs, authorities
        for name in renewed:
            say(logline.CERT_RENEWED.format(name=name, date=civil_date(pairs[name].expires)), Level.INFO)

    @property
    def expiries(self) -> dict[str, int]:
        """When each certificate in use ends, in seconds since the epoch, by the name of the pki."""
        return {name: pair.expires for name, pair in sorted(self._pairs.items())}

    def warn(self, now: int, say: Say) -> None:
        """Log the certificates that end soon, or have ended."""
        for name, expires in self.expiries.items():
            days = (expires - now) // DAY
            if days < 0:
                say(logline.CERT_EXPIRED.format(name=name, date=civil_date(expires)), Level.ERR)
            elif days < WARN_DAYS:
                say(logline.CERT_EXPIRES.format(name=name, date=civil_date(expires), days=days), Level.ERR)

    def _pair(self, name: str) -> Pair:
        return tls_context.load_pair(*self.files.pair(name))._replace(dhe=self._config.pkis[name].dhe)

    def _ca(self, name: str) -> Authorities:
        try:
            return tls_context.load_authorities(self.files.ca(name))
        except TlsError as error:
            raise TlsError(f"ca {name}: {error}") from None

    def _listeners(self) -> list[tuple[int, Listener]]:
        return [(number, one) for number, one in enumerate(self._config.listeners) if one.tls is not Tls.NO]

    def _context(self, listener: Listener, pairs: dict[str, Pair], authorities: dict[str, Authorities]) -> TlsContext:
        return tls_context.server_context(
            [pairs[name] for name in listener.pki], ca=authorities.get(listener.ca, ()), verify=listener.tls_verify,
            ciphers=listener.ciphers or self._config.smtp_ciphers, protocols=listener.protocols, curves=listener.curves,
        )
