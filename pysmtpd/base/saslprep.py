"""SASLprep (RFC 4013): user names and passwords in one spelling, so that they can be compared.

``unicodedata`` of Python 3.2, which the RFC names, is not needed: what was assigned later is let through, as RFC 4013
2.5 has it for queries.
"""

import stringprep
import unicodedata

_PROHIBITED = (
    stringprep.in_table_c12, stringprep.in_table_c21_c22, stringprep.in_table_c3, stringprep.in_table_c4,
    stringprep.in_table_c5, stringprep.in_table_c6, stringprep.in_table_c7, stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str) -> str:
    """The prepared text.  Raises ValueError for what no name or password may hold."""
    if text.isascii():
        if not text.isprintable():
            raise ValueError("control character")
        return text
    mapped = "".join(" " if stringprep.in_table_c12(char) else char
                     for char in text if not stringprep.in_table_b1(char))
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for char in normal:
        if any(prohibited(char) for prohibited in _PROHIBITED):
            raise ValueError("prohibited character")
    if any(map(stringprep.in_table_d1, normal)):       # right to left: RFC 3454 6
        if any(map(stringprep.in_table_d2, normal)):
            raise ValueError("right-to-left and left-to-right characters")
        if not (stringprep.in_table_d1(normal[0]) and stringprep.in_table_d1(normal[-1])):
            raise ValueError("right-to-left text must begin and end so")
    return normal
