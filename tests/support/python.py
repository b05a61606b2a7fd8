"""An interpreter that other users may execute: the test's own may lie in a directory that only root can read."""

import fcntl
import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.debian import Unavailable, cache_dir

CHECKOUT = Path(__file__).parent.parent.parent
SYSTEM = "/usr/bin/python3"
NOBODY = 65534


@cache
def readable() -> str:
    """Its path.  Raises Unavailable, with the reason."""
    if os.geteuid() != 0 or _works(sys.executable):
        return sys.executable
    if not _passable(CHECKOUT):
        raise Unavailable(f"{CHECKOUT} cannot be read by other users")
    return str(_venv() / "bin/python")


def _works(python: str) -> bool:
    done = subprocess.run(["/bin/sh", "-c", f'"{python}" -c "import pysmtpd.imsg"'], user=NOBODY, group=NOBODY,
                          extra_groups=[], cwd="/", capture_output=True, timeout=30, check=False)
    return done.returncode == 0


def _passable(path: Path) -> bool:
    return all(one.stat().st_mode & 0o005 == 0o005 for one in (path, *path.parents))


def _venv() -> Path:
    """A virtual environment of the system's Python, with the checkout itself in its path."""
    text = (CHECKOUT / "pyproject.toml").read_bytes() + str(CHECKOUT).encode()
    path = cache_dir() / f"venv-{hashlib.sha256(text).hexdigest()[:12]}"
    with open(f"{path}.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path / ".complete").exists():
            _make(path)
            (path / ".complete").touch()
    return path


def _make(path: Path) -> None:
    if not os.path.exists(SYSTEM):
        raise Unavailable(f"there is no {SYSTEM}")
    for command in ([SYSTEM, "-m", "venv", "--clear", str(path)],
                    [str(path / "bin/pip"), "-q", "install", "-e", str(CHECKOUT)]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd="/")
        if done.returncode != 0:
            raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()[-300:]}")
