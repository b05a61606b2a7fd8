"""Each tests/conf/classic/*.conf, in the language before 6.4, means what the .expect beside it says, and is migrated to
the .modern beside it, which says the same."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.base.struct import replace
from pysmtpd.conf.config import Config
from pysmtpd.conf.load import Loaded, load
from pysmtpd.conf.migrate import migrate
from pysmtpd.conf.source import FILE_MAX, Stat
from pysmtpd.lookup import reach, trial
from pysmtpd.maps import cdb
from tests.conf.dump import dump
from tests.conf.machine import PATH, Machine
from tests.conf.test_damage import ODD, judge, words

HERE = Path(__file__).parent / "classic"
FILES = {
    "/etc/mail/macros.conf": 'interface = "eth0"\ntable aliases file:/etc/mail/aliases\n',
    "/etc/mail/rules.conf": "# of the rules\naccept for local alias <aliases> deliver to mbox\n"
                            'include "/etc/mail/relay.conf"\n',
    "/etc/mail/relay.conf": "accept for any relay\n",
    "/etc/mail/modern.conf": 'action "unused" relay host smtp://mx.example.org\n',
}


EMPTY_MAP = b"".join([*cdb.build(())][::-1])


class Everything(Machine):
    """Has every file that is asked for: tables by what their name says, and certificates."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self.addresses |= {"egress": ["192.0.2.2"], "lo0": ["127.0.0.1", "::1"], "br-lan": ["192.168.1.1", "fd00::1"]}
        for path, content in FILES.items():
            self.put(path, content)

    def read(self, path: str, limit: int = FILE_MAX) -> bytes:
        if path in self.files:
            return super().read(path, limit)
        if path.endswith(".db"):
            return EMPTY_MAP[:limit]
        return b"example.org\n" if "domain" in path or path.endswith(".list") else b"key: value\n"

    def stat(self, path: str) -> Stat:
        return Stat(0, 0o600, True)


def read(text: str | bytes) -> Loaded:
    return load(PATH, Everything(text))


def migrated(text: str | bytes) -> str:
    found = migrate(PATH, Everything(text))
    assert [str(error) for error in found.errors] == []
    return found.text


def config(text: str | bytes) -> Config:
    found = read(text)
    assert [str(error) for error in found.errors] == []
    assert found.config is not None
    return found.config


def meaning(found: Config) -> list[str]:
    """What a Config says but for positions and the order in which things were declared; tables in place by content."""
    plain = [replace(one, criteria=tuple(sorted(one.criteria, key=lambda one: one.kind))) for one in found.rules]
    lines = dump(replace(found, rules=tuple(plain))).splitlines()
    tables = {line.split()[1]: line.partition(" ")[2].partition(" ")[2] for line in lines if line.startswith("table ")}
    for name, content in tables.items():
        if name.startswith("<dynamic:"):
            lines = [line.replace(name, content) for line in lines if not line.startswith(f"table {name}")]
    rules = [line for line in lines if line.startswith(("rule", "listener"))]
    return [*rules, *sorted(set(lines) - set(rules))]


PATHS = sorted(HERE.glob("*.conf"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_what_it_means(path: Path) -> None:
    found = read(path.read_bytes())
    assert [str(error) for error in found.errors] == []
    assert found.config is not None
    assert dump(found.config) == path.with_suffix(".expect").read_text()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_migrated_it_means_the_same(path: Path) -> None:
    text = migrated(path.read_bytes())
    assert text == path.with_suffix(".modern").read_text()
    assert meaning(config(text)) == meaning(config(path.read_bytes()))
    assert migrated(text) == text
    assert not re.search(r"(?m)^\s*(accept|reject|expire|limit|map)\b", text)


# Damage

PIECES = [words(path.read_text()) for path in PATHS]
ALL = sorted({piece for pieces in PIECES for piece in pieces})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_it_is_refused_with_a_position_or_still_means_what_its_migration_does(data: st.DataObject) -> None:
    pieces = list(data.draw(st.sampled_from(PIECES)))
    at = data.draw(st.integers(0, len(pieces) - 1))
    how = data.draw(st.sampled_from(["drop", "double", "swap", "cut", "odd", "end", "other"]))
    if how == "drop":
        pieces[at] = ""
    elif how == "double":
        pieces[at] *= 2
    elif how == "swap":
        other = data.draw(st.integers(0, len(pieces) - 1))
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif how == "cut":
        pieces[at] = pieces[at][: len(pieces[at]) // 2]
    elif how == "odd":
        pieces[at] = data.draw(ODD)
    elif how == "other":
        pieces[at] = data.draw(st.sampled_from(ALL))
    else:
        pieces = pieces[: at + 1]
    text = "".join(pieces).encode("utf-8", "surrogateescape")
    found = read(text)
    judge(found)
    if found.config is not None:
        assert meaning(config(migrated(text).encode("utf-8", "surrogateescape"))) == meaning(found.config)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*ALL, "\n", "accept for any relay\n"]), max_size=30))
def test_any_words(pieces: list[str]) -> None:
    judge(read("".join(pieces)))


def test_300_lines_are_read_in_100_ms() -> None:
    part = """
        table t{0} {{ a, b, c, "d e f", g }}
        listen on 192.0.2.{0} port 25 tls pki mail.example.org auth-optional hostname mail.example.org tag T{0}
        listen on 198.51.100.{0} mask-source
        accept tagged T{0} from source <t{0}> for domain {{ a.example b.example }} relay via tls://relay{0}.example.org:587
        accept from local sender "@{0}.example.org" for any relay expire 4d # and a comment
        limit mta for domain d{0}.example.org inet4 max-conn-per-host 3
    """
    text = 'pki mail.example.org certificate "/etc/cert.pem" key "/etc/key.pem"\n'
    text += "".join(part.format(number) for number in range(50))
    assert text.count("\n") > 300
    times = []
    for _ in range(3):
        start = time.process_time()
        assert read(text).errors == []
        times.append(time.process_time() - start)
    assert min(times) < 0.1


# What rules mean, asked of the daemon's own evaluator

PKI = 'pki p certificate "/etc/cert.pem" key "/etc/key.pem"\n'
LOGIN = f"{PKI}listen on lo tls pki p auth-optional\n"
OUTSIDE = "from a@b src 203.0.113.1"


def judged(rules: str, *tests: str) -> list[str]:
    """What became of tests, for a file and for its migration."""
    results = []
    for text in (rules, migrated(rules)):
        found = read(text + "".join(f"test {test}\n" for test in tests))
        assert [str(error) for error in found.errors] == []
        assert found.config is not None
        found.tested(trial.run(found.config, found.config.expectations))
        results.append([str(one).split("\n")[0].partition(" ")[2] for one in found.errors])
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize(("rules", "tests"), [
    ("accept for any relay\n", [
        f"{OUTSIDE} to c@d expect reject",
        "from a@b src 127.0.0.1 to c@d expect action relay_",
        "from a@b src socket to c@d expect action relay_",
    ]),
    # Who had logged in was local.
    (f"{LOGIN}accept for any relay\n", [
        f"{OUTSIDE} to c@d expect reject",
        f"{OUTSIDE} auth joe to c@d expect action relay_",
        "from a@b src 127.0.0.1 to c@d expect action relay_",
    ]),
    (f"{LOGIN}reject from ! local for any\naccept from any for any relay\n", [
        f"{OUTSIDE} to c@d expect reject",
        f"{OUTSIDE} auth joe to c@d expect action relay_",
    ]),
    (f'{LOGIN}reject from source "203.0.113.0/24" for any\naccept for any relay\n', [
        f"{OUTSIDE} to c@d expect reject",
        f"{OUTSIDE} auth joe to c@d expect action relay_",
    ]),
    ("accept authenticated for any relay\n", [
        f"{OUTSIDE} to c@d expect reject",
        f"{OUTSIDE} auth joe to c@d expect action relay_",
        "from a@b src 127.0.0.1 to c@d expect reject",
    ]),
    ("accept ! authenticated from any for any relay\n", [
        f"{OUTSIDE} to c@d expect action relay_",
        f"{OUTSIDE} auth joe to c@d expect reject",
    ]),
    ('reject from any sender "@spam.example" for any\naccept from any sender ! "@b" for any relay\n', [
        "from a@spam.example src 203.0.113.1 to c@d expect reject",
        "from a@c src 203.0.113.1 to c@d expect action relay_",
        f"{OUTSIDE} to c@d expect reject",
    ]),
    ('accept from any recipient { "c@d" "@e" } for any relay\n', [
        f"{OUTSIDE} to c@d expect action relay_",
        f"{OUTSIDE} to x@e expect action relay_",
        f"{OUTSIDE} to x@d expect reject",
    ]),
    ('accept from any for ! domain { "*.d" d } relay\n', [
        f"{OUTSIDE} to c@x.d expect reject",
        f"{OUTSIDE} to c@d expect reject",
        f"{OUTSIDE} to c@e expect action relay_",
    ]),
    ("accept tagged T for any relay\nreject tagged ! U from any for any\naccept from any for any relay backup\n", [
        "from a@b src 127.0.0.1 tag T to c@d expect action relay_",
        f"{OUTSIDE} tag T to c@d expect reject",
        f"{OUTSIDE} tag U to c@d expect action backup_",
    ]),
    # The first rule that matches decides, whichever language it is in.
    ('action "new" relay\naccept from any for domain one relay\nmatch from any for domain { one, two } action "new"\n'
     "accept from any for domain { one two three } relay backup\n", [
         f"{OUTSIDE} to c@one expect action relay_",
         f"{OUTSIDE} to c@two expect action new",
         f"{OUTSIDE} to c@three expect action backup_",
     ]),
])
def test_rules(rules: str, tests: list[str]) -> None:
    # An action's name is quoted, as relay is a reserved word.
    named = [re.sub(r"action (\w+?)_?$", r'action "\1"', test) for test in tests]
    assert judged(rules, *named) == []
    for test in named:
        wrong = re.sub("expect .*", 'expect tempfail', test)
        assert judged(rules, wrong) != []


def test_a_ca_alone_is_no_pki() -> None:
    found = read('pki p ca "/etc/ca.pem"\naccept for any relay pki p\n')
    assert [one.message for one in found.errors] == ['no such pki: "p"']


@pytest.mark.parametrize("rules", [
    'include "/etc/mail/rules.conf"', "include '/etc/mail/relay.con[ef]'", 'include "/etc/mail/outer.conf"',
    "what = \"for any relay\"\naccept $what", "reject", "  reject # all",
    'rules = "\\"/etc/mail/rules.conf\\""\ninclude $rules', 'more = rules.conf\ninclude $more', "include rules.conf",
    "include $fixed",
])
def test_whatever_stands_before_a_rule_is_in_its_language(rules: str) -> None:
    machine = Everything(f'queue compression gzip\nuser = "joe"\ntable report {{ a }}\n{rules}\n')
    machine.put("rules.conf", "accept for any relay\n")
    machine.put("/etc/mail/outer.conf", 'include "/nowhere"\ninclude "/etc/mail/outer.conf"\n'
                                        'include "/etc/mail/relay.conf"\n')
    wrong = [str(error) for error in load(PATH, machine, {"fixed": "rules.conf"}).errors if error.at.file == PATH]
    assert wrong == []


@pytest.mark.parametrize("rules", [
    "match from any \\\n reject", "match from any reject", "# reject\nmatch from any reject",
    'include "/etc/mail/modern.conf"\nmatch from any reject', 'include "a\0b"', 'include "/nowhere"', "include $none",
])
def test_today_s_rules_do_not_make_a_file_yesterday_s(rules: str) -> None:
    found = load(PATH, Everything(f"queue compression gzip\n{rules}\n"))
    assert 'unexpected "gzip"' in str(found.errors[0])


def test_half_a_rule_that_never_matches_is_no_warning() -> None:
    assert reach.warnings(config(f"{LOGIN}accept authenticated for any relay\naccept for any relay\n")) == []
    found = reach.warnings(config(f"{LOGIN}accept for any relay\naccept for any relay\n"))
    assert [one.message[:25] for one in found] == ["this rule never matches: "]
