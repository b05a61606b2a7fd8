"""XCLIENT and XFORWARD in a session: who is behind a proxy that is trusted to say so.

XCLIENT makes another client of it: the session begins anew, and rules, limits, logs and Received know only that client.
XFORWARD is for the log of the next message, and decides nothing but whether its header is completed.  The README_FILES
of Postfix that describe them are XCLIENT_README and XFORWARD_README.
"""

from collections.abc import Callable

from pysmtpd.base import logline, reply
from pysmtpd.base.logline import address_text
from pysmtpd.base.reply import Reply
from pysmtpd.base.text import vis
from pysmtpd.imsg import Message
from pysmtpd.messages import Found, SmtpLookedUp, SmtpLookup
from pysmtpd.session import attributes
from pysmtpd.session.attributes import Attributes
from pysmtpd.session.client_limits import REFUSALS
from pysmtpd.session.effects import Admit, Count
from pysmtpd.session.smtp_transactions import Transactions

UNKNOWN_ADDRESS = "unknown"        # what no rule that names addresses fits
UNKNOWN_NAME = "<unknown>"


class Proxied(Transactions):
    """The part of a session that is about the client behind a proxy."""

    _may_xclient = False           # the other end is trusted to say XCLIENT
    _may_xforward = False
    _local = ""                    # our address, where names depend on it

    # for the session

    def _begin_anew(self, *, name_known: bool) -> None:
        """Find out what is not known of the client, and greet it."""
        raise NotImplementedError

    # whom to believe

    def _find_trust(self, proceed: Callable[[], None]) -> None:
        """Whether the other end may say these things, where anybody may; then proceed."""
        settings = self._settings
        if settings.xclient_from or settings.xforward_from:
            self._ask_trust(sorted({settings.xclient_from, settings.xforward_from} - {""}), proceed)
        else:
            proceed()

    def _ask_trust(self, tables: list[str], proceed: Callable[[], None]) -> None:
        if not tables:
            proceed()
            return
        table = tables.pop()

        def found(message: Message) -> None:
            assert isinstance(message, SmtpLookedUp)
            if message.found is Found.YES:
                self._may_xclient |= table == self._settings.xclient_from
                self._may_xforward |= table == self._settings.xforward_from
            self._ask_trust(tables, proceed)

        self._ask(SmtpLookup(self.id, "netaddr", table, self._address), found)

    # XCLIENT

    def _check_xclient(self, argument: str) -> Reply | None:
        if not self._settings.xclient_from:
            return reply.R500_UNRECOGNIZED
        if not self._may_xclient:
            return reply.R550_NOT_TRUSTED
        return reply.R503_NOT_ALLOWED if self._tx is not None else None

    def _proceed_xclient(self, argument: str) -> None:
        said = self._read_attributes(argument, attributes.XCLIENT)
        if said is None:
            return
        self._log(logline.SMTP_XCLIENT.format(id=self.id, address=self._source, said=_shown(said)))
        self._become(said)
        if "ADDR" in said:
            self._effects.append(Admit(self._address))
            self._waiting = lambda message: self._admitted(message, said)
        else:
            self._begin_anew(name_known=True)

    def _read_attributes(self, argument: str, known: dict[str, attributes.Reader]) -> Attributes | None:
        try:
            return attributes.read(argument, known)
        except ValueError as error:
            self._reply(reply.described(501, "5.4", f"Bad attribute: {error}") if str(error) else
                        reply.R501_ATTRIBUTES)
            return None

    def _become(self, said: Attributes) -> None:
        """Forget the client that was, but for what is not said of the new one; TLS is the proxy's, and stays."""
        self._rollback()
        self._proxied = True
        self._helo = said.get("HELO", "")
        self._ehlo = said.get("PROTO") == "ESMTP"
        self._username = said.get("LOGIN", "")
        self._authenticated = self._username != ""
        self._identities = []      # those of the proxy's certificate
        self._mails = self._failures = 0
        self._patience.renew()
        self._local = (said.get("DESTADDR") or self._local) if self._listener.hostnames else ""
        self._port = int(said.get("DESTPORT") or self._port)
        if "ADDR" in said:
            self._address = said["ADDR"] or UNKNOWN_ADDRESS
            self._source = address_text(self._address)
            self._hostname = UNKNOWN_NAME
        if "NAME" in said:
            self._hostname = said["NAME"] or UNKNOWN_NAME

    def _admitted(self, message: Message, said: Attributes) -> None:
        """Whether this client may have a connection; its value is the limit that forbids it."""
        assert isinstance(message, SmtpLookedUp)
        if message.found is Found.YES:
            self._begin_anew(name_known="NAME" in said or not said["ADDR"])
            return
        limit = message.value
        self._log(logline.SMTP_LIMITED.format(id=self.id, address=self._source, limit=limit))
        self._effects.append(Count(f"smtp.limit.{limit}"))
        self._hang_up(REFUSALS[limit], "quit")

    # XFORWARD

    def _check_xforward(self, argument: str) -> Reply | None:
        if not self._settings.xforward_from:
            return reply.R500_UNRECOGNIZED
        if not self._may_xforward:
            return reply.R550_NOT_TRUSTED
        return reply.R503_NOT_ALLOWED if self._tx is not None else None

    def _proceed_xforward(self, argument: str) -> None:
        said = self._read_attributes(argument, attributes.XFORWARD)
        if said is not None:
            self._forwarded = {**(self._forwarded or dict.fromkeys(attributes.XFORWARD, "")), **said}
            self._reply(reply.R250_OK)


def _shown(said: Attributes) -> str:
    return " ".join(f"{name.lower()}={vis(value.encode(), white=True) or '-'}" for name, value in said.items())
