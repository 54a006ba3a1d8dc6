"""Stopping a run politely: the loop ends after the present step; a second Ctrl-C ends at once."""

import signal
from types import FrameType


class Stop:
    """Handler of SIGINT and SIGTERM; `requested` is the name of the signal received, or None."""

    def __init__(self) -> None:
        """Install the handler."""
        self.requested: str | None = None
        # Batch systems and torchrun send SIGTERM some time before they kill.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name
