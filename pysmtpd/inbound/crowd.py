"""All clients of the process: how much they hold together, and who of them waits for the queue."""

from pysmtpd.base import logline
from pysmtpd.base.logline import Level
from pysmtpd.inbound.client import QUEUE_BACKLOG_MAX, Client, Host

HELD_MAX = 128 * 1024 * 1024       # octets kept for all clients: unanswered commands, unfinished headers, replies
TLS_SHARE = 4                      # clients' worth of memory, roughly, that one with TLS takes: 25 KB, not 3
HELD_LOW = HELD_MAX // 8 * 7       # and down to what, when those who hold most have to go


class Crowd:
    """Every client there is, by its session's id."""

    def __init__(self, process: Host) -> None:
        self.clients: dict[int, Client] = {}
        self.held = 0              # octets, by all of them
        self.secured = 0           # how many speak TLS
        self._process = process
        self._choked: dict[int, Client] = {}

    def add(self, client: Client) -> None:
        self.clients[client.id] = client

    def remove(self, client: Client) -> bool:
        """Its session is over; False when that was known."""
        if self.clients.pop(client.id, None) is None:
            return False
        self.held -= client.held
        client.held = 0
        self.secured -= client.secured
        return True

    def secure(self, client: Client) -> None:
        """It begins to speak TLS."""
        self.secured += not client.secured
        client.secured = True

    @property
    def worth(self) -> int:
        """How many clients without TLS would take as much memory."""
        return len(self.clients) + (TLS_SHARE - 1) * self.secured

    def weigh(self, client: Client, held: int) -> None:
        """It holds so many octets now."""
        self.held += held - client.held
        client.held = held
        if self.held > HELD_MAX:
            self._relieve()

    def _relieve(self) -> None:
        """Clients hold more than is good: those who hold most have to go, as many as it takes."""
        for client in self.clients.values():
            client.held = 0 if client.io.closed else client.session.held + client.io.backlog
        self.held = size = sum(client.held for client in self.clients.values())
        if size <= HELD_MAX:
            return
        shed = []
        for client in sorted(self.clients.values(), key=lambda one: -one.held):
            if self.held <= HELD_LOW:
                break
            self.held -= client.held
            client.held = 0
            shed.append(client)
        self._process.log(logline.SMTP_OVERLOAD.format(size=size, count=len(shed)), Level.ERR)
        for client in shed:
            # From the loop: one of them is in the middle of something.
            self._process.loop.call_soon(client.shed)

    def wait_for_queue(self, client: Client) -> None:
        """The queue is behind: nothing else may ever happen that makes this client be read again."""
        if not self._choked:
            self._process.queue.when_room(QUEUE_BACKLOG_MAX, self._unchoke)
        self._choked[client.id] = client

    def _unchoke(self) -> None:
        choked, self._choked = self._choked, {}
        for client in choked.values():
            if not client.io.closed:
                client.pace()
