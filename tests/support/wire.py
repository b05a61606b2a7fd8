"""Examples of any message, made by hypothesis from the types of its fields."""

import enum
from typing import Annotated, Any, get_args, get_origin

import msgspec
from hypothesis import strategies as st

from pysmtpd.base.mailaddr import MailAddr
from pysmtpd.base.struct import Wire
from pysmtpd.imsg import Message

# What MailAddr and Envelope accept in a line: no control character, no line separator, no surrogate.
CLEAN = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\u2028\u2029")
LIST_MAX = 3                       # frames are bounded: lists are tested short here


def messages(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Any acceptable message of this class."""
    return _record(cls)


def _record(cls: type[Any]) -> st.SearchStrategy[Any]:
    if cls is MailAddr:
        text = st.text(CLEAN, max_size=20)
        return st.builds(MailAddr, text, text)
    fields = msgspec.structs.fields(cls)
    return st.tuples(*(_value(field.type, None) for field in fields)).map(lambda values: cls(*values))


def _value(kind: Any, meta: msgspec.Meta | None) -> st.SearchStrategy[Any]:
    if get_origin(kind) is Annotated:
        base, first = get_args(kind)[:2]
        return _value(base, first)
    if get_origin(kind) is list:
        size = min(meta.max_length if meta and meta.max_length is not None else LIST_MAX, LIST_MAX)
        return st.lists(_value(get_args(kind)[0], None), max_size=size)
    if get_origin(kind) is tuple:
        return st.tuples(*(_value(one, None) for one in get_args(kind)))
    return _plain(kind, meta or msgspec.Meta())


def _plain(kind: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return st.sampled_from(list(kind))
    if isinstance(kind, type) and issubclass(kind, Wire):
        return _record(kind)
    if kind is bool:
        return st.booleans()
    if kind is int:
        low = -(1 << 63) if meta.ge is None else int(meta.ge)
        high = (1 << 64) - 1 if meta.le is None else int(meta.le)
        return st.integers(low, high if meta.lt is None else int(meta.lt) - 1)
    size = min(40, meta.max_length if meta.max_length is not None else 40)
    if kind is bytes:
        return st.binary(max_size=size)
    assert kind is str, kind
    return st.text(CLEAN, max_size=size // 4)
