"""A Config as smtpd.conf: each thing in one spelling, what was left out filled in.

What is printed reads as the same Config, but for positions: macros and includes are resolved, interfaces are the
addresses they had, and everything stands before its first use, as OpenSMTPD wants it.  Directives that only say the
default have a comment.
"""

import re
import shlex
from collections.abc import Iterator

from pysmtpd.conf.canonical import MASKED, STARS, canonical, declared_first, in_place
from pysmtpd.conf.config import (
    LOCALHOST,
    LOCALNAMES,
    Action,
    Config,
    Criterion,
    Expectation,
    Filter,
    Limits,
    Listener,
    Method,
    MtaLimits,
    Processor,
    Rate,
    Rule,
    Secret,
    Table,
    TableProgram,
    Tls,
)
from pysmtpd.conf.diagnostic import printable
from pysmtpd.conf.grammar_filter import WITH_TEXT
from pysmtpd.conf.grammar_limit import CLIENT_KEYWORDS, KEYWORDS, MTA_KEYWORDS, OURS, UNITS
from pysmtpd.conf.grammar_match import ANYDESTINATION, ANYHOST
from pysmtpd.conf.words import RESERVED

LINE_MAX = 100                     # characters of a table that stands in one line
MAILDIR = "~/Maildir"
_PLAIN = re.compile(r"(?![0-9]+(?:/|\Z))[A-Za-z0-9:_][A-Za-z0-9:_.%/-]*")
_DEFAULT = "  # default"


def text(config: Config, origin: str = "") -> str:
    """All of smtpd.conf.

    origin: the path of the file, for the comment at the top."""
    config = canonical(config)
    sections = [
        _head(config, origin), _settings(config), _limits(config), _mta_limits(config), _tables(config), _keys(config),
        _programs(config), _filters(config), _listeners(config), _actions(config), _rules(config), _tests(config),
    ]
    return "\n".join("".join(f"{line}\n" for line in lines) for lines in map(list, sections) if lines)


# words

def quoted(said: str) -> str:
    """A text between quotes; a backslash before a quote or a blank is one that the lexer would take away."""
    if said.endswith("\\"):
        # Nothing can stand between quotes that ends so; it was a word without.
        return said.replace("\\", "\\\\")
    made, before = "", ""
    for char in said:
        made += f"\\{char}" if char == '"' or (char in " \t" and before == "\\") else char
        before = char
    return f'"{made}"'


def bare(said: str) -> str:
    """A word without quotes, if it can be one."""
    return said if _PLAIN.fullmatch(said) and said not in RESERVED else quoted(said)


def secret(value: Secret) -> str:
    """What is masked stands without quotes: nobody's parser takes it, so that stars never become a password."""
    return STARS if value.value == MASKED else quoted(value.value)


def time(seconds: int) -> str:
    """In the largest unit that divides it."""
    unit, length = next((unit, length) for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
                        if seconds % length == 0)
    return f"{seconds // length}{unit}"


def size(octets: int) -> str:
    """In the largest unit that divides it."""
    for power, unit in enumerate("BKMGTPE"):
        if octets % 1024 ** (power + 1) or not octets:
            return f"{octets // 1024 ** power}{unit if power else ''}"
    return str(octets)


def _comment(said: str) -> str:
    return f"# {printable(said)}".rstrip("\\")


# what is said once

def _head(config: Config, origin: str) -> Iterator[str]:
    yield _comment(f"{origin or 'smtpd.conf'} as it takes effect")
    yield _comment(f"server name: {config.hostname}")
    if config.user:
        yield _comment(f"without root: for {config.user} only, in {config.state_dir}")


def _setting(line: str, default: bool) -> str:
    return line + _DEFAULT if default else line


def _ours(line: str, default: bool) -> str:
    """Where it is the default a comment only, so that OpenSMTPD takes what is printed."""
    return f"# {line}" if default else line


def _settings(config: Config) -> Iterator[str]:
    usual = Config(hostname=config.hostname)
    yield _ours(f"admd {quoted(config.admd or config.hostname)}", not config.admd)
    yield _setting(f"bounce warn-interval {', '.join(time(one) for one in config.warn_intervals)}",
                   config.warn_intervals == usual.warn_intervals)
    yield _ours(f"log format {config.log_format}", config.log_format == usual.log_format)
    log = f" {quoted(config.log_file)}" if config.log_file else ""
    yield _ours(f"log destination {config.log_destination}{log}", config.log_destination == usual.log_destination)
    yield _setting(f"mta max-deferred {config.max_deferred}", config.max_deferred == usual.max_deferred)
    if config.queue_compression:
        yield "queue compression"
    yield from _encryption(config)
    yield _setting(f"queue ttl {time(config.queue_ttl)}", config.queue_ttl == usual.queue_ttl)
    yield from (f"resolver {quoted(one)}" for one in config.resolvers)
    yield f"smtp ciphers {quoted(config.smtp_ciphers)}" if config.smtp_ciphers else "# smtp ciphers: those of OpenSSL"
    yield _setting(f"smtp max-message-size {size(config.max_message_size)}",
                   config.max_message_size == usual.max_message_size)
    yield _setting(f"smtp sub-addr-delim {quoted(config.sub_addr_delim)}",
                   config.sub_addr_delim == usual.sub_addr_delim)
    yield _ours(f"smtp workers {config.smtp_workers}", config.smtp_workers == usual.smtp_workers)
    yield _ours(f"smtp bare-newline {'normalize' if config.normalize_newlines else 'reject'}",
                not config.normalize_newlines)
    yield from (f"smtp {word} from {_table(config, name)}" for word, name in
                (("xclient", config.xclient_from), ("xforward", config.xforward_from)) if name)
    if config.srs_key is not None:
        yield f"srs key {secret(config.srs_key)}"
    if config.srs_backup is not None:
        yield f"srs key backup {secret(config.srs_backup)}"
    yield _setting(f"srs ttl {config.srs_ttl}d", config.srs_ttl == usual.srs_ttl)


def _encryption(config: Config) -> Iterator[str]:
    if config.queue_key is not None:
        yield f"queue encryption {secret(config.queue_key)}"
    elif config.queue_encryption:
        yield 'queue encryption "stdin"' if config.queue_key_stdin else "queue encryption  # its key is asked for"


def _limits(config: Config) -> Iterator[str]:
    for family, words in KEYWORDS.items():
        for word, field in words.items():
            value = getattr(config.limits, field)
            shown = _ours if field in OURS else _setting
            yield shown(f"{family} limit {word} {value}", value == getattr(Limits(), field))
    ours = "".join(_client_limits(config))
    if ours:
        yield f"smtp limit{ours}"


def _client_limits(config: Config) -> Iterator[str]:
    for word, field in CLIENT_KEYWORDS.items():
        value = getattr(config.client_limits, field)
        if isinstance(value, Rate):
            unit = next(unit for unit, seconds in UNITS.items() if seconds == value.seconds)
            value = f"{value.count}/{unit}" if value.count else ""
        if value:
            yield f" {word} {_table(config, value) if field == 'exempt' else value}"


def _mta_limits(config: Config) -> Iterator[str]:
    default = config.mta_limits[""]
    if default.family:
        yield f"mta limit {default.family}"
    for word, field in MTA_KEYWORDS.items():
        value = getattr(default, field)
        yield _setting(f"mta limit {word} {value}", value == getattr(MtaLimits(), field))
    for domain, limits in config.mta_limits.items():
        if domain:
            yield f"mta limit for domain {quoted(domain)}" + "".join(_changed(limits, default))


def _changed(limits: MtaLimits, default: MtaLimits) -> Iterator[str]:
    if limits.family != default.family:
        yield f" {limits.family}"
    for word, field in MTA_KEYWORDS.items():
        if getattr(limits, field) != getattr(default, field):
            yield f" {word} {getattr(limits, field)}"


# what has a name

def _tables(config: Config) -> Iterator[str]:
    for table in config.tables.values():
        if not table.name.startswith("<"):
            program = config.table_programs.get(table.name)
            own = program is not None and table.backend == "proc-exec"
            yield f"table {bare(table.name)} {_program(program) if own and program else _contents(table)}"


def _program(program: TableProgram) -> str:
    return f"proc-exec {quoted(shlex.join(program.arguments))}{_as_whom(program)}"


def _contents(table: Table) -> str:
    if table.backend != "static":
        return bare(f"{table.backend}:{table.path}" if table.path else table.backend)
    entries = [*map(quoted, table.keys), *(f"{quoted(key)} = {secret(value)}" for key, value in table.pairs)]
    line = f"{{ {', '.join(entries)} }}"
    return line if len(line) <= LINE_MAX else "{\n\t" + ",\n\t".join(entries) + "\n}"


def _keys(config: Config) -> Iterator[str]:
    for pki in config.pkis.values():
        line = f"pki {bare(pki.name)} cert {quoted(pki.cert)} key {quoted(pki.key)} dhe {pki.dhe}"
        yield _setting(line, False)
    for ca in config.cas.values():
        yield f"ca {bare(ca.name)} cert {quoted(ca.cert)}"


def _programs(config: Config) -> Iterator[str]:
    for name, command in config.wrappers.items():
        yield f"mda wrapper {quoted(name)} {quoted(command)}"
    yield from map(_proc, config.processors.values())


def _proc(proc: Processor) -> str:
    return f"proc {quoted(proc.name)} {quoted(proc.command)}{_as_whom(proc)}"


def _as_whom(one: Processor | TableProgram) -> str:
    return "".join(f" {word} {quoted(getattr(one, word))}" for word in ("user", "group", "chroot")
                   if getattr(one, word))


def _filters(config: Config) -> Iterator[str]:
    for one in declared_first(config.filters):
        start = f"filter {quoted(one.name)}"
        if one.proc:
            yield f"{start} proc {quoted(one.proc)}"
        elif one.chain:
            yield f"{start} chain {_chain(one)}"
        else:
            assert one.condition is not None
            told = f" {quoted(one.text)}" if one.verdict in WITH_TEXT else ""
            yield f"{start} phase {one.phase} match {_condition(config, one.condition)} {one.verdict}{told}"


def _chain(chain: Filter) -> str:
    return f"{{ {', '.join(map(quoted, chain.chain))} }}"


def _condition(config: Config, one: Criterion) -> str:
    return f"{'!' if one.negated else ''}{one.kind}{_tested(config, one)}"


def _tested(config: Config, one: Criterion) -> str:
    """The table of a criterion, if it has one."""
    return f"{' regex' if one.regex else ''} {_table(config, one.table)}" if one.table else ""


def _table(config: Config, name: str) -> str:
    if not in_place(name):
        return f"<{bare(name)}>"
    table = config.tables[name]
    return quoted(table.keys[0]) if len(table.keys) == 1 else _contents(table)


def _filter(config: Config, name: str) -> str:
    return f" filter {_chain(config.filters[name]) if in_place(name) else quoted(name)}"


# listeners

_MODES = {Tls.OFFERED: " tls", Tls.REQUIRED: " tls-require", Tls.SMTPS: " smtps", Tls.NO: ""}


def _listeners(config: Config) -> Iterator[str]:
    for one in config.listeners:
        if one.is_socket:
            options = list(_everywhere(config, one))
            yield _setting("listen on socket" + "".join(options), not options)
        else:
            options = [*_address(one), *_tls(one), *_who(config, one), *_everywhere(config, one)]
            yield f"listen on {bare(one.address)}" + "".join(options)


def _everywhere(config: Config, one: Listener) -> Iterator[str]:
    if one.filter:
        yield _filter(config, one.filter)
    if one.mask_src:
        yield " mask-src"
    if one.no_dsn:
        yield " no-dsn"
    for word in one.without:
        yield f" no-{word}"
    if one.tag:
        yield f" tag {quoted(one.tag)}"


def _address(one: Listener) -> Iterator[str]:
    yield f" port {one.port} hostname {quoted(one.hostname)}"
    if one.lmtp:
        yield " lmtp"
    if one.proxy_v2:
        yield " proxy-v2"
    if one.received_auth:
        yield " received-auth"


def _tls(one: Listener) -> Iterator[str]:
    yield _MODES[one.tls]
    if one.tls_verify:
        yield " verify"
    yield from (f" pki {bare(name)}" for name in one.pki)
    if one.ca:
        yield f" ca {bare(one.ca)}"
    for word in ("ciphers", "curves", "protocols"):
        if value := getattr(one, word):
            yield f" {word} {quoted(value)}"


def _who(config: Config, one: Listener) -> Iterator[str]:
    if one.auth:
        yield " auth" if one.auth == "required" else " auth-optional"
        if one.auth_table:
            yield f" {_table(config, one.auth_table)}"
        elif one.auth_backend:
            yield f" {one.auth_backend} {quoted(one.auth_path)}"
    if one.senders:
        yield f" senders {_table(config, one.senders)}{' masquerade' if one.masquerade else ''}"
    if one.proxy_from:
        yield f" proxy from {_table(config, one.proxy_from)}"
    if one.hostnames:
        yield f" hostnames {_table(config, one.hostnames)}"


# actions

def _actions(config: Config) -> Iterator[str]:
    for one in config.actions.values():
        options = _relay(config, one) if one.is_relay else _local(config, one)
        line = f"action {quoted(one.name)} {one.method.value}{''.join(options)}"
        if one.ttl:
            line += f" ttl {time(one.ttl)}"
        silent = [quoted(MAILDIR)] if one.method is Method.MAILDIR and not one.argument else []
        silent += [] if one.ttl else [f"ttl {time(config.queue_ttl)}"]
        yield f"{line}{_DEFAULT}: {' '.join(silent)}" if silent else line


def _local(config: Config, one: Action) -> Iterator[str]:
    if one.argument or one.method in (Method.MDA, Method.LMTP):
        yield f" {quoted(one.argument)}"
    if one.junk:
        yield " junk"
    if one.lmtp_rcpt_to:
        yield " rcpt-to"
    if one.user:
        yield f" user {quoted(one.user)}"
    for word in ("alias", "virtual", "userbase"):
        if name := getattr(one, word):
            yield f" {word} {_table(config, name)}"
    if one.uids:
        yield f" ids {quoted(_ids(one.uids) + (f':{_ids(one.gids)}' if one.gids else ''))}"
    if one.wrapper:
        yield f" wrapper {quoted(one.wrapper)}"


def _ids(bounds: tuple[int, int]) -> str:
    first, last = bounds
    return f"{first}-{last}" if last != first else f"{first}"


def _relay(config: Config, one: Action) -> Iterator[str]:
    if one.backup:
        yield " backup"
        if one.backup_mx:
            yield f" mx {quoted(one.backup_mx)}"
    for word in ("host", "domain", "auth", "src", "helo-src"):
        if name := getattr(one, word.replace("-", "_")):
            yield f" {word} {_table(config, name)}"
    for word in ("helo", "mail-from", "pki", "ca", "ciphers", "protocols"):
        if value := getattr(one, word.replace("-", "_")):
            yield f" {word} {quoted(value)}"
    if one.tls:
        yield " tls" if one.tls == "verify" else " tls no-verify"
    if one.filter:
        yield _filter(config, one.filter)
    if one.srs:
        yield " srs"


# rules and their tests

_FROM: dict[str, str] = {ANYHOST: "any", LOCALHOST: "local"}
_FOR: dict[str, str] = {ANYDESTINATION: "any", LOCALNAMES: "local"}


def _rules(config: Config) -> Iterator[str]:
    for rule in config.rules:
        criteria = "".join(f" {'!' if one.negated else ''}{_criterion(config, one)}" for one in rule.criteria)
        yield f"match{criteria} {_outcome(rule)}"


def _criterion(config: Config, one: Criterion) -> str:
    if one.kind == "from":
        return f"from {_FROM[one.table]}" if one.table in _FROM else f"from src{_tested(config, one)}"
    if one.kind == "for":
        return f"for {_FOR[one.table]}" if one.table in _FOR else f"for domain{_tested(config, one)}"
    return f"{_KINDS.get(one.kind, one.kind)}{_tested(config, one)}"


_KINDS = {"from-rdns": "from rdns", "from-socket": "from socket"}


def _outcome(rule: Rule) -> str:
    if rule.action:
        return f"action {quoted(rule.action)}"
    verdict = "tempfail" if rule.reply.startswith("4") else "reject"
    return f"{verdict} {quoted(rule.reply)}" if rule.reply else verdict


def _tests(config: Config) -> Iterator[str]:
    for one in config.expectations:
        yield f"test from {_reverse_path(one)}{''.join(_client(one))} to {quoted(one.rcpt)} expect {_expected(one)}"


def _reverse_path(one: Expectation) -> str:
    return quoted(one.sender) if one.sender else "<>"


def _client(one: Expectation) -> Iterator[str]:
    yield " src socket" if one.source == "local" else f" src {quoted(one.source)}"
    for word, value in (("rdns", one.rdns), ("helo", one.helo), ("auth", one.username)):
        if value:
            yield f" {word} {quoted(value)}"
    if one.tls:
        yield " tls"
    if one.tag:
        yield f" tag {quoted(one.tag)}"


def _expected(one: Expectation) -> str:
    return f"{one.verdict} {quoted(one.text)}" if one.text or one.verdict == "action" else one.verdict
