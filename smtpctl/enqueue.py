"""sendmail: take a message from standard input and give it to the daemon.

The message is the daemon's once it answered 250, and not before.  Until then we have it, and say what became of it.
"""

import os
import socket
import sys
import time
from typing import IO

from pysmtpd.base.date import Zone, ctime, rfc5322
from smtpctl.addresses import SyntaxFault, parse
from smtpctl.client import Control, ControlError, control_path, home, one_person
from smtpctl.letter import Letter
from smtpctl.options import Options, Usage, read_options
from smtpctl.submit import Refused, Submission, splice

EX_OK = 0
EX_USAGE = 1                       # what OpenSMTPD answers, not sysexits' 64
EX_UNAVAILABLE = 69
EX_SOFTWARE = 70
EX_TEMPFAIL = 75

USAGE = "usage: sendmail [-tv] [-f from] [-F name] to ..."


class Fault(Exception):
    """It cannot be done: what to say, and the exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class User:
    """Who sends."""

    def __init__(self, by_uid_only: bool) -> None:
        import pwd

        self.name, self.gecos = "anonymous", ""
        uid = os.getuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return
        if not by_uid_only:
            try:
                login = pwd.getpwnam(os.getlogin())
            except (OSError, KeyError):
                pass
            else:
                if login.pw_uid == uid or uid == 0:
                    entry = login
        self.name, self.gecos = entry.pw_name, entry.pw_gecos

    @property
    def full_name(self) -> str:
        """The first part of the gecos field; & is the login name."""
        return self.gecos.partition(",")[0].replace("&", self.name[:1].upper() + self.name[1:])


def main(name: str, arguments: list[str]) -> int:
    """All of sendmail; returns the exit status."""
    try:
        options = read_options(arguments)
    except Usage as error:
        print(error.text or USAGE, file=sys.stderr)
        return EX_USAGE
    for option in options.ignored:
        print(f"{name}: option {option} is not known, and ignored", file=sys.stderr)
    try:
        if options.mode == "i":
            from smtpctl.newaliases import newaliases

            return newaliases(["--state-dir", options.state_dir] if options.state_dir else [])
        if options.mode == "p":
            from smtpctl.command_line import smtpctl

            return smtpctl("mailq", ["--state-dir", options.state_dir] if options.state_dir else [])
        if options.mode == "q":
            raise Fault("the queue runs by itself; see smtpctl schedule all", EX_SOFTWARE)
        if options.mode == "s":
            return splice(session_of(options))
        return send(options, sys.stdin.buffer)
    except Fault as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.status
    except ControlError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return EX_TEMPFAIL


def session_of(options: Options) -> socket.socket:
    """An SMTP session with the daemon.  Raises ControlError."""
    with Control(control_path(options.state_dir, os.environ, trusted=one_person())) as control:
        return control.submit()


def send(options: Options, source: IO[bytes]) -> int:
    """Read the message, complete it, and hand it over."""
    user = User(options.by_uid_only)
    sender = _sender_option(options)
    with Letter(source) as letter:
        return _send(options, user, sender, letter)


def _send(options: Options, user: User, sender: str | None, letter: Letter) -> int:
    recipients = _recipients(options, letter)
    if sender is None:
        sender = _from_header(letter)
    letter.remove("bcc", "return-path")
    try:
        sock = session_of(options)
    except ControlError as error:
        _complete(letter, options, user, user.name if sender is None else sender, socket.gethostname())
        return _keep(letter, str(error), EX_TEMPFAIL)
    with Submission(sock, options.verbose) as session:
        try:
            session.greet()
        except Refused as error:
            return _keep(letter, str(error), EX_UNAVAILABLE)
        sender = _qualified(user.name if sender is None else sender, session.hostname)
        recipients = [_qualified(one, session.hostname) for one in recipients]
        _complete(letter, options, user, sender, session.hostname)
        try:
            session.send(sender, recipients, letter, options)
        except Refused as error:
            return _keep(letter, f"command failed: {error}", EX_SOFTWARE)
    return EX_OK


def _sender_option(options: Options) -> str | None:
    """What -f says; None when it was not given, empty for the null reverse-path."""
    given = options.sender
    if given is None:
        return None
    if given.startswith("<"):
        if not given.endswith(">"):
            raise Fault("leading < but no trailing >", EX_USAGE)
        given = given[1:-1]
    return _clean(given)


def _recipients(options: Options, letter: Letter) -> list[str]:
    """In the order in which they were named, each once."""
    lists = list(options.recipients)
    if options.from_header:
        lists += [value for name in ("to", "cc", "bcc") for value in letter.values(name)]
    try:
        found = [address for text in lists for address in parse(text) if address]
    except SyntaxFault as error:
        raise Fault(str(error), EX_USAGE) from None
    if not found:
        raise Fault("no recipients", EX_SOFTWARE)
    return [_clean(address) for address in dict.fromkeys(found)]


def _from_header(letter: Letter) -> str | None:
    try:
        found = [address for value in letter.values("from") for address in parse(value)]
    except SyntaxFault as error:
        raise Fault(str(error), EX_USAGE) from None
    return _clean(found[-1]) if found and found[-1] else None


def _clean(address: str) -> str:
    """An address goes into a command line: no control characters."""
    if any(ord(c) < 32 or ord(c) == 127 for c in address) or "<" in address or ">" in address:
        raise Fault("syntax error in address", EX_USAGE)
    return address


def _qualified(address: str, domain: str) -> str:
    return f"{address}@{domain}" if address and "@" not in address else address


def _complete(letter: Letter, options: Options, user: User, sender: str, domain: str) -> None:
    """Add what a message must have (RFC 5322 3.6) and this one has not.  The daemon adds Message-ID."""
    if not letter.has("from"):
        name = options.full_name or ("" if options.sender is not None else user.full_name)
        letter.add("From", _mailbox(name, _qualified(sender or user.name, domain)))
    if not letter.has("date"):
        now = int(time.time())
        local = time.localtime(now)
        letter.add("Date", rfc5322(now, Zone(local.tm_gmtoff, local.tm_zone)))


def _mailbox(name: str, address: str) -> str:
    """``name <address>``; the name is quoted where it has to be (RFC 5322 3.2.4)."""
    name = "".join(c for c in name if ord(c) >= 32 and ord(c) != 127).strip()
    if not name:
        return f"<{address}>"
    if not name.isascii():
        import base64  # RFC 2047 2

        name = f"=?utf-8?B?{base64.b64encode(name.encode('utf-8', 'replace')).decode()}?="
    elif any(c in '()<>[]:;@\\,."' for c in name):
        name = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{name} <{address}>"


def _keep(letter: Letter, reason: str, status: int) -> int:
    """The daemon did not take it: put it where its writer finds it, and say so."""
    print(f"sendmail: {reason}", file=sys.stderr)
    if not one_person():
        # A set-id program must not write where its caller wants: neither to his $HOME nor over what he linked there.
        print("sendmail: the message was not sent, and not saved: real and effective ids differ", file=sys.stderr)
        return status
    path = os.path.join(os.environ.get("HOME") or home() or "/nonexistent", "dead.letter")
    now = int(time.time())
    try:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(path, flags, 0o600), "ab") as file:
            file.write(f"From {User(True).name} {ctime(now, Zone(time.localtime(now).tm_gmtoff, ''))}\n".encode())
            for piece in letter.pieces():
                file.write(piece)
            file.write(b"\n\n")
    except OSError as error:
        print(f"sendmail: the message was not sent, and not saved either: {path}: {error.strerror}", file=sys.stderr)
        return status
    print(f"sendmail: the message was not sent; it was saved to {path}", file=sys.stderr)
    return status
