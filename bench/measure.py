"""What a system used: processor time, memory, and calls that sync the disk, read from /proc and strace."""

import contextlib
import os
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.support.daemon import descendants, memory

TICK = 1 / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """Of all processes of a system, by name."""

    cpu: Counter[str]              # microseconds, with those of children that ended
    rss: Counter[str]              # octets
    pss: int                       # octets; 0 where it may not be read


def usage(root: int) -> Usage:
    """Of a process and everything below it."""
    cpu: Counter[str] = Counter()
    rss: Counter[str] = Counter()
    pss = 0
    for pid in (root, *descendants(root)):
        with contextlib.suppress(OSError, IndexError):
            name = name_of(pid)
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            # utime, stime, and those of children that were waited for
            cpu[name] += round(sum(map(int, fields[11:15])) * TICK * 1e6)
            rss[name] += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
            with contextlib.suppress(PermissionError, AssertionError):
                pss += memory(pid, "Pss")
    return Usage(cpu, rss, pss)


def name_of(pid: int) -> str:
    """``queue`` of ``pysmtpd: queue`` or of ``smtpd: queue``, else the name of the program."""
    line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
    found = re.match(r"\w+: ([\w\[\]-]+)", line)
    return found.group(1) if found else Path(line.split(" ")[0]).name


def spent(before: Usage, after: Usage) -> Counter[str]:
    """Processor time between two looks, in microseconds.  A process that ended meanwhile is in its parent's."""
    difference = Counter(after.cpu)
    difference.subtract(before.cpu)
    total = sum(difference.values())
    shown = Counter({name: value for name, value in difference.items() if value > 0})
    # Time of a child that ended moved from its own name to its parent's: the sum is right, so scale to it.
    factor = total / sum(shown.values()) if shown else 1.0
    return Counter({name: round(value * factor) for name, value in shown.items()})


STRACE = ("strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=fsync,fdatasync,sync_file_range,syncfs", "-e",
          "signal=none", "-o")


def count_syncs(trace: Path) -> int:
    """Successful calls in a file of strace."""
    text = trace.read_text(encoding="utf-8", errors="replace")
    return len(re.findall(r"(?:sync\w*\(.*|<\.\.\. \w*sync\w* resumed>.*)= 0$", text, re.MULTILINE))
