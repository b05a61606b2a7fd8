"""The versions of TLS that ``protocols`` names, in the words of tls_config_parse_protocols(3).

Words are separated by commas or colons; ``!`` takes one away, from all where it comes first.
"""

import enum
import re


class Version(enum.StrEnum):
    """A version, from the oldest on."""

    TLS1_0 = "tlsv1.0"
    TLS1_1 = "tlsv1.1"
    TLS1_2 = "tlsv1.2"
    TLS1_3 = "tlsv1.3"


ALL = frozenset(Version)
DEFAULT = frozenset({Version.TLS1_2, Version.TLS1_3})
_WORDS: dict[str, frozenset[Version]] = {
    "all": ALL, "legacy": ALL, "tlsv1": ALL, "default": DEFAULT, "secure": DEFAULT,
    **{version.value: frozenset({version}) for version in Version},
}


def parse_versions(text: str) -> frozenset[Version]:
    """The versions; of an empty text the default.  Raises ValueError for an unknown word, and when none is left."""
    found: frozenset[Version] = frozenset()
    for number, word in enumerate(re.split("[,:]", text.lower()) if text else ["default"]):
        without, name = word.strip().startswith("!"), word.strip().removeprefix("!").strip()
        versions = _WORDS.get(name)
        if versions is None:
            raise ValueError(f"unknown TLS protocol {name!r}: expected {', '.join(_WORDS)}, with or without !")
        if not without:
            found |= versions
        else:
            found = (found if number else ALL) - versions
    if not found:
        raise ValueError("no TLS protocol is left")
    return found
