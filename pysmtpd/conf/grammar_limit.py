"""The limit directives.  Their keywords follow from the fields of the Config."""

from pysmtpd.conf.config import ClientLimits, Limits, MtaLimits, Rate
from pysmtpd.conf.diagnostic import did_you_mean, one_of, shown
from pysmtpd.conf.draft import either
from pysmtpd.conf.grammar_table import table
from pysmtpd.conf.lexer import Kind, Token
from pysmtpd.conf.parser import Parser

NUMBER_MAX = 2**31 - 1
_OTHER_SPELLING = {"scheduler_max_evp_batch": "max-evp-batch-size", "scheduler_max_msg_batch": "max-msg-batch-size"}
_MAY_BE_NONE = frozenset({"task-lowat", "session-keepalive", "max-refused"})
_WORDS = frozenset({"family"})     # not numbers


def _keyword(field: str, family: str) -> str:
    return _OTHER_SPELLING.get(field, field.removeprefix(f"{family}_").replace("_", "-"))


OURS = frozenset({"smtp_max_errors", "smtp_max_refused", "smtp_max_commands", "smtp_error_delay"})
KEYWORDS: dict[str, dict[str, str]] = {
    family: {_keyword(field, family): field for field in Limits.__struct_fields__ if field.startswith(f"{family}_")}
    for family in ("smtp", "mda", "scheduler")
}
MTA_KEYWORDS = {_keyword(field, "mta"): field for field in MtaLimits.__struct_fields__ if field not in _WORDS}


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
CLIENT_KEYWORDS = {_keyword(field, ""): field for field in ClientLimits.__struct_fields__}


def smtp_limits(p: Parser) -> None:
    """smtp-limits = { limit | ( "max-conn" | "max-conn-per-client" ) NUMBER | ( "conn-rate" | "auth-fail" ) rate
    | "exempt" table }

    What is about clients is ours."""
    found = p.draft.client_limits
    while p.at_string:
        field = CLIENT_KEYWORDS.get(p.token.text)
        if field is None:
            name, value = _limit(p, {**KEYWORDS["smtp"], **CLIENT_KEYWORDS}, "smtp")
            p.draft.limits[name] = value
            continue
        word = p.advance()
        if field == "exempt":
            found[field] = table(p, either("smtp limit exempt"))
        elif isinstance(getattr(ClientLimits(), field), Rate):
            found[field] = rate(p, word)
        else:
            found[field] = p.number(word.text, 1, NUMBER_MAX)
    p.word(*KEYWORDS["smtp"], *CLIENT_KEYWORDS)


def rate(p: Parser, word: Token) -> Rate:
    """rate = NUMBER "/" ( "s" | "m" | "h" | "d" )"""
    if p.token.kind is Kind.QUOTED:
        token = p.string("a rate")
        count, slash, unit = token.text.partition("/")
        if not (slash and unit in UNITS and count.isascii() and count.isdigit() and len(count) < 10 and int(count)):
            p.refuse(token, f"invalid rate: {shown(token.text)}", "expected a number, / and s, m, h or d: 30/m")
        return Rate(count=int(count), seconds=UNITS[unit])
    many = p.number(word.text, 1, NUMBER_MAX)
    p.must_mark("/")
    return Rate(count=many, seconds=UNITS[p.must(*UNITS).text])


def limits(p: Parser, family: str) -> None:
    """limit = STRING NUMBER"""
    while p.at_string:
        field, value = _limit(p, KEYWORDS[family], family)
        p.draft.limits[field] = value
    p.word(*KEYWORDS[family])


def mta_limits(p: Parser) -> None:
    """mta-limits = [ "for" "domain" STRING ] { limit | "inet4" | "inet6" }"""
    domain = ""
    if p.word("for"):
        p.must("domain")
        domain = p.string("a domain").text
    found = p.draft.mta_limits.setdefault(domain, {})
    while True:
        if (family := p.word("inet4", "inet6")) is not None:
            found["family"] = family.text
        elif p.at_string:
            field, value = _limit(p, MTA_KEYWORDS, "mta")
            found[field] = value
        else:
            p.word(*MTA_KEYWORDS)
            return


def _limit(p: Parser, keywords: dict[str, str], family: str) -> tuple[str, int]:
    token = p.string("a limit")
    if token.text not in keywords:
        p.refuse(token, f"invalid {family} limit keyword: {shown(token.text)}{did_you_mean(token.text, keywords)}",
                 f"expected {one_of(keywords)}")
    # With a maximum of none nothing would ever move.
    least = 0 if "delay" in token.text or token.text in _MAY_BE_NONE else 1
    return keywords[token.text], p.number(token.text, least, NUMBER_MAX)
