"""The two kinds of record: Wire travels between processes by position, Frozen is made by name.

Both are msgspec structs: typed, immutable, and validated when decoded.  Type checkers are told of
them as of frozen dataclasses, because msgspec's own declaration does not inherit ``frozen``.
"""

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

import msgspec

T = TypeVar("T")

if TYPE_CHECKING:

    @dataclass_transform(frozen_default=True)
    class Wire:
        """A record whose fields travel in the order of their declaration."""

        __struct_fields__: ClassVar[tuple[str, ...]]

    @dataclass_transform(frozen_default=True, kw_only_default=True)
    class Frozen:
        """A record made by keywords; unknown fields are refused."""

        __struct_fields__: ClassVar[tuple[str, ...]]
else:

    class Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
        """A record whose fields travel in the order of their declaration."""

    class Frozen(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
        """A record made by keywords; unknown fields are refused."""


def replace(record: T, **values: Any) -> T:
    """The record with other values in some fields; its own checks run again (types are not checked)."""
    return msgspec.structs.replace(record, **values)  # type: ignore[type-var]
