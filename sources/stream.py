"""Tar shards at addresses (s3://, gs://, https://, ...), read front to back while training.

Whatever fsspec can open is read, and nothing is copied first. The guarantees are weaker than those
of a data set on a disk: nothing can be read at random, so the order comes from a shuffle buffer. A
run without interruption can be repeated; one that is resumed draws the order of its images anew,
keyed by the sample number it resumes at. Flips and degradations stay functions of the sample
number.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import fsspec
import numpy as np
from torch.utils.data import get_worker_info

from degrade import draw
from errors import BadFile, DataError, Interrupted
from storage import counted, shown, some

from . import layouts, shards
from .addresses import BLOCK, Shards, checks, reason
from .aliases import Say
from .files import big_enough, check, decode, fit, read_bytes, sound
from .order import permutation
from .reader import Decoded, Encoded, mapped
from .waiting import Stalled, Thread

# Encoded images from which the next one is drawn, per process: 0.4 GB of 512x512 PNG. This is
# enough to mix several shards of 1 GB.
SHUFFLE = 1000

# Bytes that a shard has to send in --stream-timeout.
LEAST = 64 << 10
# Bytes of a shard between two images: one that sends other things without end is left out, too.
MOST = 1 << 30
# Shards in a row that may stall before nothing more is expected of their store.
PATIENCE = 5
# Shards, spread over all, one of which must have an image for a run to begin.
TRIED = 20

T = TypeVar('T')
Made = TypeVar('Made')


def no_cache(mode: str, say: Say) -> None:
    """Return None, the cache of a stream. Raises DataError if one is requested."""
    if mode == 'auto':
        say('cache: off; images of a stream are not cached')
    elif mode != 'off':
        raise DataError(
            f'--cache {mode}: a stream is not cached; '
            'give auto or off, or copy the shards to a disk'
        )


class Item(NamedTuple):
    """An image file that was read from a shard."""

    epoch: int
    name: str  # address of the shard/member
    data: bytes


class Stream:
    """The images of shards, every one once per epoch: an ImageReader.

    It has the methods of Reader, but returns the next images whatever their indices are.

    Each epoch permutes the shards, every world-th of which is this rank's; worker processes divide
    these among themselves. Images are drawn by Philox from SHUFFLE of their epoch. Bad ones are
    reported once and skipped. A shard that cannot be read, or not to its end, is reported and left
    out until the next epoch.

    source: the shards
    size:   training size in pixels
    start:  sample number at which the run begins or resumes
    rank, world: this process of so many
    Raises DataError: fewer shards than processes; an epoch without a usable image.
    """

    # Sizes are known only when an image has been read.
    uniform = jph = False
    tall = 1

    def __init__(
        self,
        source: Shards,
        size: int,
        *,
        seed: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        say: Say = print,
    ) -> None:
        # A process without a shard would wait for images for ever.
        if len(source) < world:
            raise DataError(
                f'{counted(len(source), "shard")} for {world} processes: each reads shards of its '
                'own; start fewer processes or write smaller shards (tools/build.py '
                '--photos-per-shard)'
            )
        self._urls = source.urls
        self._timeout = source.timeout
        self._held = source.held
        self._size = size
        self._seed = seed
        self._start = start
        self._rank = rank
        self._world = world
        self.say = say

        # What is known of the files so far, by hash, since they have no numbers.
        self._good: set[int] = set()
        self._unproven: dict[int, Item] = {}  # checked, but not decoded
        self._reported: dict[str, str] = {}  # messages by what they are about, in their order
        self._fruitful = -1  # last epoch with a usable image
        self._stalled = 0  # shards in a row

        # Reading starts with the first image, in the process that asks for it.
        self._peeked: list[Item] = []  # these come before those read ahead
        self._ahead: Thread[Item] | None = None
        self._incoming: Generator[Item, None, None] | None = None  # what `_ahead` has read
        self._interrupted = False

    def __len__(self) -> int:
        """Shards of this rank, which is how many processes can share its work."""
        return len(self._urls[self._rank :: self._world])

    # The callback cannot be pickled for a worker process.

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != 'say'}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, say=print)

    def prove(self) -> None:
        """Read an image from any of some shards. Raises DataError if none has one."""
        # Some shards may be empty, damaged or missing, which training passes over.
        reasons: list[str] = []
        silent = 0
        for i in np.unique(np.linspace(0, len(self._urls) - 1, TRIED).astype(int)):
            url = self._urls[i]
            try:
                with contextlib.closing(self._members(url)) as members:
                    if next(members, None):
                        return
                reasons.append(f'{url} holds no image')
            except Exception as e:  # every file system has its own
                reasons.append(f'{url}: {reason(e)}')
                # A store that does not answer is not asked as often as one that lacks a shard.
                answered = isinstance(e, (BadFile, FileNotFoundError))
                silent += not answered or isinstance(e, Stalled)
            if silent == PATIENCE:
                break
        raise DataError(
            f'no image in {counted(len(reasons), "shard")} of {len(self._urls):,}: '
            f'{some(reasons, 3)}. Check {checks(self._urls[0])}'
        )

    # ---- the interface of the pipes ----

    def encoded(
        self, indices: Sequence[int], pool: Executor | None = None, sound: bool = True
    ) -> list[Encoded]:
        """Bytes of a good file for each index, and -1.

        Without `sound` the files are checked, but not decoded: the caller decodes them, passes the
        good ones to `mark_good` and asks for others by `replace_refused`.
        """
        return self._take(len(indices), self._judged if sound else self._checked, pool)

    def mark_good(self, files: Iterable[Encoded]) -> None:
        """Accept files from `encoded` that were all decoded without fault."""
        for data, _ in files:
            self._good.add(hash(data))
            self._unproven.pop(hash(data), None)

    def replace_refused(
        self, refused: Sequence[tuple[int, bytes]], pool: Executor | None = None
    ) -> list[Decoded]:
        """Decode on the CPU what another decoder refused.

        refused: (index, bytes)
        Returns as `decoded` does; files that the CPU refuses too are replaced by the next images.
        """
        # A file that is no longer unproven was found good before.
        items = [
            self._unproven.pop(hash(data), Item(self._fruitful, '', data)) for _, data in refused
        ]
        return self._take(len(refused), self._image, pool, items)

    def peek(self, count: int, pool: Executor | None = None) -> list[bytes]:
        """Bytes of the next files for a trial; they are still to come."""
        self._peeked += [self._next() for _ in range(count - len(self._peeked))]
        return [item.data for item in self._peeked]

    def decoded(self, indices: Sequence[int], pool: Executor | None = None) -> list[Decoded]:
        """Decode an image for each index: ([size, size, 3] uint8 RGB, -1)."""
        return self._take(len(indices), self._image, pool)

    def fit(self, rgb: np.ndarray) -> np.ndarray:
        """Bring a decoded image [H, W, 3] uint8 to the training size. Raises BadFile."""
        return fit(rgb, self._size)

    def interrupt(self) -> None:
        """Make whoever waits for an image, now or later, raise Interrupted."""
        # Nothing more, since a signal's handler may call it.
        self._interrupted = True

    def close(self) -> None:
        """End the threads that read, and whoever waits for them."""
        self.interrupt()
        if self._ahead:
            self._ahead.close(wait=1)

    # ---- one image ----

    def _take(
        self,
        count: int,
        make: Callable[[Item], Made],
        pool: Executor | None,
        items: Sequence[Item] = (),
    ) -> list[tuple[Made, int]]:
        """Make `count` results from these items and the ones after them, bad ones skipped."""

        def attempt(item: Item) -> Made | BadFile:
            try:
                return make(item)
            except BadFile as e:
                return e

        # Bad items leave gaps, which are filled until the batch is complete.
        taken: list[tuple[Made, int]] = []
        while len(taken) < count:
            missing = count - len(taken) - len(items)
            items = [*items, *(self._next() for _ in range(missing))]
            for item, made in zip(items, mapped(pool, attempt, items), strict=True):
                # An item of the epoch after next: the whole of the next one was bad.
                if item.epoch > self._fruitful + 1:
                    raise DataError(
                        f'no usable image in an epoch of {counted(len(self), "shard")}: '
                        f'{some(list(self._reported.values()), 3)}'
                    )
                if isinstance(made, BadFile):
                    self._report(f'{item.name} skipped: {made}')
                else:
                    taken.append((made, -1))
                    self._fruitful = item.epoch
            items = ()
        return taken

    def _image(self, item: Item) -> np.ndarray:
        return self.fit(decode(self._judged(item)))

    def _checked(self, item: Item) -> bytes:
        """Bytes of a file whose structure is good. Raises BadFile."""
        if hash(item.data) not in self._good:
            self._check(item.data)
            self._unproven[hash(item.data)] = item
        return item.data

    def _judged(self, item: Item) -> bytes:
        """Bytes of a file that decodes. Raises BadFile."""
        if hash(item.data) not in self._good:
            self._check(item.data)
            sound(item.data)
            self._good.add(hash(item.data))
        return item.data

    def _check(self, data: bytes) -> None:
        _, width, height, _ = check(data)
        big_enough(width, height, self._size)

    def _tell_copy(self, data: bytes) -> None:
        """Say so, once, if an image is validated on, too."""
        for image in self._held.get(len(data), ()):
            with contextlib.suppress(OSError, BadFile):
                if read_bytes(*image.where) == data:
                    self._report(
                        f'copies of images of --val come in the stream, as {shown(image.path)}: '
                        'they are trained on, and its scores flatter; leave them out of --data'
                    )
                    self._held = {}
                    return

    def _report(self, message: str, about: str = '') -> None:
        """Say something once, or about each thing one thing alone."""
        if (about or message) not in self._reported:
            self._reported[about or message] = message
            self.say(message)

    def _next(self) -> Item:
        if self._peeked:
            return self._peeked.pop(0)
        if self._incoming is None:
            worker = get_worker_info()  # of a DataLoader's process; None elsewhere
            items = self._items(worker.id, worker.num_workers) if worker else self._items(0, 1)
            self._ahead = Thread(items)
            self._incoming = self._ahead.items(self._check_interrupted)
        return next(self._incoming)

    def _check_interrupted(self) -> None:
        if self._interrupted:
            raise Interrupted('a shard was waited for')

    # ---- order ----

    def _items(self, worker: int, workers: int) -> Iterator[Item]:
        """Items of this process in their order, epoch after epoch. Raises DataError."""
        # A key per run, rank and worker: their draws are independent, and a run can be repeated.
        name = draw.stream(f'shuffle/{self._start}/{self._rank}/{worker}')
        words = np.random.Philox(key=np.array([self._seed, name], np.uint64))

        def drawn(n: int) -> int:
            return int(words.random_raw()) * n >> 64

        epochs = (self._epoch(epoch, worker, workers) for epoch in itertools.count())
        for item in shuffled(epochs, SHUFFLE, drawn):
            # LQ of pairs would be degraded a second time, and masks are no faces.
            role = layouts.role_of_member(item.name)
            if role is layouts.MASK:
                self._report('masks beside the faces of the shards (.seg.png, ...) are left out')
                continue
            if role is layouts.LQ:
                raise DataError(
                    f'{item.name} is an LQ, and of a stream only HQ faces are trained on: copy and '
                    'unpack the shards, and give --data the folder with LQ/ and GT/'
                )
            yield item

    def _epoch(self, epoch: int, worker: int, workers: int) -> Iterator[Item]:
        """Items of this process in an epoch, shard by shard."""
        count = 0
        # All ranks and workers derive the same order and take disjoint parts of it.
        order = permutation(self._start + epoch, len(self._urls), self._seed)
        for i in order[self._rank :: self._world][worker::workers]:
            url = self._urls[i]
            read = 0
            try:
                for name, data in self._members(url):
                    read += 1
                    self._tell_copy(data)
                    yield Item(epoch, f'{url}/{name}', data)
            except Interrupted:
                raise
            except Exception as e:  # every file system has its own
                which = f'{url}, behind its first {counted(read, "image")},' if read else url
                # Once for a shard: a connection breaks at another place each time.
                self._report(f'{which} left out until the next epoch: {reason(e)}', url)
                self._check_patience(isinstance(e, Stalled))
            count += read
        if not count:
            raise DataError(
                f'no image in an epoch of {counted(len(self), "shard")}: '
                f'{some(list(self._reported.values()), 3)}. Check {checks(self._urls[0])}'
            )

    def _members(self, url: str) -> Generator[tuple[str, bytes], None, None]:
        """(name, contents) of every image of a shard. Raises Stalled, and what reading it does."""
        shard = _Shard(url, self._timeout)

        def check() -> None:
            self._check_interrupted()
            shard.check()

        with contextlib.closing(Thread(shard.members())) as thread:
            for name, data in thread.items(check, shard.begin_wait):
                self._stalled = 0
                yield name, data

    def _check_patience(self, stalled: bool) -> None:
        """Raise DataError after PATIENCE shards in a row that stalled."""
        self._stalled = self._stalled + 1 if stalled else 0
        if self._stalled >= PATIENCE:
            last = list(self._reported.values())[-3:]
            raise DataError(
                f'{self._stalled} shards in a row stalled: {some(last, 3)}. '
                'Check the network, or allow more with --stream-timeout; the same command goes on '
                'from the last checkpoint'
            )


class _Meter:
    """A file that counts what is read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.bytes += len(data)
        return data


class _Shard:
    """A shard that is read while somebody watches how much of it comes."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._meter: _Meter | None = None  # once the address has answered

        # Since the last look that found enough, and when the image began to be waited for.
        self._since = time.monotonic()
        self._bytes = 0
        self._begun = 0

    def members(self) -> Iterator[tuple[str, bytes]]:
        """(name, contents) of every image. Raises whatever the file system does, and BadFile."""
        fs, path = fsspec.core.url_to_fs(self._url)
        with fs.open(path, 'rb', block_size=BLOCK) as file:
            self._meter = _Meter(file)
            for name, _, data in shards.walk(cast(BinaryIO, self._meter), sequential=True):
                # What is not wanted would have to come all the same: the shard is left.
                if isinstance(data, BadFile):
                    raise BadFile(f'{shown(name)}: {data}')
                yield name, data

    def begin_wait(self) -> None:
        """Count from now on: before, nobody was waiting."""
        self._begin_window()
        self._begun = self._bytes

    def check(self) -> None:
        """Raise Stalled if too little came since the waiting began, or since the last window; and
        if too much came without an image.
        """
        if self._read() - self._begun > MOST:
            raise Stalled(f'stalled: no image in {MOST:,} bytes')
        if time.monotonic() - self._since <= self._timeout:
            return
        came = self._read() - self._bytes
        if came < LEAST:
            what = 'no answer' if self._meter is None else f'{came:,} bytes'
            raise Stalled(f'stalled: {what} in {self._timeout:g} s, --stream-timeout')
        self._begin_window()

    def _begin_window(self) -> None:
        self._since = time.monotonic()
        self._bytes = self._read()

    def _read(self) -> int:
        return self._meter.bytes if self._meter else 0


def shuffled(epochs: Iterator[Iterator[T]], size: int, drawn: Callable[[int], int]) -> Iterator[T]:
    """Iterate over the items of all epochs, each drawn from a buffer of up to `size` items.

    epochs: endless; every epoch is complete before the next one begins
    drawn:  drawn(n) is a number below n
    For each item that is drawn another is read, from the next epoch where this one has no more:
    the memory stays the same, and reading never pauses.
    """
    # The buffer is filled once; from then on, one item is read for each that is drawn.
    reading = next(epochs)
    buffer = list(itertools.islice(reading, size))
    while True:
        following = next(epochs)
        ahead: list[T] = []  # of the following epoch
        while buffer:
            # The drawn item changes places with the last, which is cheap to remove.
            place = drawn(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()

            refill = list(itertools.islice(reading, 1))
            buffer += refill
            if not refill:
                ahead += itertools.islice(following, 1)
        buffer = ahead + list(itertools.islice(following, size - len(ahead)))
        reading = following
