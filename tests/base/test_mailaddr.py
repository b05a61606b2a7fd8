"""Where a sub-address begins."""

import pytest

from pysmtpd.base.mailaddr import split_tag


@pytest.mark.parametrize("user, delimiters, parts", [
    ("bob", "+", ("bob", "", "")),
    ("bob+a+b", "+", ("bob", "+", "a+b")),
    ("bob-a+b", "+-", ("bob", "-", "a+b")),
    ("bob+a-b", "+-", ("bob", "+", "a-b")),
    ("+a", "+-", ("", "+", "a")),
    ("bob+", "+-", ("bob", "+", "")),
    ("bob+a", "", ("bob+a", "", "")),
])
def test_the_first_of_any_delimiter_parts_name_and_tag(user: str, delimiters: str, parts: tuple[str, ...]) -> None:
    assert split_tag(user, delimiters) == parts
