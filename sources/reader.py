"""Reading while training: a file that turns out bad is replaced by the next good one.

The replacement is the same in every pipe.
"""

import abc
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from errors import BadFile, DataError
from storage import shown, some

from .aliases import Say
from .files import big_enough, check, decode, fit, read_bytes, sound
from .manifest import P

Item = TypeVar('Item')
Result = TypeVar('Result')

# An image number stands for the image that was read: another one where the asked-for is bad, and -1
# in a stream, which has no numbers.
Encoded = tuple[bytes, int]  # bytes of a file, image number
Decoded = tuple[np.ndarray, int]  # [tall * size, size, 3 or more] uint8 RGB, image number


class ImageReader(Protocol):
    """What a pipe needs of a source of images; implemented by Reader and stream.Stream.

    uniform: all images have exactly the training size
    jph:     all of them, moreover, are JPH
    tall:    how many times as high as wide the decoded images are
    """

    uniform: bool
    jph: bool
    tall: int

    def __len__(self) -> int:
        """Number of images, or of shards."""

    def encoded(
        self, indices: Sequence[int], pool: Executor | None = None, sound: bool = True
    ) -> list[Encoded]:
        """Bytes of good files; without `sound` they are checked, but not decoded."""

    def decoded(self, indices: Sequence[int], pool: Executor | None = None) -> list[Decoded]:
        """Decoded images of the training size."""

    def mark_good(self, files: Iterable[Encoded]) -> None:
        """Report that files from `encoded(..., sound=False)` were decoded without fault."""

    def replace_refused(
        self, refused: Sequence[tuple[int, bytes]], pool: Executor | None = None
    ) -> list[Decoded]:
        """Images in place of (image number, bytes) that the caller's decoder refused."""

    def peek(self, count: int, pool: Executor | None = None) -> list[bytes]:
        """Bytes of some files for a trial, without consuming them."""

    def fit(self, rgb: np.ndarray) -> np.ndarray:
        """Bring a decoded image [H, W, 3] uint8 to the training size. Raises BadFile."""

    def interrupt(self) -> None:
        """Make whoever waits for an image raise Interrupted; a signal's handler may call it."""

    def close(self) -> None:
        """End whatever reads in the background."""


def mapped(
    pool: Executor | None, function: Callable[[Item], Result], items: Iterable[Item]
) -> list[Result]:
    """Apply a function to all items, by the threads of a pool if there is one."""
    return list(pool.map(function, items) if pool else map(function, items))


class Reader(Generic[P]):
    """Files by number; a bad one is replaced by the next good one, the first after the last.

    images: of a manifest
    size:   training size in pixels
    A file is checked whenever it is read, and decoded for judgement when it is first read, unless
    scan(verify=True) has done that. The replacement is a function of the files, not of the order of
    the requests. Threads may share a Reader; processes get a copy that judges and reports on its
    own.
    """

    tall = 1  # how many times as high as wide the decoded images are

    def __init__(self, images: Iterable[P], size: int = 512, say: Say = print) -> None:
        self.images = list(images)
        self.size = size
        self.say = say
        self._lock = threading.Lock()  # of _reported
        self._good: set[int] = set()
        self._bad: dict[int, str] = {}  # and why
        self._reported: set[int] = set()

        # One notice at the start: resizing costs quality and time, and is seldom intended.
        larger = sum((i.width, i.height) != (size, self.tall * size) for i in self.images)
        self.uniform = not larger  # all of exactly the training size
        self.jph = self.uniform and all(i.kind == 'jph' for i in self.images)
        if larger:
            say(
                f'{larger:,} of {len(self):,} images are larger than {size}x{size}: '
                'area-resized, then centre-cropped'
            )

    def __len__(self) -> int:
        return len(self.images)

    # Neither a lock nor a callback can be pickled for a worker process.

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ('_lock', 'say')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), say=print)

    # ---- the interface of the pipes ----

    def encoded(
        self, indices: Sequence[int], pool: Executor | None = None, sound: bool = True
    ) -> list[Encoded]:
        """Bytes of a good file for each index, and the number of the image that it is.

        Without `sound` the files are checked, but not decoded: the caller decodes them, passes the
        good ones to `mark_good` and asks for others by `replace_refused`.
        """
        return mapped(pool, lambda index: self.read(index, sound), indices)

    def mark_good(self, files: Iterable[Encoded]) -> None:
        """Accept files from `encoded` that were all decoded without fault."""
        self._good.update(used for _, used in files)

    def replace_refused(
        self, refused: Sequence[tuple[int, bytes]], pool: Executor | None = None
    ) -> list[Decoded]:
        """Decode on the CPU what another decoder refused.

        refused: (index, bytes)
        Returns as `decoded` does; files that the CPU refuses too are replaced.
        """
        return self.decoded([index for index, _ in refused], pool)

    def peek(self, count: int, pool: Executor | None = None) -> list[bytes]:
        """Bytes of the first files, for a trial."""
        return [data for data, _ in self.encoded(range(min(count, len(self))), pool, sound=False)]

    def decoded(self, indices: Sequence[int], pool: Executor | None = None) -> list[Decoded]:
        """Decode an image for each index: ([tall * size, size, 3] uint8 RGB, image number)."""
        return mapped(pool, self.image, indices)

    def interrupt(self) -> None:
        """Do nothing: a disk answers."""

    def close(self) -> None:
        """Do nothing: no file stays open between two reads."""

    # ---- one image ----

    def read(self, index: int, sound: bool = True) -> Encoded:
        """Bytes of a good file, and the number of the image that it is.

        A replacement is reported once. Raises DataError when no file is left.
        """
        # The next good one in manifest order, so that every pipe and rank takes the same.
        for step in range(len(self)):
            used = (index + step) % len(self)
            data = self._judge(used, sound)
            if data is not None:
                self._report([(index + s) % len(self) for s in range(step)], used)
                return data, used
        reasons = [f'{shown(self.images[i].path)} ({r})' for i, r in sorted(self._bad.items())]
        raise DataError(
            f'none of {len(self):,} files can be decoded any more: {some(reasons, 3)}. '
            'Is the disk still there?'
        )

    def image(self, index: int) -> Decoded:
        """Read, decode and fit an image: ([tall * size, size, 3] uint8 RGB, image number)."""
        while True:
            data, used = self.read(index)
            try:
                return self.fit(decode(data)), used
            except BadFile as e:  # changed on disk since it was judged
                self._bad[used] = str(e)

    def suits(self, width: int, height: int) -> None:
        """Raise BadFile for a size in pixels that `fit` refuses."""
        big_enough(width, height, self.size)

    def fit(self, rgb: np.ndarray) -> np.ndarray:
        """Bring a decoded image [H, W, 3] uint8 to the training size. Raises BadFile."""
        return fit(rgb, self.size)

    def _judge(self, index: int, decodes: bool = True) -> bytes | None:
        """Bytes of a good file, None of a bad one.

        decodes: a file must decode to be good, rather than merely pass `check`
        """
        if index in self._bad:
            return None
        image = self.images[index]
        try:
            data = read_bytes(*image.where)
            # Also for files known to be good: one that has changed since would end the decoder of a
            # whole batch.
            self.suits(*check(data)[1:3])
            if decodes and index not in self._good:
                if not image.sound:
                    sound(data)
                self._good.add(index)
            return data
        except OSError as e:
            self._bad[index] = f'cannot be read: {e.strerror}'
        except BadFile as e:
            self._bad[index] = str(e)
        return None

    def _report(self, skipped: Sequence[int], used: int) -> None:
        # Two threads may meet the same bad file at once.
        with self._lock:
            new = [i for i in skipped if i not in self._reported]
            self._reported.update(new)
        for i in new:
            bad, good = (shown(self.images[j].path) for j in (i, used))
            self.say(f'{bad} cannot be decoded ({self._bad[i]}): replaced by {good}')


class PairedReader(Reader[P], abc.ABC):
    """Reader of pictures with a companion, a mask or an LQ, in further channels.

    A pair of which either file turns out bad is replaced by the next good one.
    """

    @abc.abstractmethod
    def paired(self, index: int) -> np.ndarray:
        """Read the companion of a picture: [size, size, k] uint8. Raises OSError, BadFile."""

    @abc.abstractmethod
    def reason(self, index: int, error: Exception) -> str:
        """Describe for a message a pair whose companion raised `error`."""

    def read_paired(self, used: Sequence[int], pool: Executor) -> np.ndarray:
        """Read the companions [B, size, size, k] uint8 of pictures that are decoded elsewhere.

        It is too late for a replacement: raises DataError for what has changed since it was judged.
        """

        def read(index: int) -> np.ndarray:
            try:
                return self.paired(index)
            except (OSError, BadFile) as e:
                raise DataError(
                    f'{shown(self.images[index].path)}: {self.reason(index, e)}; it was good when '
                    'the run began: put it back, and the same command goes on'
                ) from e

        return np.stack(list(pool.map(read, used)))

    def image(self, index: int) -> Decoded:
        """Read a pair: ([size, size, 3 + k] uint8, image number)."""
        while True:
            rgb, used = super().image(index)
            try:
                return np.dstack([rgb, self.paired(used)]), used
            except (OSError, BadFile) as e:  # changed on disk since it was judged
                self._bad[used] = self.reason(used, e)

    def _judge(self, index: int, decodes: bool = True) -> bytes | None:
        """Bytes of the picture if its companion is good too."""
        # The companion is judged together with its picture, once.
        new = index not in self._good
        data = super()._judge(index, decodes)
        if new and data is not None:
            try:
                self.paired(index)
            except (OSError, BadFile) as e:
                self._bad[index] = self.reason(index, e)
                return None
        return data


class StrictReader(Reader[P]):
    """Reader of images to which other data belong by number, so that none may be replaced.

    Raises DataError for a bad file.
    """

    def _report(self, skipped: Sequence[int], used: int) -> None:
        if skipped:
            path, reason = self.images[skipped[0]].path, self._bad[skipped[0]]
            raise DataError(
                f'{shown(path)} cannot be decoded ({reason}): repair or remove it; '
                '--verify leaves such files out before training'
            )
