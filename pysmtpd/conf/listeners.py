"""From ``listen on`` to addresses."""

import ipaddress
from collections.abc import Iterator

from pysmtpd.conf.config import EVERYWHERE, Listener, Tls
from pysmtpd.conf.diagnostic import about, did_you_mean, shown
from pysmtpd.conf.draft import Draft, Listen
from pysmtpd.conf.source import Source
from pysmtpd.conf.values import host_name

SMTP_PORT = 25
SMTPS_PORT = 465
INTERFACES_MAX = 8                 # that an error names


class Listeners:
    """Makes the listeners of a draft."""

    def __init__(self, draft: Draft, source: Source, hostname: str) -> None:
        self._draft = draft
        self._source = source
        self._hostname = hostname
        self._interfaces = source.interfaces()
        self._made: list[Listener] = []

    def make(self) -> tuple[Listener, ...]:
        """All of them; errors and warnings go to the draft."""
        for listen in self._draft.listens:
            self._check(listen)
            if listen.where is None:
                self._socket(listen)
            else:
                self._addresses(listen)
        if not any(one.is_socket for one in self._made):
            self._made.append(Listener(address="socket", hostname=self._hostname))
        return tuple(self._made)

    def _check(self, listen: Listen) -> None:
        """Options that need each other."""
        for option in ("auth", "pki"):
            if option in listen.seen and "tls" not in listen.seen:
                token = listen.seen[option]
                self._draft.errors.append(about(token, f"{token.text} requires tls, tls-require or smtps"))
        if "tls" in listen.seen and "pki" not in listen.seen:
            token = listen.seen["tls"]
            self._draft.errors.append(about(token, f"pki required for {token.text}: which certificate to show"))

    def _socket(self, listen: Listen) -> None:
        before = next((one for one in self._made if one.is_socket), None)
        if before is not None:
            self._draft.errors.append(
                about(listen.at, "socket listener already configured", [f"at {before.at}"])
            )
            return
        self._made.append(Listener(address="socket", hostname=self._hostname, at=listen.at.at, **listen.fields))

    def _addresses(self, listen: Listen) -> None:
        fields = dict(listen.fields)
        port = fields.pop("port", SMTPS_PORT if fields.get("tls") is Tls.SMTPS else SMTP_PORT)
        hostname = fields.pop("hostname", self._hostname)
        if "lmtp" in fields and port == SMTP_PORT:
            self._draft.errors.append(about(listen.seen["lmtp"], "lmtp may not listen on port 25",
                                            ["that is for servers of other domains, which speak SMTP (RFC 2033 5)"]))
        for address in self._resolve(listen):
            same = [one for one in self._made if (one.address, one.port) == (address, port)]
            if same:
                self._draft.warnings.append(about(
                    listen.at, f"{address} port {port} is already listened on", [f"at {same[0].at}"], warning=True
                ))
            self._made.append(
                Listener(address=address, port=port, hostname=hostname, at=listen.at.at, **fields)
            )

    def _resolve(self, listen: Listen) -> list[str]:
        """The addresses of an interface, an address, or a host name, once each."""
        token = listen.where
        assert token is not None
        found = self._find(token.text)
        if found is None:
            self._draft.warnings.append(
                about(token, f"not checked: {shown(token.text)} is not in the hosts file", warning=True)
            )
            return []
        if not found:
            near = did_you_mean(token.text, self._interfaces)
            self._draft.errors.append(about(
                token, f"invalid virtual ip or interface: {shown(token.text)}{near}",
                [*_where_hints(token.text), "expected the name of an interface, an address of this machine, or all",
                 f"the interfaces here: {', '.join([*self._interfaces][:INTERFACES_MAX])}"],
            ))
            return []
        wanted = {"inet4": False, "inet6": True}.get(listen.family)
        kept = [address for address in dict.fromkeys(found) if wanted is None or (":" in address) is wanted]
        if not kept:
            self._draft.errors.append(
                about(listen.seen["family"], f"{shown(token.text)} has no {listen.family} address")
            )
        return kept

    def _find(self, text: str) -> list[str] | None:
        if text in self._interfaces:
            return self._interfaces[text]
        if text == "all":
            return list(EVERYWHERE)
        literal = _literal(text)
        if literal:
            return [literal]
        if text.rpartition(".")[2].isdigit():
            return []                  # an address that is none: no top-level domain is a number
        try:
            found = self._source.resolve(host_name(text))
        except ValueError:
            return []
        # A name without a dot that nobody knows here was meant to be an interface.
        return [] if found is None and "." not in text else found


def _where_hints(text: str) -> Iterator[str]:
    """What was probably meant by something that is neither an interface nor an address."""
    address, colon, port = text.rpartition(":")
    if text == "egress":
        yield "egress is a group of interfaces, which OpenBSD alone has: name the interface, or its address"
    elif colon and port.isdigit() and (_literal(address) or _literal(address.strip("[]")) or "." in address):
        yield f"the port stands behind the word port: listen on {address.strip('[]')} port {port}"
    elif text.startswith("["):
        yield "an IPv6 address stands here without brackets"


def _literal(text: str) -> str:
    """An address in its usual spelling, or an empty string."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""
