"""The two kinds of record: Wire travels between processes by position, Frozen is made by name.

Both are msgspec structs: typed, immutable, and validated when decoded.  Type checkers are told of
them as of frozen dataclasses, because msgspec's own declaration does not inherit ``frozen``.
"""

from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, dataclass_transform, get_args, get_origin

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


def shape(kind: Any) -> Any:
    """A type that is decoded as this one is, but without the checks that a record makes of itself.

    Whoever holds a record knows that they hold: building it made them.  What remains to be proved before it is sent
    are types, bounds and UTF-8, and that is several times cheaper."""
    args = get_args(kind)
    if args:
        inner = tuple(shape(arg) for arg in args)
        if inner == args:
            return kind
        return Annotated[inner] if get_origin(kind) is Annotated else GenericAlias(get_origin(kind), inner)
    if not (isinstance(kind, type) and issubclass(kind, Wire)):
        return kind
    fields = [(field.name, shape(field.type)) for field in msgspec.structs.fields(kind)]  # type: ignore[arg-type]
    bare = [(field.name, field.type) for field in msgspec.structs.fields(kind)]  # type: ignore[arg-type]
    if fields == bare and not hasattr(kind, "__post_init__"):
        return kind
    return msgspec.defstruct(f"{kind.__name__}Shape", fields, array_like=True, forbid_unknown_fields=True, gc=False)


def replace(record: T, **values: Any) -> T:
    """The record with other values in some fields; its own checks run again (types are not checked)."""
    return msgspec.structs.replace(record, **values)  # type: ignore[type-var]
