"""Who may import whom: the layers of the design, read from the source with ast.

Dependency runs processes -> lookup|spool|sched|relay|deliver|filters -> session -> conf -> messages -> imsg -> base.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysmtpd.base.procs import CHILDREN, PROCS, Proc

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pysmtpd"

# What each part of the package may import besides itself.  "conf" here is all of it; conf.config alone is for everyone.
COMMON = {"base", "imsg", "messages", "conf.config"}
PARTS: dict[str, set[str]] = {
    "base": set(),
    "imsg": {"base"},
    "messages": {"base", "imsg"},
    "maps": {"base"},
    "tables": set(),               # programs of their own: only the protocol connects them with us
    "conf": COMMON | {"maps"},
    "session": COMMON,
    "sched": COMMON,
    "lookup": COMMON | {"session", "maps"},
    "spool": COMMON | {"session"},
    "relay": COMMON | {"session"},
    "inbound": COMMON | {"session", "privsep"},   # the sockets of sessions
    "deliver": COMMON | {"session"},
    "filters": COMMON | {"session"},
    "privsep": COMMON,
}
# The real form of conf's Source lives in privsep, and so depends on the protocol that it fills.
ALSO: dict[str, set[str]] = {
    "privsep/source.py": {"conf"},
    "privsep/certificate.py": {"conf.source"},
    "privsep/reexec.py": set(),
    "deliver/worker.py": {"privsep.jail", "privsep.title"},
    "lookup/build.py": {"privsep.passwd"},
    "lookup/system_users.py": {"privsep.jail", "privsep.title"},
    # The tests in smtpd.conf are judged by the evaluator that will decide.
    "readconf.py": {"conf", "privsep", "lookup.reach", "lookup.trial"},
    "__main__.py": {"parent", "readconf", "privsep", "conf.words"},
    "parent.py": {"readconf"},
}
# Parts whose logic does no I/O, and what they therefore never import.
PURE = ("base", "imsg", "messages", "maps", "conf", "session", "sched")
IMPURE = {"socket", "ssl", "OpenSSL", "asyncio", "time", "logging", "subprocess", "select", "selectors", "threading",
          "sqlite3", "random", "secrets", "glob", "shutil", "tempfile", "signal", "pwd", "grp", "fcntl"}
# os is a name in pure parts only for constants and paths.
PURE_OS = {"fork", "open", "read", "write", "stat", "listdir", "scandir", "urandom", "environ", "fsync", "kill",
           "getpid"}
NEVER = {"pickle", "marshal", "shelve", "imp", "crypt", "pty"}
SOCKETS = {"control.py", "smtp.py", "mta.py", "mda.py", "lka.py", "parent.py", "readconf.py", "lookup/resolver.py",
           "lookup/hosts.py", "lookup/rdns.py", "lookup/system_users.py"}
SOCKET_PARTS = ("privsep/", "deliver/", "inbound/")   # a worker is a program of its own, with blocking sockets
SYNCS = ("spool/", "deliver/")
# What may be in the parent: nothing that reads what a stranger wrote.
PARENT = {"base", "imsg", "messages", "conf.config", "privsep", "readconf"}
PARSERS = {"session", "maps", "tables", "lookup", "relay", "deliver", "filters", "inbound", "spool", "sched",
           "conf.grammar", "email", "dns", "OpenSSL", "ssl", "http", "json", "xml", "cryptography"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    """Every module imported, with what is imported from a package as a module of its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def is_module(dotted: str) -> bool:
    base = ROOT / Path(*dotted.split("."))
    return base.with_suffix(".py").exists() or (base / "__init__.py").exists()


def ours(path: Path, *, top_only: bool = False) -> set[str]:
    """Imports of the package itself, without its name: ``conf.config``."""
    found = {name.removeprefix("pysmtpd.") for name in imports(path, top_only=top_only) if name.startswith("pysmtpd.")}
    return found


def covered(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down_only(path: Path) -> None:
    name = name_of(path)
    part = part_of(name)
    if part in PARTS:
        allowed = PARTS[part] | {part} | ALSO.get(name, set())
    elif part in {proc.value for proc in CHILDREN}:
        allowed = COMMON | {"privsep"} | set(PROCS[Proc(part)].packages)
    elif name == "parent.py":
        allowed = PARENT
    else:
        allowed = COMMON | ALSO.get(name, set())
    assert sorted(one for one in ours(path) if not covered(one, allowed)) == []


@pytest.mark.parametrize("path", [p for p in modules() if part_of(name_of(p)) in PURE], ids=name_of)
def test_logic_does_no_io(path: Path) -> None:
    assert sorted({name.split(".")[0] for name in imports(path)} & IMPURE) == []
    used = {node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"}
    assert sorted(used & PURE_OS) == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_what_is_imported_nowhere(path: Path) -> None:
    assert sorted({name.split(".")[0] for name in imports(path)} & NEVER) == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_evaluates_text(path: Path) -> None:
    calls = [node.func.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert sorted({"eval", "exec", "compile", "__import__"} & set(calls)) == []


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_spool_and_deliver_sync(path: Path) -> None:
    if not name_of(path).startswith(SYNCS):
        assert sorted(attributes(path) & {"fsync", "fdatasync", "sync"}) == []


def attributes(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_only_the_runtime_imports_socket(path: Path) -> None:
    name = name_of(path)
    if not name.startswith(SOCKET_PARTS) and name not in SOCKETS:
        assert "socket" not in set(imports(path))


def reachable(start: Path) -> set[str]:
    """All of our modules that importing this one imports, at the top of a module."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        for name in ours(todo.pop(), top_only=True):
            target = PACKAGE / Path(*name.split("."))
            file = target.with_suffix(".py") if target.with_suffix(".py").exists() else target / "__init__.py"
            if name not in seen and file.exists():
                seen.add(name)
                todo.append(file)
    return seen


def test_the_parent_parses_nothing_of_strangers() -> None:
    seen = reachable(PACKAGE / "parent.py")
    assert sorted(name for name in seen if covered(name, PARSERS)) == []
    others = {name.split(".")[0] for module in ["parent", *seen]
              for name in imports(path_of(module), top_only=True)}
    assert sorted(others & PARSERS) == []


@pytest.mark.parametrize("proc", CHILDREN, ids=lambda proc: proc.value)
def test_a_process_reaches_only_its_packages(proc: Proc) -> None:
    path = PACKAGE / f"{proc.value}.py"
    mine = set(PROCS[proc].packages)
    foreign = {"lookup", "spool", "sched", "relay", "deliver", "filters", "inbound", "session", "maps", "tables"} - mine
    if mine & {"lookup", "spool", "relay", "deliver", "filters"}:
        foreign -= {"session"}     # the words of the protocol lie below all of them
    if "lookup" in mine:
        foreign -= {"maps"}        # and those of files below tables
    assert sorted(name for name in reachable(path) if covered(name, foreign)) == []


def path_of(name: str) -> Path:
    target = PACKAGE / Path(*name.split("."))
    return target.with_suffix(".py") if target.with_suffix(".py").exists() else target / "__init__.py"


def test_smtpctl_needs_nothing_of_the_daemon() -> None:
    allowed = COMMON | {"session", "maps"}
    reads = {"conf", "privsep.source"}     # smtpd.conf itself, as its caller
    offline = {"config.py": reads | {"privsep.startup"}, "newaliases.py": reads, "makemap.py": {"lookup.members"},
               "explain.py": {"conf", "lookup", "readconf", "privsep.delivery"},     # asks the daemon's evaluator
               "table_programs.py": {"lookup", "privsep.programs", "privsep.startup"}}
    wrong = {f"{path.name}: {name}" for path in (ROOT / "smtpctl").rglob("*.py")
             for name in ours(path) if not covered(name, allowed | offline.get(path.name, set()))}
    assert sorted(wrong) == []


def test_there_is_no_cycle() -> None:
    graph = {name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__"): ours(path, top_only=True)
             for path in modules()}
    done: set[str] = set()
    open_: list[str] = []

    def visit(name: str) -> None:
        assert name not in open_, " -> ".join([*open_[open_.index(name):], name])
        if name in done:
            return
        open_.append(name)
        for other in graph.get(name, ()):
            visit(other)
        open_.pop()
        done.add(name)

    for name in graph:
        visit(name)


def test_these_rules_can_be_broken(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import ssl\nfrom pysmtpd.spool import sqlite\nimport os\ndef f():\n import pickle\n os.fsync(1)\n")
    assert set(imports(bad)) == {"ssl", "pysmtpd.spool.sqlite", "os", "pickle"}
    assert not covered("spool.sqlite", PARTS["session"])
    assert set(imports(bad)) & IMPURE and set(imports(bad)) & NEVER
    assert attributes(bad) & {"fsync"}
    assert "pickle" not in set(imports(bad, top_only=True))
