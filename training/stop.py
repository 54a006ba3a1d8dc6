"""Stopping a run politely: the loop ends after the present step; a second Ctrl-C ends at once."""

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Stop:
    """Context that takes SIGINT and SIGTERM for a wish; `requested` is the number of the signal, or
    0.
    """

    def __init__(self) -> None:
        """Nothing is taken yet."""
        self.requested = 0
        self.then: Callable[[], None] | None = None  # called once a stop is requested
        self._before: dict[int, object] = {}

    @property
    def name(self) -> str | None:
        """Name of the signal that this process has received, None if there was none."""
        return signal.Signals(self.requested).name if self.requested else None

    def __enter__(self) -> 'Stop':
        """Install the handlers."""
        # Batch systems and torchrun send SIGTERM some time before they kill.
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        """Restore the handlers from before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number
        if self.then:
            self.then()


def status(number: int) -> int:
    """Exit status of a run that a signal has ended, as a shell has it."""
    return 128 + number
