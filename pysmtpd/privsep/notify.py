"""What the service manager is told: sd_notify(3), one datagram."""

import socket


def notify(path: str, state: str) -> None:
    """Say READY=1 or STOPPING=1 to the socket that NOTIFY_SOCKET names; an empty path is nobody.

    Raises OSError when nobody listens there."""
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1.0)
        sock.sendto(state.encode(), address)
