"""``log``, ours: how lines of the log look, and where they go."""

from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser


def log(p: Parser, _word: Token) -> None:
    """log = "log" ( "format" ( "text" | "json" ) | "destination" ( "syslog" | "stderr" | "file" STRING ) )

    None of these words is reserved."""
    settings = p.draft.settings
    if p.must("format", "destination").text == "format":
        settings["log_format"] = p.must("text", "json").text
        return
    where = p.must("syslog", "stderr", "file").text
    settings.update(log_destination=where, log_file="")
    p.draft.log_file = None
    if where == "file":
        token = p.string("the path of the log")
        if not token.text.startswith("/") or not token.text.isprintable():
            p.refuse(token, "the path of the log must be absolute")
        settings["log_file"] = token.text
        p.draft.log_file = token
