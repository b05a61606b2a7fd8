"""The manual pages: smtpd.conf(5) and the grammar say the same, examples work, and mandoc has no complaints."""

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from pysmtpd import __main__ as daemon
from pysmtpd.base import format
from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.trace import NAMES
from pysmtpd.conf import (
    classic,
    classic_deliver,
    classic_listen,
    classic_relay,
    classic_rule,
    grammar,
    grammar_action,
    grammar_filter,
    grammar_limit,
    grammar_listen,
    grammar_match,
)
from pysmtpd.conf.config import Config, Limits, MtaLimits
from pysmtpd.conf.load import load
from pysmtpd.conf.migrate import migrate
from pysmtpd.lookup import trial
from pysmtpd.maps.text import parse
from pysmtpd.tables import sqlite
from smtpctl import commands, makemap, options
from smtpctl import explain as explaining
from tests.conf.machine import PATH, Machine

ROOT = Path(__file__).parent.parent
MAN = ROOT / "man"
PAGES = sorted(MAN.glob("*.[1-9]"))
SMTPD_CONF = (MAN / "smtpd.conf.5").read_text(encoding="utf-8")
HINT = "man/smtpd.conf.5 and the grammar differ; describe the word there, as .It Ic WORD or .Ic WORD"

# Macros that end the words of Ic on their line.
MACROS = frozenset({
    "Ar", "Bl", "Brq", "Cm", "Em", "Fl", "Ic", "It", "Li", "No", "Ns", "Oc", "Oo", "Op", "Pa", "Pq", "Ql", "Sx",
    "Xc", "Xo",
})
# Of other systems or packages.
FOREIGN = frozenset({"services 5", "crypt 3"})


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()


# What the manual says.

def _words(line: str, macro: str = "Ic") -> Iterator[str]:
    """The words that a line of mdoc marks with Ic, or another macro."""
    inside = False
    for token in line[1:].split():
        if token in MACROS:
            inside = token == macro
        elif inside and re.fullmatch(r"[a-z0-9-]+", token):
            yield token


def _said(text: str, macro: str = "Ic") -> set[str]:
    return {word for line in text.split("\n") if re.match(r"\.[A-Z]", line) for word in _words(line, macro)}


def _section(title: str, text: str = SMTPD_CONF) -> str:
    match = re.search(rf"^\.Sh {title}\n(.*?)(?=^\.Sh |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, title
    return match[1]


def _items(title: str) -> set[str]:
    """Every word in the head of an item of a section."""
    heads = re.findall(r"^\.It .*(?:\n\.Op .*)*", _section(title), re.MULTILINE)
    return {word for head in heads for line in head.split("\n") for word in _words(line)}


def _examples(title: str, text: str = SMTPD_CONF) -> list[str]:
    blocks = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", _section(title, text), re.DOTALL | re.MULTILINE)
    return [block.replace("\\e", "\\").replace("\\&", "") for block in blocks]


# What the grammar reads.

def _asked(module: ModuleType) -> Iterator[str]:
    """The words that the functions of a module ask the parser for."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("word", "must", "mark", "must_mark"):
                yield from _constants(node.args, module)
            elif node.func.attr == "options":
                yield from _constants(node.args[1:2], module)


def _constants(arguments: list[ast.expr], module: ModuleType) -> Iterator[str]:
    for argument in arguments:
        for node in ast.walk(argument):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.Name):
                yield from getattr(module, node.id, ())


def _read() -> set[str]:
    """All words of the language but those of limits."""
    found = {word for module in GENERATE.GRAMMAR for word in _asked(module)}
    found |= set(grammar.STATEMENTS) | set(grammar_filter.PHASES)
    found |= {word for known in grammar_filter.PHASES.values() for word in known}
    found |= {*grammar_filter.WITH_TEXT, *grammar_filter.WITHOUT_TEXT, "none", "auto", "legacy"}
    # What parser.word() calls other things when it only tells an error what could stand there.
    return {word for word in found if re.fullmatch(r"[a-z0-9-]+", word)} - _limits()


def _limits() -> set[str]:
    return {word for words in grammar_limit.KEYWORDS.values() for word in words} | set(grammar_limit.MTA_KEYWORDS)


def _productions() -> str:
    return "\n".join(rule for rules in GENERATE.productions().values() for rule in rules)


def test_the_ebnf_has_the_words_that_are_read() -> None:
    written = set(re.findall(r'"([a-z0-9-]+)"', _productions()))
    assert written == _read(), "the EBNF in the docstrings of conf/grammar*.py is not what their functions read"


def test_every_production_that_is_named_is_there() -> None:
    named = set(re.findall(r"[a-z-]+", re.sub(r'"[^"]*"', "", _productions())))
    assert named - set(GENERATE.productions()) == {"delay", "size"}


def test_the_manual_has_the_words_of_the_grammar_and_no_others() -> None:
    said, there = _said(SMTPD_CONF), _read() | _limits()
    assert (sorted(there - said), sorted(said - there)) == ([], []), HINT


def test_the_classic_language_is_described_and_nothing_else() -> None:
    read = {word for module in (classic, classic_deliver, classic_listen, classic_relay, classic_rule)
            for word in _asked(module) if re.fullmatch("[a-z0-9-]+", word)}
    read |= {*classic.STATEMENTS, *classic.SHARED, *classic_rule._LOOKUP, "backup"}
    said, today = _said(_section("CLASSIC LANGUAGE"), "Cm"), set(grammar_listen.LISTEN_OPTIONS)
    assert (sorted(read - said - today), sorted(said - read)) == ([], []), HINT.replace("Ic", "Cm")


def test_the_example_of_the_classic_language_becomes_what_the_manual_says() -> None:
    then, now = _examples("CLASSIC LANGUAGE")
    machine = Machine(then)
    assert migrate(PATH, machine).text == now


@pytest.mark.parametrize("title, words", [
    ("LISTENERS", grammar_listen.LISTEN_OPTIONS),
    ("DELIVERY ACTIONS", {*grammar_action.METHODS, *grammar_action.LOCAL_OPTIONS, *grammar_action.RELAY_OPTIONS}),
    ("RULES", grammar_match.CRITERIA),
    ("MAIL FILTERS", {*grammar_filter.PHASES["rcpt-to"], *grammar_filter.WITH_TEXT, *grammar_filter.WITHOUT_TEXT}),
])
def test_each_option_has_an_item_in_the_section_of_its_statement(title: str, words: set[str]) -> None:
    assert set(words) - _items(title) == set(), HINT


@pytest.mark.parametrize("family", ["smtp", "mda", "scheduler", "mta"])
def test_each_limit_is_under_its_directive_with_its_default(family: str) -> None:
    match = re.search(rf"^\.It Ic {family} limit (.*?)\.El", _section("LIMITS"), re.DOTALL | re.MULTILINE)
    assert match is not None
    said = {word: int(number) for word, number in re.findall(r"^\.It Ic (\S+) Pq (\d+)", match[1], re.MULTILINE)}
    keywords = grammar_limit.KEYWORDS.get(family, grammar_limit.MTA_KEYWORDS)
    defaults = MtaLimits() if family == "mta" else Limits()
    assert said == {word: getattr(defaults, field) for word, field in keywords.items()}


DEFAULT = Config(hostname="")


@pytest.mark.parametrize("item, default", [
    ("queue ttl", f"{DEFAULT.queue_ttl // 86400}d"),
    ("smtp max-message-size", f"{DEFAULT.max_message_size >> 20}M"),
    ("mta max-deferred", f"{DEFAULT.max_deferred}"),
    ("bounce warn-interval", ", ".join(f"{one // 3600}h" for one in DEFAULT.warn_intervals)),
    ("smtp sub-addr-delim", DEFAULT.sub_addr_delim),
    ("srs ttl", f"{DEFAULT.srs_ttl}d"),
])
def test_defaults_are_those_of_the_configuration(item: str, default: str) -> None:
    match = re.search(rf"^\.It Ic {item} .*?Default:\s(.*?)$", SMTPD_CONF, re.DOTALL | re.MULTILINE)
    assert match is not None
    assert match[1].removeprefix(".Ql ").removesuffix(".").strip() == default


# Examples.

def _machine() -> Machine:
    machine = Machine()
    for path in ("/etc/ssl/mail.example.org.crt", "/etc/ssl/private/mail.example.org.key"):
        machine.put(path, "x")
    machine.put("/etc/mail/secrets", "home user:password\n", mode=0o640)
    machine.put("/etc/mail/virtuals", "jane@example.org vmail\n")
    machine.put("/etc/mail/passwords", "jane {PLAIN}secret\n")
    machine.put("/etc/mail/addresses", "jane jane@example.org\n")
    return machine


@pytest.mark.parametrize("text", _examples("DESCRIPTION") + _examples("EXAMPLES"))
def test_an_example_is_a_configuration_without_a_flaw(text: str) -> None:
    machine = _machine()
    machine.put(PATH, text)
    loaded = load(PATH, machine)
    assert [str(one) for one in loaded.errors + loaded.warnings] == []
    assert loaded.config is not None and loaded.config.rules
    assert all(result.passed for result in trial.run(loaded.config, loaded.config.expectations))


def test_the_example_of_an_error_is_one() -> None:
    [example] = _examples("DIAGNOSTICS")
    machine = _machine()
    line = example.split("\n")[1].strip()
    machine.put(PATH, f'action "local" mbox\n\n{line}\n')
    assert str(load(PATH, machine).errors[0]).startswith(example.rstrip("\n"))


def _expand(template: str) -> str:
    address = MailAddr("Jane+News", "Example.ORG")
    return format.expand(template, format.Values(address, address, address, "jane", "/home/jane"), format.PATH)


def test_examples_of_format_specifiers() -> None:
    [example] = _examples("FORMAT SPECIFIERS")
    pairs = [line.split() for line in example.splitlines()]
    assert len(pairs) > 3
    assert {template: _expand(template) for template, _ in pairs} == dict(pairs)


# smtpctl(8), pysmtpd(8).

SMTPCTL = (MAN / "smtpctl.8").read_text(encoding="utf-8")


def _commands(head: str) -> Iterator[str]:
    """The commands that the head of an item stands for; an argument is <>."""
    optional = " Op " in head
    words, kind, lines = list[str](), "", list[str]()
    alternative = False
    for token in head.replace(" Op ", " ").split():
        if token in ("Cm", "Ar"):
            kind = token
        elif token == "|":
            if not alternative:
                lines.append(" ".join(words))
            words.pop()
            alternative = True
        else:
            words.append("<>" if kind == "Ar" else token)
            if alternative:
                lines.append(" ".join(words))
    if not alternative:
        lines.append(" ".join(words))
    return iter([*lines, *([lines[0].rpartition(" ")[0]] if optional else [])])


def test_each_command_of_smtpctl_is_described_and_no_others() -> None:
    heads = re.findall(r"^\.It (Cm .*)$", _section("COMMANDS", SMTPCTL), re.MULTILINE)
    said = {line for head in heads for line in _commands(head)}
    there = {re.sub("<[a-z]+>", "<>", line) for line, _ in commands.tree.lines()}
    assert (sorted(there - said), sorted(said - there)) == ([], []), "man/smtpctl.8 and smtpctl/commands.py differ"


def _options(page: str) -> set[str]:
    text = (MAN / page).read_text(encoding="utf-8")
    return set(re.findall(r"\bFl (-?[a-zA-Z-]+)", " ".join(re.findall(r"^\.It (Fl .*)$", text, re.MULTILINE))))


def test_each_option_of_pysmtpd_is_described() -> None:
    usage = re.findall(r"\[-(-?)([a-zA-Z-]+)", daemon.USAGE)
    there = {one for dash, text in usage for one in ([f"-{text}"] if dash else text)}
    assert _options("pysmtpd.8") == there
    explain = {option for action in explaining.parser()._actions for option in action.option_strings}
    assert _options("smtpctl.8") == {option.removeprefix("-") for option in explain - {"-h", "--help"}}
    with pytest.raises(SystemExit):
        daemon.Arguments(["-Z"])


def test_a_macro_without_a_value_is_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    assert daemon.Arguments(["-D", "a", "-D", "=b", "-D", "c=d"]).macros == {"c": "d"}
    assert capsys.readouterr().err.split("\n")[0] == "warn: could not parse macro definition a"


def test_each_trace_is_described() -> None:
    text = _section("TRACES", (MAN / "pysmtpd.8").read_text(encoding="utf-8"))
    said = {word for head in re.findall(r"^\.It Cm (.*)$", text, re.MULTILINE) for word in head.split(" , ")}
    assert said == set(NAMES)


def test_each_option_of_sendmail_is_described() -> None:
    known = {*options.KNOWN_WITH_ARGUMENT, "t", "v", "S", "bm", "bs", "bp", "bi", "q", "-state-dir"}
    assert _options("sendmail.8") == known
    text = (MAN / "sendmail.8").read_text(encoding="utf-8")
    lists = re.findall(r"^\.Fl ((?:[A-Za-z] )+[A-Za-z])$", text, re.MULTILINE)
    ignored = {letter for letters in lists for letter in letters.split()}
    assert ignored == {*options.IGNORED, *options.IGNORED_WITH_ARGUMENT, "E", "i"}


# table(5), makemap(8), newaliases(8).

LISTS: dict[str, list[bool | None]] = {
    "Files": [True, False], "Domains": [True], "Addresses and networks": [True], "Virtual domains": [None, False],
    "Users": [False], "Credentials": [False, False], "Senders": [False], "Names of addresses": [False],
    "Relay hosts": [False],
}


def test_examples_of_files_are_what_the_manual_says() -> None:
    page = (MAN / "table.5").read_text(encoding="utf-8")
    kinds: dict[str, list[bool | None]] = {}
    for title, text in re.findall(r"^\.Ss ([^\n]+)\n(.*?)(?=^\.S[sh] )", page, re.DOTALL | re.MULTILINE):
        for block in re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.DOTALL | re.MULTILINE):
            kinds.setdefault(title, []).append(parse(block, "table").is_list)
    del kinds["SQLite"]
    wanted = {title: [True if kind is None else kind for kind in found] for title, found in LISTS.items()}
    assert kinds == wanted             # None: keys in the order in which they are asked


def test_each_setting_of_sqlite_is_described() -> None:
    words = re.findall(r"\b(?:query|fetch)_[a-z]+", (MAN / "table.5").read_text(encoding="utf-8"))
    assert set(words) == {*sqlite.QUERIES, *sqlite.FETCHES}


def test_each_option_of_makemap_and_newaliases_is_described() -> None:
    assert _options("makemap.8") == set(re.findall(r"\[-([a-zA-Z])", makemap.USAGE))
    assert _options("newaliases.8") == {"f", "-state-dir"}
    text = (MAN / "makemap.8").read_text(encoding="utf-8")
    assert set(re.findall(r"^\.Cm (\w+)", text, re.MULTILINE)) == {*makemap.DB_TYPES, *makemap.TYPES}


# All pages.

def test_every_page_is_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        shared = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {f"man/{page.name}": f"share/man/man{page.suffix[1:]}/{page.name}" for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_generated_is_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert GENERATE.manual(text) == text, "run: python docs/generate.py"


def _lint(page: Path) -> list[str]:
    mandoc = shutil.which("mandoc")
    if mandoc is None:
        pytest.skip("mandoc is not installed: the manual pages are not checked")
    done = subprocess.run([mandoc, "-Tlint", "-Wstyle", str(page)], capture_output=True, text=True, timeout=30,
                          check=False)
    # Which other pages are installed here says nothing about this one.
    return [line for line in (done.stdout + done.stderr).splitlines()
            if "mandoc.db" not in line and "referenced manual not found" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_no_complaint(page: Path) -> None:
    assert _lint(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_references_lead_to_pages(page: Path) -> None:
    there = {f"{one.name.rpartition('.')[0]} {one.suffix[1:]}" for one in PAGES} | FOREIGN
    named = set(re.findall(r"\bXr (\S+ [1-9])", page.read_text(encoding="utf-8")))
    assert named - there == set()
