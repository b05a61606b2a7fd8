"""The client's end of the control socket: which socket, and one question after the other.

The daemon is trusted no more than it trusts us: whatever is not a frame that control may send ends the connection.
"""

import array
import os
import socket
from collections.abc import Mapping

from pysmtpd.base import paths
from pysmtpd.base.procs import Proc
from pysmtpd.imsg import Decoder, Encoder, Frame, ImsgError, Message, version
from pysmtpd.messages import CtlDone, CtlSubmit, CtlSubmitReady

TIMEOUT = 90.0                     # seconds; control itself gives up after 60
NOT_RUNNING = "smtpd doesn't seem to be running"
_READ_SIZE = 65536


class ControlError(Exception):
    """It did not work: why, for the user."""


def one_person() -> bool:
    """Whether nobody else's rights are used (setuid, setgid), so that environment and options may be believed."""
    return os.getuid() == os.geteuid() and os.getgid() == os.getegid()


def control_path(state_dir: str, environ: Mapping[str, str], *, trusted: bool) -> str:
    """The path of the control socket.

    ``state_dir`` is the option's, or empty; ``trusted`` says whether it and the environment are to be believed."""
    if not trusted:
        state_dir, environ = "", {}
    chosen = state_dir or environ.get("PYSMTPD_STATE_DIR", "")
    if chosen:
        return paths.under(chosen).socket
    if not os.path.exists(paths.SYSTEM_SOCKET):
        own = paths.state_dir_of(environ if environ.get("HOME") or not trusted else {**environ, "HOME": home()})
        if own:
            return paths.under(own).socket
    return paths.SYSTEM_SOCKET


def home() -> str:
    """The home directory of who calls, as the system knows it; empty when it does not."""
    import pwd  # only for those without $HOME

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


class Control:
    """A connection to control."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except PermissionError as error:
            self._socket.close()
            raise ControlError(f"{path}: {error.strerror}") from None
        except OSError:
            self._socket.close()
            raise ControlError(NOT_RUNNING) from None
        self._encoder = Encoder(Proc.CLIENT, Proc.CONTROL, os.getpid())
        self._decoder = Decoder(Proc.CONTROL, Proc.CLIENT)
        self._fds: list[int] = []

    def ask(self, question: Message) -> Message:
        """The answer.  Raises ControlError when there is none, or when it is a refusal that says why."""
        try:
            self._socket.sendall(self._encoder.encode(question, version()))
            answer = self._receive().message
        except TimeoutError:
            raise ControlError("smtpd does not answer") from None
        except ImsgError as error:
            raise ControlError(f"bad message: {error}") from None
        except OSError:
            raise ControlError("pipe closed") from None
        if isinstance(answer, CtlDone) and not answer.ok and answer.text:
            raise ControlError(answer.text)
        return answer

    def submit(self) -> socket.socket:
        """An SMTP session with the daemon.  Raises ControlError."""
        answer = self.ask(CtlSubmit(1, os.getuid()))
        if not isinstance(answer, CtlSubmitReady) or not self._fds:
            raise ControlError("bad message type")
        session = socket.socket(fileno=self._fds.pop())
        session.settimeout(TIMEOUT)
        return session

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> Frame:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_SIZE, socket.CMSG_SPACE(4))
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    self._fds.extend(fds)
            if not data:
                raise ControlError("pipe closed")
            for frame in self._decoder.feed(data):
                return frame
