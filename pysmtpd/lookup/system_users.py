"""``python -I -m pysmtpd.lookup.system_users``: the root child that checks one password of a system user, and leaves.

The parent starts it, lka asks over descriptor 3, and nobody else ever sees the password.  Where PAM knows the service
``smtpd`` it decides, with all that modules bring along; else the shadow file does, through the C library, so that name
services other than files work.  It stays root, because pam_unix and the shadow file want that; so it reads one frame
of bounded fields and nothing else, and has no jail but its brevity.
"""

import ctypes
import hmac
import os
import pwd
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder, ImsgError
from pysmtpd.lookup import libcrypt
from pysmtpd.messages import AuthAnswered, AuthAsk, AuthResult
from pysmtpd.privsep import jail
from pysmtpd.privsep.title import set_title

LKA_FD = 3
LIFETIME = 50                      # seconds; lka waits 60
FD_MAX = 65536
READ_SIZE = 65536
SERVICE = b"smtpd"
PAM_DIRECTORIES = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/local/etc/pam.d")
DAY = 86400
# The hash of something nobody knows, in today's usual form: who does not exist takes as long as who does.
DUMMY = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$Ed05p0MXcoPCGTW9kNJxj48T1XWFETTmE12kArm/Jw2"


# PAM, as pam_start(3) and its relatives have it

PAM_SUCCESS = 0
PAM_USER_UNKNOWN, PAM_AUTH_ERR, PAM_PERM_DENIED, PAM_MAXTRIES = 10, 7, 6, 11
PAM_ACCT_EXPIRED, PAM_NEW_AUTHTOK_REQD, PAM_CRED_INSUFFICIENT = 13, 12, 8
PAM_DENIED = frozenset((PAM_USER_UNKNOWN, PAM_AUTH_ERR, PAM_PERM_DENIED, PAM_MAXTRIES, PAM_ACCT_EXPIRED,
                        PAM_NEW_AUTHTOK_REQD, PAM_CRED_INSUFFICIENT))
PAM_TTY, PAM_RHOST = 3, 4
PAM_PROMPT_ECHO_OFF = 1
PAM_SILENT, PAM_DISALLOW_NULL_AUTHTOK = 0x8000, 1
PAM_CONV_ERR = 19


class _Message(ctypes.Structure):
    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class _Response(ctypes.Structure):
    _fields_ = (("text", ctypes.c_void_p), ("code", ctypes.c_int))


_Converse = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.POINTER(_Message)),
                             ctypes.POINTER(ctypes.POINTER(_Response)), ctypes.c_void_p)


class _Conversation(ctypes.Structure):
    _fields_ = (("converse", _Converse), ("data", ctypes.c_void_p))


class Pam:
    """libpam.  Raises OSError or AttributeError where there is none."""

    def __init__(self) -> None:
        self._pam = ctypes.CDLL("libpam.so.0")
        self._libc = ctypes.CDLL(None)
        self._libc.calloc.restype = self._libc.strdup.restype = ctypes.c_void_p
        self._libc.calloc.argtypes = (ctypes.c_size_t, ctypes.c_size_t)
        self._libc.strdup.argtypes = (ctypes.c_char_p,)
        for name in ("pam_authenticate", "pam_acct_mgmt", "pam_end"):
            getattr(self._pam, name).argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._pam.pam_set_item.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
        self._pam.pam_start.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(_Conversation),
                                        ctypes.POINTER(ctypes.c_void_p))

    def check(self, user: bytes, password: bytes, address: bytes) -> AuthResult:
        """Whether PAM lets the user in, with this password, from this address."""

        def converse(count: int, messages: Any, responses: Any, _data: Any) -> int:
            if not 0 < count <= 32:
                return PAM_CONV_ERR
            # The library frees both the array and the texts in it.
            made = self._libc.calloc(count, ctypes.sizeof(_Response))
            if not made:
                return PAM_CONV_ERR
            answers = ctypes.cast(made, ctypes.POINTER(_Response))
            for at in range(count):
                if messages[at].contents.style == PAM_PROMPT_ECHO_OFF:
                    answers[at].text = self._libc.strdup(password)
            responses[0] = answers
            return PAM_SUCCESS

        callback = _Converse(converse)
        handle = ctypes.c_void_p()
        conversation = _Conversation(callback, None)
        status: int = self._pam.pam_start(SERVICE, user, ctypes.byref(conversation), ctypes.byref(handle))
        if status != PAM_SUCCESS:
            return AuthResult.TEMPFAIL
        try:
            for item, value in ((PAM_RHOST, address), (PAM_TTY, SERVICE)):
                self._pam.pam_set_item(handle, item, value)
            flags = PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK
            status = self._pam.pam_authenticate(handle, flags)
            if status == PAM_SUCCESS:
                status = self._pam.pam_acct_mgmt(handle, flags)
        finally:
            self._pam.pam_end(handle, status)
        if status == PAM_SUCCESS:
            return AuthResult.OK
        return AuthResult.PERMFAIL if status in PAM_DENIED else AuthResult.TEMPFAIL


def pam_knows_us(directories: tuple[str, ...] = PAM_DIRECTORIES) -> bool:
    """Whether somebody made a service of ours; PAM itself would then ask ``other``, which denies."""
    return any(os.path.exists(f"{directory}/{SERVICE.decode()}") for directory in directories)


# the shadow file

class _Spwd(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("password", ctypes.c_char_p), ("changed", ctypes.c_long),
                ("least", ctypes.c_long), ("most", ctypes.c_long), ("warn", ctypes.c_long),
                ("inactive", ctypes.c_long), ("expires", ctypes.c_long), ("flag", ctypes.c_ulong))


def shadow_of(user: str) -> tuple[str, bool] | None:
    """The hash of a user, and whether the account is in force today; None when there is no such user.

    Raises PermissionError when it may not be read."""
    try:
        entry = pwd.getpwnam(user)
    except (KeyError, ValueError):
        return None
    if entry.pw_passwd not in ("x", "*"):
        return entry.pw_passwd, True
    libc = ctypes.CDLL(None, use_errno=True)
    libc.getspnam.restype = ctypes.POINTER(_Spwd)
    libc.getspnam.argtypes = (ctypes.c_char_p,)
    found = libc.getspnam(user.encode())
    if not found:
        if ctypes.get_errno() in (13, 1):
            raise PermissionError(13, "the shadow file")
        return None
    spwd = found.contents
    return (spwd.password or b"").decode("latin-1"), in_force(spwd, int(time.time()) // DAY)


def in_force(spwd: Any, today: int) -> bool:
    """By shadow(5): the account has not expired, and its password is neither too old nor to be changed."""
    if 0 <= spwd.expires <= today or spwd.changed == 0:
        return False
    if spwd.changed < 0 or spwd.most < 0:
        return True
    return bool(today <= spwd.changed + spwd.most + max(spwd.inactive, 0))


def check_shadow(user: str, password: str) -> AuthResult:
    """By the hash of the system."""
    try:
        found = shadow_of(user)
    except PermissionError:
        return AuthResult.TEMPFAIL
    stored, good = found if found is not None else (DUMMY, False)
    try:
        made = libcrypt.crypt(password.encode(), stored)
    except libcrypt.BadSetting:
        # An account without a password, or locked; it should take as long as any.
        libcrypt.crypt(password.encode(), DUMMY)
        return AuthResult.PERMFAIL
    same = made is not None and hmac.compare_digest(made.encode("latin-1"), stored.encode("latin-1"))
    return AuthResult.OK if same and good else AuthResult.PERMFAIL


def check(ask: AuthAsk) -> AuthResult:
    """By PAM, or by the shadow file."""
    if not ask.user or "\0" in ask.user or "\0" in ask.password or not ask.password:
        return AuthResult.PERMFAIL
    if pam_knows_us():
        try:
            pam = Pam()
        except (OSError, AttributeError):
            return AuthResult.TEMPFAIL
        return pam.check(ask.user.encode(), ask.password.encode(), ask.address.encode())
    return check_shadow(ask.user, ask.password)


def serve(sock: socket.socket) -> None:
    """One question."""
    decoder = Decoder(Proc.LKA, Proc.AUTH)
    while data := sock.recv(READ_SIZE):
        for frame in decoder.feed(data):
            assert isinstance(frame.message, AuthAsk)
            answer = AuthAnswered(frame.message.reqid, check(frame.message))
            sock.sendall(Encoder(Proc.AUTH, Proc.LKA, os.getpid()).encode(answer))
            return


def main() -> NoReturn:
    """All of its life."""
    set_title("pysmtpd: auth")
    signal.alarm(LIFETIME)
    os.umask(0o077)
    os.closerange(LKA_FD + 1, FD_MAX)
    jail.let_go_of_terminal(stderr=False)
    jail.not_dumpable()
    libcrypt.preload()
    try:
        serve(socket.socket(fileno=LKA_FD))
    except (ImsgError, OSError):
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
