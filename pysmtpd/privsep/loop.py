"""The event loop of every process: asyncio's, with a shorter way from a socket to its callback.

asyncio queues what epoll reported, runs it, and asks epoll again before it runs what those callbacks wished to have run
soon.  Here callbacks of sockets run as they are reported, so that what they queue for the end of the turn (frames for
other processes, lines of the log) leaves in the same turn: one system call and one round of bookkeeping less each time.
"""

import asyncio
import math
import selectors
from collections.abc import Callable, Sized
from typing import Any

Events = list[tuple[selectors.SelectorKey, int]]

if hasattr(selectors, "EpollSelector"):

    class Selector(selectors.EpollSelector):
        """The standard one, with less work for each event."""

        def __init__(self) -> None:
            super().__init__()
            self.last: list[Callable[[], None]] = []   # what to do when a turn is over
            self.ready: Sized = ()                     # what the loop has to do at once

        def select(self, timeout: float | None = None) -> Events:
            if self.last:
                last, self.last = self.last, []
                for callback in last:
                    callback()
                if self.ready:
                    timeout = 0
            # epoll_wait() knows milliseconds; rounded up, for a loop that wakes too early only waits again.
            wait = -1 if timeout is None else 0 if timeout <= 0 else math.ceil(timeout * 1e3) * 1e-3
            keys: dict[int, selectors.SelectorKey] = self._fd_to_key  # type: ignore[attr-defined]
            poll = self._selector.poll  # type: ignore[attr-defined]
            # Whatever is neither plain input nor plain output (an error, a hang-up) is for both to find out.
            return [(key, (event & ~_OUT and _READ) | (event & ~_IN and _WRITE))
                    for fd, event in poll(wait, max(len(keys), 1)) if (key := keys.get(fd)) is not None]
else:
    Selector = selectors.DefaultSelector  # type: ignore[misc,assignment]

_IN, _OUT = 0x001, 0x004           # EPOLLIN and EPOLLOUT, the same on every Linux
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with direct dispatch."""

    def __init__(self) -> None:
        self.selector = Selector()
        super().__init__(self.selector)
        self.selector.ready = self._ready  # type: ignore[attr-defined]  # not in typeshed

    def _process_events(self, event_list: Events) -> None:
        for key, mask in event_list:
            # What a callback before this one removed is cancelled; a descriptor used anew has another handle.
            handles: tuple[Any, Any] = key.data
            reader, writer = handles
            if mask & _READ and reader is not None and not reader._cancelled:
                reader._run()
            if mask & _WRITE and writer is not None and not writer._cancelled:
                writer._run()


def at_end(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run it when this turn of the loop is over, before anything is waited for: what is asked of call_soon() late in a
    turn waits for the next one.  It must not raise, and may ask for call_soon(), but for nothing later."""
    if isinstance(loop, Loop) and hasattr(loop.selector, "last"):
        loop.selector.last.append(callback)
    else:
        loop.call_soon(callback)
