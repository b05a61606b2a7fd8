"""Format specifiers against OpenSMTPD 7.8: formats.txt has templates and values that its mda_variables.c was given, and
what it made of them (``=`` and the text, or ``!``).  Where we differ it is as docs/differences.md says, and no more.
"""

import re
from pathlib import Path

from pysmtpd.base.format import PATH, ExpandError, Values, expand
from pysmtpd.base.mailaddr import MailAddr

LINES = (Path(__file__).parent / "formats.txt").read_text().splitlines()
DIFFERENCES = (Path(__file__).parents[2] / "docs" / "differences.md").read_text()

# The rows, as they begin, and the specifiers they are about.
LAST, ENDED = "| `%{x[-1]}`, and a range with modifiers,", "| `%{` without `}` is taken as it is |"
DOTS, ODD = "| in a path, slashes stay |", "| a range may have a plus sign, "
_SPECIFIER = re.compile(r"%\{([a-z.]+)(?:\[(-?\d*)(:?)(-?\d*)\])?(?::([a-z|]+))?\}", re.IGNORECASE)


def address(text: str) -> MailAddr:
    user, _, domain = text.rpartition("@")
    return MailAddr(user, domain)


def ours(template: str, sender: str, rcpt: str, dest: str, user: str) -> str:
    values = Values(address(sender), address(rcpt), address(dest), user, "/home/joe")
    try:
        return "=" + expand(template, values, PATH)
    except ExpandError:
        return "!"


def foretold(template: str, values: tuple[str, ...]) -> str:
    """A template of one specifier with a range: what we promise for it."""
    found = _SPECIFIER.fullmatch(template)
    assert found is not None, template
    name, first, colon, last, modifiers = found.groups()
    assert first is not None, "it has a range"
    whole = ours(f"%{{{name}{':' + modifiers if modifiers else ''}}}", *values)
    size = len(whole) - 1
    start = int(first or 0) + (size if first.startswith("-") else 0)
    end = start if not colon else size - 1 + int(last) if last.startswith("-") else int(last or size)
    if whole in ("!", "="):
        return whole
    text = whole[1:][start:end + 1] if 0 <= start < size and end >= start else ""
    return "=" + (text if text.strip(".") else ":" * len(text)) if text else "!"


def row(template: str) -> str:
    """Why results differ."""
    specifiers = re.findall(r"%\{([^}]*)(\}?)", template)
    if any(not end for _, end in specifiers):
        return ENDED
    for text, _ in specifiers:
        if re.search(r"\[[^]]*[+ ]|\]\[", text):
            return ODD
        if re.search(r"\[-\d+\]|\].*:", text):
            return LAST
    return DOTS


def test_each_result_is_as_there_or_as_a_row_says() -> None:
    seen = set()
    for line in LINES:
        template, *values, there = line.split("\t")
        here = ours(template, *values)
        if here == there:
            continue
        why = row(template)
        seen.add(why)
        match why:
            case "| `%{x[-1]}`, and a range with modifiers,":
                assert there == "!"
                if "[" in template and _SPECIFIER.fullmatch(template):
                    assert here == foretold(template, tuple(values)), line
            case "| in a path, slashes stay |":
                assert re.fullmatch(re.sub(r":+", "[.:]+", re.escape(here)), there), line
            case _:
                assert here == "!", line
    assert seen >= {LAST, ENDED}
    assert [why for why in (LAST, ENDED, DOTS, ODD) if why not in DIFFERENCES] == []


def test_ranges_are_as_foretold() -> None:
    ranged = [line.split("\t") for line in LINES if "[" in line and _SPECIFIER.fullmatch(line.split("\t")[0])]
    ranged = [one for one in ranged if "[" in one[0] and "1025" not in one[0]]   # an offset ends at 1024
    known = [one for one in ranged if ours(_bare(one[0]), *one[1:5]) != "!" and "mda" not in one[0]]
    assert len(known) > 50
    for template, *values, _ in known:
        assert ours(template, *values) == foretold(template, tuple(values)), (template, values)


def _bare(template: str) -> str:
    """Without its range."""
    return re.sub(r"\[[^]]*\]", "", template)


def test_most_results_are_the_same() -> None:
    same = [line for line in LINES if ours(*line.split("\t")[:5]) == line.split("\t")[5]]
    assert len(same) > 300 and len([line for line in same if line.split("\t")[5] != "!"]) > 150
