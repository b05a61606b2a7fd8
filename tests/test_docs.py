"""The pages that follow from a declaration say what it says now; the others name only what exists."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from pysmtpd.conf.load import load
from tests.conf.machine import PATH, Machine

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)#:]+)\)")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["privsep.md", "imsg.md"])
def test_a_generated_page_is_current(generate: ModuleType, name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run: python docs/generate.py"


def test_every_message_is_on_its_page(generate: ModuleType) -> None:
    from pysmtpd import imsg, messages

    page = generate.imsg_page()
    assert all(f"{spec.number:#04x}` {spec.cls.__name__}\n" in page for spec in imsg.BY_NUMBER.values())
    assert messages.SmtpBody in imsg.BY_CLASS


def test_every_test_that_shows_an_rfc_is_there() -> None:
    rows = [line for line in (DOCS / "rfc.md").read_text(encoding="utf-8").splitlines() if re.match(r"\| \d", line)]
    shown = [name for row in rows for name in re.findall(r"`(tests/[^`]+)`", row)]
    assert len(rows) > 30 and len(shown) > 50
    gone = []
    for name in shown:
        path, _, function = name.partition("::")
        file = ROOT / path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if not text or (function and f"\ndef {function}(" not in text):
            gone.append(name)
    assert gone == []
    assert [row for row in rows if not (re.search(r"\| no[ ;|]", row) or "`tests/" in row)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_configuration_of_the_readme_is_good() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", text, re.MULTILINE)
    [block] = [block for block in blocks if "\n    match " in block]
    machine = Machine(re.sub("^    ", "", block, flags=re.MULTILINE))
    for path in re.findall(r'"(/etc/ssl/[^"]+)"', block):
        machine.put(path, "x")
    machine.put("/etc/mail/aliases", "root: you\n")
    loaded = load(PATH, machine)
    assert [str(one) for one in loaded.errors + loaded.warnings] == []
    assert loaded.config is not None and len(loaded.config.rules) == 3


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGES.md", *sorted((ROOT / "man").iterdir())],
                         ids=lambda page: page.name)
def test_no_page_was_left_half_merged(page: Path) -> None:
    assert re.findall(r"^(?:<{7}|>{7}) .*", page.read_text(encoding="utf-8"), re.MULTILINE) == []
