"""Every line of the log, declared once, in OpenSMTPD's words (the formats fail2ban rules rely on).

A line is a format; its fields are named.  ``{id:016x}`` is a session, ``{evpid:016x}`` an envelope.
What a stranger said goes in through text.vis() or text.line_of() first.
tests/frozen/loglines.txt repeats them.
"""

import enum
from string import Formatter


class Level(enum.IntEnum):
    """syslog severities."""

    CRIT = 2
    ERR = 3
    INFO = 6
    DEBUG = 7


# the smtp server
SMTP_CONNECTED = "{id:016x} smtp connected address={address} host={host}"
SMTP_TLS = "{id:016x} smtp tls ciphers={ciphers}"
SMTP_CERT_CHECK = '{id:016x} smtp cert-check result="{result}" fingerprint="{fingerprint}"'
SMTP_AUTHENTICATION = "{id:016x} smtp authentication user={user} result={result}"
SMTP_AUTH_FAILED = "{id:016x} smtp auth-failed address={address} user={user} mechanism={mechanism}"  # ours: fail2ban
SMTP_MESSAGE = "{id:016x} smtp message msgid={msgid:08x} size={size} nrcpt={nrcpt} proto={proto}"
SMTP_ENVELOPE = "{id:016x} smtp envelope evpid={evpid:016x} from=<{sender}> to=<{rcpt}>"
SMTP_FAILED_COMMAND = '{id:016x} smtp failed-command command="{command}" result="{result}"'
SMTP_REFUSED_RCPT = '{id:016x} smtp refused-rcpt to=<{rcpt}> why="{why}"'  # ours: which rule, which table
SMTP_BAD_INPUT = '{id:016x} smtp bad-input result="{result}"'
SMTP_PROXY = "{id:016x} smtp event=proxy address={address}"
SMTP_PROXY_CLOSED = 'proxy {id:016x} event=closed address={address} reason="{reason}"'
SMTP_XCLIENT = "{id:016x} smtp xclient address={address} {said}"  # ours: which proxy, and what it said
SMTP_XFORWARD = "{id:016x} smtp xforward msgid={msgid:08x} {said}"  # ours
SMTP_LIMITED = "{id:016x} smtp limited address={address} limit={limit}"  # ours: fail2ban
SMTP_OVERLOAD = "warn: smtp: clients hold {size} octets: those who hold most hear 421, {count} sessions end"  # ours
SMTP_TOO_MANY = "warn: smtp: {count} sessions: further connections hear 421"  # ours
SMTP_FEW_FILES = ("warn: smtp: at most {count} connections at once: the limit of open files (ulimit -Hn, LimitNOFILE=) "
                  "allows no more")  # ours
SMTP_TLS_FAILED = '{id:016x} smtp tls-failed address={address} reason="{reason}"'  # ours
SMTP_DISCONNECTED = "{id:016x} smtp disconnected reason={reason}"

# the relay
MTA_CONNECTING = "{id:016x} mta connecting address={schema}{address}:{port} host={host}"
MTA_CONNECTED = "{id:016x} mta connected"
MTA_TLS = "{id:016x} mta tls ciphers={ciphers}"
MTA_CERT_CHECK = '{id:016x} mta cert-check result="{result}" fingerprint="{fingerprint}"'
MTA_DELIVERY = (
    "{id:016x} mta delivery evpid={evpid:016x} from=<{sender}> to=<{dest}> rcpt=<{rcpt}> "
    'source="{source}" relay="{relay}" delay={delay} result="{result}" stat="{stat}"'
)
MTA_ERROR = "{id:016x} mta error reason={reason}"
MTA_DISCONNECTED = "{id:016x} mta disconnected reason={reason} messages={messages}"
MTA_DOWNGRADE = "smtp-out: Error on session {id:016x}: opportunistic TLS failed, downgrading to plain"
MTA_ERROR_AFTER = "smtp-out: Error on session {id:016x} after {count} message{s} sent: {reason}"
MTA_ROUTE_DISABLED = "smtp-out: Disabling route {route} for {seconds}s"
MTA_ROUTE_ENABLED = "smtp-out: Enabling route {route}"
MTA_HIWAT = "smtp-out: hiwat reached on {relay}: holding envelopes"
MTA_LOWAT = "smtp-out: back to lowat on {relay}: releasing"
MTA_RESOLVE_FAILED = "smtp-out: Failed to resolve MX for {relay}: {reason}"

# local delivery
MDA_DELIVERY = (
    "{id:016x} mda delivery evpid={evpid:016x} from=<{sender}> to=<{dest}> rcpt=<{rcpt}> user={user} "
    "delay={delay} result={result} stat={stat}"
)

# the queue
QUEUE_REMOVED = (
    "{agent}: Remove for {evpid:016x}: from=<{sender}>, to=<{dest}>, rcpt=<{rcpt}>, delay={delay}, "
    "stat=Removed by administrator"
)
QUEUE_EXPIRED = (
    "{agent}: Expire for {evpid:016x}: from=<{sender}>, to=<{dest}>, rcpt=<{rcpt}>, delay={delay}, "
    "stat=Envelope expired"
)
QUEUE_DOUBLE_BOUNCE = "warn: queue: double bounce!"
QUEUE_NO_RETURN_PATH = "warn: queue: no return path!"
BOUNCE_PERMFAIL = (
    "warn: PermFail injecting failure report on message {msgid:08x} to <{rcpt}> for {count} envelope{s}: {reason}"
)
BOUNCE_TEMPFAIL = (
    "warn: TempFail injecting failure report on message {msgid:08x} to <{rcpt}> for {count} envelope{s}: {reason}"
)

# the daemon
STARTING = "info: {name} {version} starting"
EXITING = "Exiting"
LOST_CHILD = "warn: lost child: {title} {cause}"
CERT_RENEWED = "info: smtp: pki {name}: the new certificate is in use, valid until {date}"  # ours, as the next three
CERT_KEPT = "warn: smtp: pki {name}: {reason}; the certificate in use stays"
CERT_EXPIRES = "warn: smtp: pki {name}: the certificate expires on {date}, in {days} days"
CERT_EXPIRED = "warn: smtp: pki {name}: the certificate expired on {date}"
FILE_KEPT = "warn: parent: {reason}; what was read before stays in use"
PAUSED = "info: {what} paused"
RESUMED = "info: {what} resumed"
TABLE_UPDATED = 'info: Table "{table}" successfully updated'
TABLE_NOT_UPDATED = 'info: Failed to update table "{table}": {why}'
CLIENT_INVALID = "warn: client sent invalid imsg over control socket"
CLIENT_TOO_MANY = "warn: too many connections to control socket from user with uid {uid}"


class Line(str):
    """A line that remembers what was put into it.  Only a log knows what to do with one: no message carries it."""

    __slots__ = ("event", "fields")
    event: str
    fields: dict[str, str | int]


class _Remembering(Line):
    """A format whose lines are Lines; one without fields is a line itself."""

    __slots__ = ("_specs",)
    _specs: list[tuple[str, str]]

    def __new__(cls, text: str, event: str) -> "_Remembering":
        made = super().__new__(cls, text)
        made.event, made.fields = event, {}
        made._specs = [(name, spec or "") for _, name, spec, _ in Formatter().parse(text) if name]
        return made

    def format(self, *_args: object, **fields: object) -> Line:
        line = Line(str.format(self, **fields))
        line.event = self.event
        line.fields = {name: _plain(fields[name], spec) for name, spec in self._specs}
        return line


def _plain(value: object, spec: str) -> str | int:
    """A number as itself, an id as it is written in text."""
    return int(value) if isinstance(value, int) and not spec else format(value, spec)


def keep_fields() -> None:
    """From now on lines remember their fields, as a log that is not text needs.  Before, none of it costs anything."""
    for name, value in list(globals().items()):
        if name.isupper() and isinstance(value, str) and not isinstance(value, _Remembering):
            globals()[name] = _Remembering(value, name.lower().replace("_", "-"))


def duration(seconds: int) -> str:
    """``0s``, or the parts that are not zero: ``1d2h3m4s``, with ``-`` before a negative one."""
    if seconds == 0:
        return "0s"
    rest, parts = abs(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= length:
            parts.append(f"{rest // length}{unit}")
            rest %= length
    return ("-" if seconds < 0 else "") + "".join(parts)




def address_text(address: str) -> str:
    """An address as it is logged: IPv6 in brackets, ``local`` and IPv4 as they are."""
    return f"[{address}]" if ":" in address else address
