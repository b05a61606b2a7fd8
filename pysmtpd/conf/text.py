"""From the octets of a file to its text."""

from pysmtpd.conf.source import FILE_MAX

BOM = b"\xef\xbb\xbf"


def decode(data: bytes, path: str) -> tuple[str, str]:
    """The text of a file, and why the whole of it cannot be read, or an empty string.

    Octets that are not UTF-8 do no harm in a comment; elsewhere the lexer finds them."""
    if len(data) > FILE_MAX:
        return "", f"{path} is larger than {FILE_MAX >> 20} MiB"
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "", f"{path} is UTF-16; make it UTF-8 with: iconv -f UTF-16 -t UTF-8"
    if b"\r\n" in data:
        return "", f"{path} has the line ends of DOS (CRLF); mend it with: sed -i 's/\\r$//' {path}"
    return data.decode("utf-8", "surrogateescape"), ""
