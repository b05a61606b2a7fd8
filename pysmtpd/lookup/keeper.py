"""What tables behind programs need of the process they are in."""

from typing import Protocol


class Keeper(Protocol):
    """Whoever starts and ends programs for tables, and knows the time and the log."""

    def start_program(self, table: str) -> None:
        """Have it started: ``begun`` or ``refused`` of the table is called."""

    def stop_program(self, table: str) -> None:
        """Have it ended, if it runs."""

    def tell(self, text: str) -> None:
        """A line for the log."""

    def now(self) -> float:
        """Seconds since the epoch."""
