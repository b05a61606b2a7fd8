"""Every conversation of tests/chats, whole, at once, octet by octet, and in random pieces."""

from pathlib import Path
from random import Random

import pytest

from tests.support import chat

FILES = sorted(chat.CHATS.glob("*.chat"))


def test_there_are_chats() -> None:
    assert len(FILES) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("how", ["groups", "once", "octets", "random"])
def test_chat(path: Path, how: str) -> None:
    conversation = chat.read(path)
    if how in ("groups", "once"):
        chat.compare(conversation, chat.play(conversation, how))
        return
    for seed in range(1 if how == "octets" else 5):
        random = None if how == "octets" else Random(f"{path.stem} {seed}")
        chat.compare(conversation, chat.play(conversation, "pieces", random))
