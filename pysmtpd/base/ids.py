"""Identifiers and their one spelling.

A message id has 32 bits, an envelope id 64: its upper half is the id of its message, its lower half
numbers the envelopes of that message from 1.  Neither is ever 0.  Session and request ids have 64 bits.
"""

from typing import NewType

MsgId = NewType("MsgId", int)
EvpId = NewType("EvpId", int)
ReqId = NewType("ReqId", int)

MSGID_MAX = 0xFFFFFFFF
EVPID_MAX = 0xFFFFFFFFFFFFFFFF


def evpid(msgid: MsgId, number: int) -> EvpId:
    """The id of envelope ``number`` (1 or more) of a message."""
    if not 1 <= number <= MSGID_MAX or not 1 <= msgid <= MSGID_MAX:
        raise ValueError(f"no envelope id for message {msgid:#x}, number {number}")
    return EvpId(msgid << 32 | number)


def msgid_of(evp: EvpId) -> MsgId:
    """The message an envelope belongs to."""
    return MsgId(evp >> 32)


def format_msgid(msgid: MsgId) -> str:
    return f"{msgid:08x}"


def format_evpid(evp: EvpId) -> str:
    return f"{evp:016x}"


def parse_msgid(text: str) -> MsgId | None:
    """Exactly 8 hexadecimal digits, not all zero; None otherwise."""
    value = _hex(text, 8)
    return MsgId(value) if value else None


def parse_evpid(text: str) -> EvpId | None:
    """Exactly 16 hexadecimal digits, not all zero; None otherwise."""
    value = _hex(text, 16)
    return EvpId(value) if value else None


def _hex(text: str, digits: int) -> int:
    if len(text) != digits or not all(c in "0123456789abcdefABCDEF" for c in text):
        return 0
    return int(text, 16)
