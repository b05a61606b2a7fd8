"""Whatever is done to a valid file: an error with a position, never an exception."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pysmtpd.conf.lexer import File, Kind, Scanner
from pysmtpd.conf.load import Loaded, load
from pysmtpd.conf.source import FILE_MAX
from pysmtpd.lookup import reach, trial
from tests.conf.machine import PATH, Machine
from tests.conf.test_valid import FILES, HERE

TEXTS = [path.read_text() for path in sorted(HERE.glob("*.conf"))]


def read(text: str | bytes) -> Loaded:
    machine = Machine(text)
    for name, content in FILES.items():
        machine.put(name, content)
    return load(PATH, machine)


def judge(found: Loaded) -> None:
    assert (found.config is None) == bool(found.errors)
    for one in [*found.errors, *found.warnings]:
        assert one.at.line >= 1 and one.at.column >= 1 and one.at.file
        assert all(line.isprintable() or "\t" in line for line in str(one).split("\n"))
    if found.config is not None:
        # What is read can also be asked.
        found.warned(reach.warnings(found.config))
        found.tested(trial.run(found.config, found.config.expectations))


def words(text: str) -> list[str]:
    """The text cut before each token, so that it can be put together again."""
    scanner, cuts = Scanner(File("", text)), [0]
    while (token := scanner.next()).kind is not Kind.END:
        cuts.append(token.start)
    return [text[one:two] for one, two in zip(cuts, [*cuts[1:], len(text)], strict=True)]


PIECES = [words(text) for text in TEXTS]
ODD = st.sampled_from(["{", "}", "<", ">", '"', "'", "=", "=>", "!", ",", "#", "\\", "\n", "\\\n", "$", "$x ", "/",
                       "\0", "25 ", "match ", "table ", "x ", '"x" ', "regex ", "\udcff", "é", "-"])


def test_cutting_loses_nothing() -> None:
    assert ["".join(pieces) for pieces in PIECES] == TEXTS


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_tokens(data: st.DataObject) -> None:
    pieces = list(data.draw(st.sampled_from(PIECES)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(pieces) - 1))
        how = data.draw(st.sampled_from(["drop", "double", "swap", "cut", "odd", "end"]))
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
        else:
            pieces = pieces[: at + 1]
    judge(read("".join(pieces).encode("utf-8", "surrogateescape")))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_octets(data: bytes) -> None:
    judge(read(data))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(sorted({piece for pieces in PIECES for piece in pieces})), max_size=30))
def test_any_words(pieces: list[str]) -> None:
    judge(read(" ".join(pieces)))


@pytest.mark.parametrize("text", [
    '"' * 100_000, "{" * 100_000, "match " * 20_000, "match for domain {" + " a" * 20_000, "a" * (FILE_MAX // 8),
    "table t { " + "a = b, " * 10_000 + "}\nmatch for any rject",
    "\\\n" * 100_000, "#\\\n" * 100_000, "$a" * 50_000,
    "listen on lo " + "pki x " * 20_000,
    "\n" * 100_000 + "x", "\x00" * 100_000, "'" + "\n" * 100_000, "match for \0any",
    "test from a to " + "b" * 10_000, 'match reject "550 ' + "%{rcpt}" * 10_000 + '"', "rule $m\n" * 10_000,
])
def test_much_of_anything_takes_little_time(text: str) -> None:
    start = time.process_time()
    found = read(text)
    judge(found)
    assert found.errors and len("".join(map(str, found.errors))) < 100_000
    assert time.process_time() - start < 5


def test_files_that_include_each_other_end() -> None:
    machine = Machine('include "/etc/a.conf"\n')
    machine.put("/etc/a.conf", 'include "/etc/b.conf"\n' * 100)
    machine.put("/etc/b.conf", 'include "/etc/a.conf"\n' * 100)
    found = load(PATH, machine)
    judge(found)
    assert "includes itself" in str(found.errors[0])
