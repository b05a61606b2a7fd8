"""What is printed.  A figure without the messages that it lost, or without what its 250 means, is not printed."""

import statistics
from collections.abc import Mapping, Sequence

from bench.load import Case, Outcome

PEERS = ("postfix", "opensmtpd")
# Goals of the design, at the present stage: least ratio to Postfix end to end, and most CPU per message.
BUDGET = 700.0
GATE = 1.5

Results = Mapping[str, Mapping[Case, Sequence[Outcome]]]


def median(outcomes: Sequence[Outcome], key: str) -> float:
    return statistics.median(float(getattr(one, key)) for one in outcomes)


def table(results: Results, cases: Sequence[Case]) -> str:
    """One line for each case and system: medians."""
    lines = ["load                   system      accept/s    e2e/s  CPU us/msg  RSS MB  PSS MB  lost  twice"]
    for case in cases:
        for name, measured in results.items():
            if case in measured:
                lines.append(_line(case, name, measured[case]))
        lines.append("")
    return "\n".join(lines)


def _line(case: Case, name: str, outcomes: Sequence[Outcome]) -> str:
    lost = sum(one.lost for one in outcomes)
    twice = sum(max(0, one.arrived - one.sent) for one in outcomes)
    return (f"{case!s:<22} {name:<10} {median(outcomes, 'accept'):>9.0f} {median(outcomes, 'end_to_end'):>8.0f} "
            f"{median(outcomes, 'cpu_total'):>11.0f} {median(outcomes, 'rss') / 1e6:>7.0f} "
            f"{median(outcomes, 'pss') / 1e6:>7.0f}  {lost:>4}  {twice:>5}")


def processes(results: Results, cases: Sequence[Case]) -> str:
    """CPU per message of each process."""
    lines = ["CPU per message of each process, in microseconds (median of the runs):"]
    for name, measured in results.items():
        for case in cases:
            outcomes = measured.get(case)
            if outcomes:
                names = sorted({process for one in outcomes for process in one.cpu})
                parts = {each: statistics.median(one.cpu.get(each, 0.0) for one in outcomes) for each in names}
                shown = "  ".join(f"{each} {value:.0f}" for each, value in sorted(parts.items(), key=lambda kv: -kv[1]))
                lines.append(f"  {name:<10} {case!s:<22} {shown}")
    return "\n".join(lines)


def ratios(results: Results, cases: Sequence[Case]) -> str:
    """How often the rate of the others we reach; refused where a message was lost."""
    lines = ["ratios, end to end (accept):"]
    ours = results.get("pysmtpd", {})
    for case in cases:
        for peer in PEERS:
            mine, theirs = ours.get(case), results.get(peer, {}).get(case)
            if mine and theirs:
                lines.append(f"  {case!s:<22} pysmtpd / {peer:<10} {_ratio(mine, theirs)}")
    return "\n".join(lines) if len(lines) > 1 else "no ratios: nothing to compare with"


def _ratio(mine: Sequence[Outcome], theirs: Sequence[Outcome]) -> str:
    lost = sum(one.lost for one in (*mine, *theirs))
    if lost:
        return f"refused: {lost} messages were lost"
    whole = median(mine, "end_to_end") / median(theirs, "end_to_end")
    return f"{whole:5.2f}  ({median(mine, 'accept') / median(theirs, 'accept'):.2f})"


def durability(systems: Mapping[str, str], syncs: Mapping[str, float]) -> str:
    """What 250 means, and what it costs."""
    lines = ["what a 250 means, and syncs of the disk per message at 20 sessions:"]
    for name, text in systems.items():
        counted = f"{syncs[name]:.2f}" if name in syncs else "not counted"
        lines.append(f"  {name:<10} {counted:>11}  {text}")
    return "\n".join(lines)


def gate(outcomes: Sequence[Outcome]) -> list[str]:
    """Why this may not pass CI: a lost message, or more CPU per message than 1.5 times the budget."""
    failures = []
    lost = sum(one.lost for one in outcomes)
    if lost:
        failures.append(f"{lost} messages were lost")
    used = median(outcomes, "cpu_total")
    if used > BUDGET * GATE:
        failures.append(f"{used:.0f} us of CPU per message; at most {BUDGET * GATE:.0f} pass")
    return failures
