"""Line ends and NULs of mail data that may not stand in it (RFC 5321 2.3.8, 4.1.1.4), and how they are made good.

What ends the mail data, and which dots were stuffed, is decided before and by the octets as they came: what is made
here can be the end of nothing.
"""


def is_text(data: bytes) -> bool:
    """Whether it is lines that end in CRLF, without NUL.  It begins and ends between CR and LF of none."""
    return data.count(b"\n") == data.count(b"\r\n") == data.count(b"\r") and b"\0" not in data


def normalized(data: bytes) -> bytes:
    """Each CR and each LF that stands alone as CRLF, and no NUL.  CR NUL LF are two line ends, not one."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return lines.replace(b"\n", b"\r\n").replace(b"\0", b"")
