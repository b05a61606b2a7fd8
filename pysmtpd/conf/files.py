"""What is amiss with the files that a configuration names, beyond their being there: certificates that are not their
key's, passwords that everybody can read, sockets nobody gets to.  Only the first is an error.  And what is amiss with
words that only OpenSSL knows."""

from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

from pysmtpd.base.procs import User
from pysmtpd.conf.config import Pki
from pysmtpd.conf.diagnostic import about, shown
from pysmtpd.conf.draft import Draft
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.source import Certificate, Source, Unusable

SOON = 14 * 86400                  # seconds before the end of a certificate from which on a warning comes
OTHERS_READ = 0o004
_NAMES = {"ciphers": "openssl ciphers -v ALL shows which there are",
          "curves": "expected names such as X25519, P-256 or P-384, with colons between them"}


class Files:
    """Looks at the files of a draft whose names are known to be right."""

    def __init__(self, draft: Draft, source: Source, user: str) -> None:
        """user: without root the one user there is; else empty."""
        self._draft = draft
        self._source = source
        self._user = user

    def check(self, sound: AbstractSet[str]) -> None:
        """sound: paths of certificates and keys that may be read, and are safe."""
        for pki in self._draft.pkis.values():
            if {pki.cert, pki.key} <= sound:
                self._certificate(pki)
        for name, token in self._draft.table_tokens.items():
            table = self._draft.tables.get(name)
            if table is not None and name in self._credentials() and table.backend in ("file", "db"):
                # Whoever reads a table again, while it runs, is not root.
                closed = "chmod o=" if self._user else f"chgrp {User.SMTPD.value} {table.path} && chmod g=r,o="
                self._secrecy(table.path, token, "the passwords in it", closed)
        for token in self._draft.keys:
            self._secrecy(token.file.name, token, "this key")
        for kind, token in self._draft.tls_lists:
            if not self._source.knows(kind, token.text):
                self._draft.errors.append(about(token, f"no such {kind.removesuffix('s')} in: {shown(token.text)}",
                                                [_NAMES[kind]]))
        if self._draft.log_file is not None:
            self._log(self._draft.log_file)
        for token, argument, fields in self._draft.lmtp:
            if argument.startswith("/") and "%" not in argument:
                self._reach(argument, token, self._user or fields.get("user", ""))

    def _warning(self, token: Token, message: str, *notes: str) -> None:
        self._draft.warnings.append(about(token, message, notes, warning=True))

    def _certificate(self, pki: Pki) -> None:
        uses = {kind: self._draft.files[kind, pki.name].token for kind in ("cert", "key")}
        try:
            found = self._source.certificate(pki.cert, pki.key)
        except PermissionError as error:
            if self._user:
                self._draft.errors.append(about(uses["key"], f"{error.filename or pki.key}: Permission denied",
                                                [f"the daemon runs without root, as {self._user}"]))
            else:
                self._warning(uses["key"], f"not checked: whether {pki.key} is the key of {pki.cert}: need root")
            return
        except Unusable as error:
            self._draft.errors.append(about(uses["cert" if error.path == pki.cert else "key"], str(error)))
            return
        except OSError as error:
            self._draft.errors.append(about(uses["cert"], f"{pki.cert}: {error.strerror}"))
            return
        if found is None:
            return
        if not found.fits:
            self._draft.errors.append(about(
                uses["key"], f"this key is not that of the certificate {pki.cert}",
                [f"these differ: openssl x509 -noout -pubkey -in {pki.cert}",
                 f"and: openssl pkey -pubout -in {pki.key}"],
            ))
        self._validity(pki, found, uses["cert"])

    def _validity(self, pki: Pki, found: Certificate, token: Token) -> None:
        now = self._source.now()
        if found.not_after <= now:
            self._warning(token, f"the certificate {pki.cert} expired on {_day(found.not_after)}",
                          "who verifies it refuses it")
        elif found.not_before > now:
            self._warning(token, f"the certificate {pki.cert} is not valid before {_day(found.not_before)}")
        elif found.not_after <= now + SOON:
            self._warning(token, f"the certificate {pki.cert} expires on {_day(found.not_after)}")

    def _credentials(self) -> set[str]:
        """The names of tables that hold passwords."""
        listening = {str(listen.fields.get("auth_table", "")) for listen in self._draft.listens}
        return (listening | {action.auth for action in self._draft.actions.values()}) - {""}

    def _secrecy(self, path: str, token: Token, what: str, mend: str = "chmod o=") -> None:
        try:
            found = self._source.stat(path)
        except OSError:
            return
        if found.is_file and found.mode & OTHERS_READ:
            self._warning(token, f"everybody on this machine can read {path} (mode {found.mode:04o}), and {what}",
                          f"mend it with: {mend} {path}")

    def _log(self, token: Token) -> None:
        """The file of the log may be missing, its directory may not."""
        path = token.text
        directory = path.rpartition("/")[0] or "/"
        try:
            if not self._source.stat(path).is_file:
                self._draft.errors.append(about(token, f"{path} is not a file"))
            return
        except FileNotFoundError:
            pass
        except PermissionError:
            self._warning(token, f"not checked: {path}: need root")
            return
        except OSError as error:
            self._draft.errors.append(about(token, f"{path}: {error.strerror}"))
            return
        try:
            self._source.stat(directory)
        except OSError as error:
            self._draft.errors.append(about(token, f"{directory}: {error.strerror}"))

    def _reach(self, path: str, token: Token, user: str) -> None:
        """A server that starts later may make its socket then: so a warning."""
        try:
            why = self._source.obstacle(path, user)
        except PermissionError:
            self._warning(token, f"not checked: {path}: need root")
            return
        if why:
            self._warning(token, f"deliveries cannot connect to {shown(path)}: {why}")


def _day(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
