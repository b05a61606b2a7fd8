"""OpenSMTPD 7.8's own verdicts on recipients, against ours: 7.8 ran these configurations and answered these sessions
(tests/lookup/opensmtpd.py).  Where we differ the case says what we do, and which rows of docs/differences.md are why.
Both verdicts have to be as the book foretells them (tests/lookup/walked.py), so that no defect hides behind a row.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lookup.cases import Writer
from tests.lookup.judged import Judge
from tests.lookup.walked import ROWS

HERE = Path(__file__).parent / "verdicts"
DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


def read(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = json.loads(path.read_text())
    return {**case, "conf": "".join(case["conf"])}


def plain(verdict: Any) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(verdict))


@pytest.mark.parametrize("path", sorted(HERE.glob("*.json")), ids=lambda path: path.stem)
def test_each_recipient_is_judged_as_there_or_as_a_row_says(path: Path, tmp_path: Path) -> None:
    case = read(path)
    judge = Judge(case, tmp_path)
    for session, verdicts in zip(case["sessions"], case["verdicts"], strict=True):
        for rcpt, wanted in zip(session["rcpts"], verdicts, strict=True):
            ours, book = judge.judge(session, rcpt), judge.foretold(session, rcpt, wanted)
            assert plain(ours.verdict) == wanted[-2:] == plain(book.here), rcpt
            assert plain(book.there) == wanted[:2], rcpt
            assert " + ".join(book.rows) == (wanted[2] if len(wanted) > 2 else ""), rcpt


def test_most_verdicts_are_the_same_and_of_every_kind() -> None:
    verdicts = [one for path in HERE.glob("*.json") for session in read(path)["verdicts"] for one in session]
    same = [one for one in verdicts if len(one) == 2]
    assert len(same) > 1000 and len(same) > 0.8 * len(verdicts)
    assert {one[0][:3] for one in same} >= {"250", "550", "524", "424"}
    assert len([one for one in same if len(one[1]) > 1]) > 30


def test_each_row_is_seen() -> None:
    rows = {row for path in HERE.glob("*.json") for session in read(path)["verdicts"] for one in session
            for row in (one[2].split(" + ") if len(one) > 2 else ())}
    assert rows == set(ROWS)


def test_each_difference_is_a_row() -> None:
    text = DIFFERENCES.read_text()
    assert [row for row in ROWS.values() if row not in text] == []


def test_a_case_is_the_same_for_the_same_seed() -> None:
    assert Writer(7).case() == Writer(7).case() != Writer(8).case()
