"""Enhanced status codes (RFC 3463): the details this server speaks of, and OpenSMTPD's words for them.

A detail is ``subject.detail``; its class comes from the reply code it goes with.
"""

OTHER = "0.0"
OTHER_ADDRESS = "1.0"
BAD_MAILBOX = "1.1"
BAD_MAILBOX_SYNTAX = "1.3"
DESTINATION_VALID = "1.5"
MAILBOX_MOVED = "1.6"
MAILBOX_FULL = "2.2"
EXPANSION = "2.4"
OTHER_SYSTEM = "3.0"
TOO_BIG = "3.4"
LOOP = "4.6"
EXPIRED = "4.7"
INVALID_COMMAND = "5.1"
SYNTAX = "5.2"
TOO_MANY_RECIPIENTS = "5.3"
INVALID_ARGUMENTS = "5.4"
NOT_AUTHORIZED = "7.1"
SECURITY = "7.4"

DESCRIPTIONS: dict[str, str] = {
    OTHER: "Other/Undefined",
    OTHER_ADDRESS: "Other/Undefined address status",
    BAD_MAILBOX: "Bad destination mailbox address",
    BAD_MAILBOX_SYNTAX: "Bad destination mailbox address syntax",
    DESTINATION_VALID: "Destination address valid",
    MAILBOX_MOVED: "Destination mailbox has moved, No forwarding address",
    MAILBOX_FULL: "Mailbox full",
    EXPANSION: "Mailing list expansion problem",
    OTHER_SYSTEM: "Other/Undefined mail system status",
    TOO_BIG: "Message too big for system",
    LOOP: "Routing loop detected",
    EXPIRED: "Delivery time expired",
    INVALID_COMMAND: "Invalid command",
    SYNTAX: "Syntax error",
    TOO_MANY_RECIPIENTS: "Too many recipients",
    INVALID_ARGUMENTS: "Invalid command arguments",
    NOT_AUTHORIZED: "Delivery not authorized, message refused",
    SECURITY: "Security features not supported",
}


def full(code: int, detail: str) -> str:
    """The enhanced status code that goes with a reply code: (503, "5.1") is ``5.5.1``."""
    return f"{code // 100}.{detail}"
