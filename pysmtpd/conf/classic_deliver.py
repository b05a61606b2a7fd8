"""``deliver to`` before 6.4."""

import re

from pysmtpd.conf.draft import Said
from pysmtpd.conf.lexer import Token
from pysmtpd.conf.parser import Parser
from pysmtpd.conf.rewrite import kept, keyword, quoted, word

# Before 5.3: one letter.
_FORMAT = re.compile(r"(?<![%+])%([audAD])(?![A-Za-z0-9])")
_FORMATS = {
    "a": "%{rcpt.user}", "u": "%{user.username}", "d": "%{dest.domain}", "A": "%{sender.user}", "D": "%{sender.domain}",
}
_FORMAT_NOTE = "format specifiers were one letter before 5.3"
_SHELL = re.compile(r"[\"$`\\]")
_SHELL_NOTE = ("OpenSMTPD since 6.4 puts the command between double quotes, for a second shell: there, write this one "
               "into a script; pysmtpd runs it as it stands")


class Deliver:
    """``deliver to``, in today's language: said is what follows the name of the action."""

    def __init__(self, at: Token) -> None:
        self.at = at
        self.said: list[Said] = []
        self.base = ""                 # of the action's name
        self.notes: list[str] = []

    def read(self, p: Parser) -> None:
        """deliver = "deliver" "to" ( "mbox" | "maildir" [ STRING ] | "lmtp" STRING [ "rcpt-to" ] [ "as" NAME ]
        | "mda" STRING [ "as" NAME ] )"""
        p.must("to")
        method = p.must("mbox", "maildir", "lmtp", "mda")
        self.base = method.text
        self.said.append(keyword(method))
        if method.text == "maildir" and p.at_string:
            self.said.append(self._formats(p.advance()))
        elif method.text == "lmtp":
            self.said.append(_destination(p))
            if p.word("rcpt-to"):
                self.said.append(keyword(p.last))
        elif method.text == "mda":
            command = p.string("a command")
            self.said.append(self._formats(command))
            if _SHELL.search(command.text):
                self.notes.append(_SHELL_NOTE)
        if method.text in ("lmtp", "mda") and (user := p.word("as")) is not None:
            self.said += [word("user", user), kept(p.string("a user"))]

    def _formats(self, token: Token) -> Said:
        if "%{" in token.text or not _FORMAT.search(token.text):
            return kept(token)
        self.notes.append(_FORMAT_NOTE)
        return quoted(_FORMAT.sub(lambda match: _FORMATS[match[1]], token.text), token)


def _destination(p: Parser) -> Said:
    token = p.string("host:port, or the path of a socket")
    if ":" not in token.text and not token.text.startswith("/"):
        p.refuse(token, "invalid lmtp destination", "expected host:port, or the path of a socket")
    return kept(token)
