"""A first Ctrl-C or SIGTERM asks the loop to stop after the step it is in; a second Ctrl-C ends at once."""

import signal


class Stop:
    """asked: name of the signal that came, None before."""

    def __init__(self):
        self.asked = None
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self._on)

    def _on(self, number, _):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number).name
