"""Waiting for a store, whose answers may come late or never: a thread asks, and the waiting can be
given up.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from errors import BadFile

# Items that wait for whoever takes them: an object store pauses for a second now and then.
AHEAD = 64
# Seconds between two looks at whether waiting is still worth it.
POLL = 0.1

T = TypeVar('T')


class Stalled(BadFile):
    """An address from which too little came for too long."""


class Thread(Generic[T]):
    """Items of an iterator, taken from it by one thread, up to AHEAD of them ahead.

    With a single thread, neither the store's pauses nor the number of threads that decode change
    what comes next.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._queue: queue.Queue[T | BaseException] = queue.Queue(AHEAD)
        self._closing = threading.Event()
        # A daemon: a connection that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, daemon=True, name='shards')
        self._thread.start()

    def items(
        self, check: Callable[[], None], begin: Callable[[], None] = lambda: None
    ) -> Generator[T, None, None]:
        """Iterate over the items; raises whatever the iterator raised.

        begin: called when an item begins to be waited for
        check: called now and then while it is; may raise, to end the waiting
        """
        while True:
            # Time that nobody waits, while a batch is trained on, is not the store's.
            begin()
            item = self._wait(check)
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self, wait: float = 0) -> None:
        """Let the thread end as soon as it comes back from its iterator.

        wait: seconds to wait for that; a connection that hangs is not waited for any longer
        """
        # The thread itself cannot be stopped, but looks at this after every item.
        self._closing.set()
        self._thread.join(wait)

    def _wait(self, check: Callable[[], None]) -> T | BaseException:
        while True:
            try:
                return self._queue.get(timeout=POLL)
            except queue.Empty:
                check()

    def _run(self) -> None:
        try:
            for item in self._items:
                self._put(item)
                if self._closing.is_set():
                    return
            self._put(StopIteration())
        except BaseException as e:  # raised again by `items`
            self._put(e)

    def _put(self, item: T | BaseException) -> None:
        # Woken up now and then, in order to notice that nobody takes items any more.
        while not self._closing.is_set():
            try:
                return self._queue.put(item, timeout=POLL)
            except queue.Full:
                pass
