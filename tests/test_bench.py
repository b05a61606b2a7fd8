"""The benchmark's arithmetic: no ratio of what was lost, and a gate that can fail."""

import os
from collections import Counter
from pathlib import Path

from bench import measure, report
from bench.load import Case, Outcome
from bench.measure import Usage

CASE = Case(20, False)


def outcome(sent: int = 100, arrived: int = 100, rate: float = 1000.0, cpu: float = 500.0) -> Outcome:
    return Outcome(sent, arrived, rate, rate, {"smtp": cpu / 2, "queue": cpu / 2}, 10**8, 10**7)


def test_a_ratio_is_refused_when_a_message_was_lost() -> None:
    good, bad = [outcome(rate=2000)], [outcome(), outcome(arrived=99)]
    assert "2.00  (2.00)" in report.ratios({"pysmtpd": {CASE: good}, "postfix": {CASE: [outcome()]}}, [CASE])
    for mine, theirs in ((good, bad), (bad, good)):
        text = report.ratios({"pysmtpd": {CASE: mine}, "postfix": {CASE: theirs}}, [CASE])
        assert "refused: 1 messages were lost" in text and "(" not in text.split("refused")[1]


def test_lost_and_duplicated_are_shown() -> None:
    table = report.table({"pysmtpd": {CASE: [outcome(arrived=97), outcome(arrived=102)]}}, [CASE])
    assert table.splitlines()[1].split()[-2:] == ["3", "2"]


def test_the_gate() -> None:
    assert report.gate([outcome(cpu=1049)]) == []
    assert report.gate([outcome(cpu=1051)]) == ["1051 us of CPU per message; at most 1050 pass"]
    assert report.gate([outcome(cpu=2000), outcome(cpu=500), outcome(cpu=600)]) == []
    assert report.gate([outcome(arrived=99)]) == ["1 messages were lost"]


def test_time_of_a_process_that_ended_is_counted_once() -> None:
    before = Usage(Counter(master=100, smtp=300), Counter(), 0)
    after = Usage(Counter(master=450), Counter(), 0)      # smtp ended with 320 in all; master used 30 of its own
    assert sum(measure.spent(before, after).values()) == 50


def test_syncs_are_counted_when_they_succeed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("12 fsync(3) = 0\n12 fdatasync(4 <unfinished ...>\n13 fsync(5) = -1 EIO (Input/output error)\n"
                     "12 <... fdatasync resumed>) = 0\n", encoding="ascii")
    assert measure.count_syncs(trace) == 2


def test_two_looks_at_ourselves() -> None:
    seen = measure.usage(os.getpid())
    assert sum(seen.cpu.values()) > 0 and sum(seen.rss.values()) > 1 << 20
