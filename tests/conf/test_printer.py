"""What is printed reads as the same Config, and says everything once."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.struct import Frozen
from pysmtpd.conf.canonical import builtins, canonical, masked, without_positions
from pysmtpd.conf.config import Action, Config, Expectation, Filter, Listener, Pki, Processor, Rule, Table, TableProgram
from pysmtpd.conf.lexer import File, Kind, Scanner
from pysmtpd.conf.load import load
from pysmtpd.conf.printer import quoted, size, text, time
from pysmtpd.conf.values import delay
from pysmtpd.conf.values import size as read_size
from tests.conf import generate, test_classic, test_generate, test_valid, test_verdicts
from tests.conf.machine import PATH, Machine

HERE = Path(__file__).parent
FILES = sorted(path for path in HERE.glob("*/*.conf") if path.parent.name != "invalid")


def machine(data: str | bytes, folder: str = "") -> Machine:
    """One that has all that the files of these tests speak of."""
    if folder == "classic":
        return test_classic.Everything(data)
    found = test_generate.machine("")
    for name, content in {**test_verdicts.FILES, **test_valid.FILES}.items():
        found.put(name, content, mode=0o755 if "/bin/" in name else 0o600)
    found.put(PATH, data)
    return found


def loaded(data: str | bytes, folder: str = "") -> Config | None:
    return load(PATH, machine(data, folder)).config


def same(config: Config) -> Config:
    return without_positions(canonical(config))


def printed_again(config: Config, folder: str = "") -> str:
    """What is printed, after it was seen to read as the same."""
    first = text(config)
    again = load(PATH, machine(first, folder))
    assert [str(error) for error in again.errors] == [], first
    assert again.config is not None
    assert same(again.config) == same(config), first
    assert text(again.config) == first
    return first


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_of_the_tests(path: Path) -> None:
    config = loaded(path.read_bytes(), path.parent.name)
    if config is not None:
        printed_again(config, path.parent.name)
    assert config is not None or path.parent.name == "verdicts"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 30))
def test_files_that_nobody_wrote(seed: int) -> None:
    config = loaded(generate.text(seed, "/etc/mail"))
    if config is not None:
        printed_again(config)


NEVER_IN_A_FILE = {"TableProgram.built_in", "Config.user", "Config.state_dir", "Config.admd"}


def _used(record: Frozen) -> set[str]:
    default = {field.name: field.default for field in msgspec.structs.fields(record)}  # type: ignore[arg-type]  # a struct
    return {f"{type(record).__name__}.{name}" for name in default if getattr(record, name) != default[name]}


def test_every_field_is_in_one_of_these_files() -> None:
    """So that a field which is not printed is found."""
    used: set[str] = set()
    for path in FILES:
        config = loaded(path.read_bytes())
        if config is not None:
            parts = [*config.listeners, *config.actions.values(), *config.rules, *config.filters.values(),
                     *config.processors.values(), *config.pkis.values(), *config.tables.values(), *config.expectations,
                     *config.table_programs.values()]
            used |= _used(config).union(*map(_used, parts))
    kinds = (Config, Listener, Action, Rule, Filter, Processor, Pki, Table, Expectation, TableProgram)
    fields = {f"{kind.__name__}.{name}" for kind in kinds for name in kind.__struct_fields__}
    assert fields - used - NEVER_IN_A_FILE == set()


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab:\\\"' \t#{}$", max_size=12))
def test_any_string_of_a_file_is_written_so_that_it_reads_the_same(data: str) -> None:
    scanner = Scanner(File("", data))
    while (token := scanner.next()).kind is not Kind.END:
        if token.kind in (Kind.WORD, Kind.QUOTED):
            again = Scanner(File("", f" {quoted(token.text)} ")).next()
            assert (again.kind in (Kind.WORD, Kind.QUOTED), again.text) == (True, token.text)


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**63 - 1))
def test_times_and_sizes(seconds: int, octets: int) -> None:
    assert (delay(time(seconds)), read_size(size(octets))) == (seconds, octets)
    assert [time(one) for one in (1, 60, 90, 3600, 4 * 86400)] == ["1s", "1m", "90s", "1h", "4d"]
    assert [size(one) for one in (0, 1023, 1024, 35 << 20)] == ["0", "1023", "1K", "35M"]


SAMPLE = """
secret = "'srs secret'"
srs key $secret
queue encryption "0123456789abcdef0123456789abcdef"
table users { joe = "hash" }
table mixed { joe = "both" }
table unused { joe = "unused" }
pki "*" cert "/etc/cert.pem" key "/etc/key.pem"
filter "one" phase connect match !fcrdns disconnect "550 no"
filter "two" phase helo match helo regex { "^a", "b$" } junk
listen on lo inet4 tls pki "*" auth <users> filter { one, two }
action "in" maildir virtual { "@" = joe }
action "out" relay host "smtp+tls://l@h.example" auth { l = "joe:password" }
action "mixed" relay domain <mixed> auth <mixed>
match from any for domain { a.example, b.example } action in
match auth for any action "out"
match tag x !mail-from regex "^a" for rcpt-to "joe@example.org" action "mixed"
"""


def sample() -> Config:
    config = loaded(SAMPLE)
    assert config is not None
    return config


def test_the_spelling() -> None:
    lines = printed_again(sample()).split("\n")
    assert lines[:2] == ["# smtpd.conf as it takes effect", "# server name: mail.example.org"]
    for line in [
        "queue ttl 4d  # default", "smtp max-message-size 35M  # default", 'srs key "srs secret"',
        'table users { "joe" = "hash" }',
        'pki "*" cert "/etc/cert.pem" key "/etc/key.pem" dhe none',
        'filter "two" phase helo match helo regex { "^a", "b$" } junk',
        'listen on 127.0.0.1 port 25 hostname "mail.example.org" tls pki "*" auth <users> filter { "one", "two" }',
        "listen on socket  # default",
        'action "in" maildir virtual { "@" = "joe" }  # default: "~/Maildir" ttl 4d',
        'action "out" relay host "smtp+tls://l@h.example" auth { "l" = "joe:password" }  # default: ttl 4d',
        'match from any for domain { "a.example", "b.example" } action "in"',
        'match from local for any auth action "out"',
        'match tag "x" from local for any !mail-from regex "^a" rcpt-to "joe@example.org" action "mixed"',
    ]:
        assert line in lines


def test_what_a_command_or_url_calls_a_password_is_masked() -> None:
    there = machine("""
        table t proc-exec "/bin/table --password SECRET1 -x"
        table u { "smtps://joe:SECRET2@host.example" }
        proc p "PASSWORD=SECRET3 /bin/p --conf /etc/p"
        mda wrapper w "/bin/w --token=SECRET4 %{mda}"
        action m mda "/bin/m -u joe:SECRET5 --key /etc/k" wrapper w
        action r relay host <u>
        match for domain <t> action m
    """)
    there.put("/bin/table", "", mode=0o755)
    found = load(PATH, there).config
    assert found is not None
    shown, whole = text(masked(found)), text(found)
    assert whole.count("SECRET") == 5
    assert "SECRET" not in shown
    for rest in ("/bin/table --password '*******' -x", "smtps://joe:*******@host.example", "/bin/p --conf /etc/p",
                 "--token=******* %{mda}", "/bin/m -u joe:******* --key /etc/k"):
        assert rest in shown
    assert "SECRET" not in str(builtins(masked(found)))


def test_what_is_masked_is_nobody_s_configuration() -> None:
    shown = text(masked(sample()))
    for line in ["srs key ********", "queue encryption ********", 'table users { "joe" = ******** }',
                 'table mixed { "joe" = ******** }', 'table unused { "joe" = ******** }']:
        assert line in shown.split("\n")
    assert 'virtual { "@" = "joe" }' in shown
    assert not any(word in shown for word in ("password", "srs secret", "0123", "hash", "both"))
    found = load(PATH, machine(shown))
    assert found.config is None and found.errors[0].message.startswith("unexpected '*'")


def test_json_has_every_field() -> None:
    found = msgspec.json.decode(msgspec.json.encode(builtins(sample())))
    assert found.keys() == set(Config.__struct_fields__)
    assert found["queue_ttl"] == 345600
    assert found["listeners"][0]["port"] == 25 and found["listeners"][0]["tls"] == "tls"
    assert found["rules"][0]["at"] == "smtpd.conf:15:1"
    assert found["srs_key"] == "srs secret"
    assert builtins(masked(sample()))["srs_key"] == "********"
