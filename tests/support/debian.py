"""Programs of Debian's packages, unpacked and never installed: they may collide with each other and with us.

A program that the system has already is used as it is.  Otherwise its package, and those it needs beyond what is
installed, are fetched with ``apt-get download`` and unpacked below a cache directory; that needs no root.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

TRIPLETS = ("x86_64-linux-gnu", "aarch64-linux-gnu", "arm-linux-gnueabihf", "riscv64-linux-gnu")
TIMEOUT = 300


class Unavailable(RuntimeError):
    """A package cannot be had here; says why."""


class Tool(NamedTuple):
    """A program, and the environment that it needs."""

    path: str
    root: Path                     # of its package; / when it is installed
    env: Mapping[str, str]


def cache_dir() -> Path:
    """Where packages are unpacked: only ours, because root executes what is in it."""
    given = os.environ.get("PYSMTPD_TEST_CACHE")
    if given:
        path = Path(given)
    elif os.geteuid() == 0:
        path = Path("/var/cache/pysmtpd-test")
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysmtpd-test"
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}") from None
    if path.stat().st_uid != os.geteuid():
        raise Unavailable(f"{path} belongs to somebody else")
    return path


@cache
def tool(package: str, path: str) -> Tool:
    """The program at ``path`` (as in ``usr/sbin/smtp-sink``) of a package.  Raises Unavailable."""
    installed = Path("/", path)
    if installed.exists() and _is_installed(package):
        return Tool(str(installed), Path("/"), dict(os.environ))
    root = unpack(package)
    if not (root / path).exists():
        raise Unavailable(f"{package} has no {path}")
    return Tool(str(root / path), root, {**os.environ, "LD_LIBRARY_PATH": library_path(root)})


def overlay(package: str, *more: str) -> list[str]:
    """A command to put before another, that runs it where these packages seem installed.  Needs root.

    For programs whose paths are built in.  Raises Unavailable."""
    if all(_is_installed(name) for name in (package, *more)):
        return []
    root = unpack(package, *more)
    mount = f'mount -t overlay overlay -o lowerdir="{root}/usr:/usr" /usr && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    if done.returncode != 0:
        raise Unavailable(f"no overlay for {package}: {done.stderr.strip()}")
    return command


def library_path(root: Path) -> str:
    """Where the libraries of an unpacked package are."""
    places = [root / base / triplet for base in ("usr/lib", "lib") for triplet in TRIPLETS]
    places.append(root / "usr/lib/postfix")
    return ":".join(str(place) for place in places if place.is_dir())


@cache
def unpack(package: str, *more: str) -> Path:
    """The directory in which a package and what it needs are unpacked (``more``: beside it).  Raises Unavailable."""
    directory = cache_dir()
    root = directory / "-".join((package, *more))
    with _locked(directory / f"{root.name}.lock"):
        if not (root / ".complete").exists():
            shutil.rmtree(root, ignore_errors=True)
            _fetch((package, *more), root)
            (root / ".complete").touch()
    return root


def _fetch(packages: tuple[str, ...], root: Path) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program} here")
    files = root / "files"
    files.mkdir(parents=True)
    _run(["apt-get", "-q", "-o", "APT::Sandbox::User=", "download", *_needed(packages)], files)
    for file in sorted(files.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(file), str(root)], files)
    shutil.rmtree(files)


def _needed(packages: tuple[str, ...]) -> list[str]:
    """The packages and those of their dependencies that are not installed, as apt would install them."""
    plan = _run(["apt-get", "-q", "-s", "-o", "Debug::NoLocking=1", "install", "--no-install-recommends", *packages],
                Path("/"))
    found = {line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")}
    return sorted(found | set(packages))


def _run(command: list[str], where: Path) -> str:
    environ = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, cwd=where, env=environ, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{' '.join(command[:5])} ...: {' '.join(words)} (is apt-get update needed?)")
    return done.stdout


def _is_installed(package: str) -> bool:
    if shutil.which("dpkg-query") is None:
        return False
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True,
                          check=False, timeout=TIMEOUT)
    return done.stdout == "installed"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
