"""Tar shards at addresses (s3://, gs://, https://, ...), read front to back while training.

Whatever fsspec can open is read, and nothing is copied first. The guarantees are weaker than those
of a data set on a disk: nothing can be read at random, so the order comes from a shuffle buffer. A
run without interruption can be repeated; one that is resumed draws the order of its images anew,
keyed by the sample number it resumes at. Flips and degradations stay functions of the sample
number.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar, cast

import fsspec
import numpy as np
from torch.utils.data import get_worker_info

from degrade import draw
from errors import BadFile, DataError, Interrupted
from storage import counted, shown, some

from . import layouts, shards
from .aliases import FilePath, Say
from .files import big_enough, check, decode, fit, read_bytes, sound
from .listing import natural
from .manifest import Image
from .order import permutation
from .reader import Decoded, Encoded, mapped

# Encoded images from which the next one is drawn, per process: 0.4 GB of 512x512 PNG. This is
# enough to mix several shards of 1 GB.
SHUFFLE = 1000
# Drawn images that wait for the training: an object store pauses for a second now and then.
AHEAD = 64
# Bytes per request: with less, a connection waits longer than it reads.
BLOCK = 16 << 20

# Seconds in which an address has to answer, and a shard to send LEAST bytes.
TIMEOUT = 30.0
LEAST = 64 << 10
# Bytes of a shard between two images: one that sends other things without end is left out, too.
MOST = 1 << 30
# Shards in a row that may stall before nothing more is expected of their store.
PATIENCE = 5
# Shards, spread over all, one of which must have an image for a run to begin.
TRIED = 20
# Seconds between two looks at whether waiting is still worth it.
POLL = 0.1

T = TypeVar('T')
Made = TypeVar('Made')


# ---- addresses ----


class Shards:
    """Addresses of the shards of a data set; len() is their number.

    timeout: seconds without an answer, or without LEAST bytes, after which a shard is left out
    held: {bytes: files} that are validated on, of which copies are told
    """

    def __init__(
        self,
        urls: Iterable[str],
        timeout: float = TIMEOUT,
        held: Mapping[int, Sequence[Image]] | None = None,
    ) -> None:
        self.urls = list(urls)
        self.timeout = timeout
        self.held = held or {}

    def __len__(self) -> int:
        return len(self.urls)

    def beside(self, held: Mapping[int, Sequence[Image]]) -> 'Shards':
        """The same shards, copies of these files told as well."""
        sizes = {*self.held, *held}
        both = {size: [*self.held.get(size, ()), *held.get(size, ())] for size in sizes}
        return Shards(self.urls, self.timeout, both)


def is_url(source: FilePath) -> bool:
    """Whether a source is an address rather than a path."""
    return '://' in str(source)


def find(source: str, timeout: float = TIMEOUT) -> Shards:
    """Shards of an address, in natural order.

    source: with braces ({000..099}), or with stars or a folder, which the store lists
    timeout: seconds, as for Shards
    Raises DataError: a library is not installed, nothing is found, a store does not answer.
    """
    urls: list[str] = []
    for url in shards.braces(source):
        try:
            urls += _listed(url, timeout)
        except ImportError as e:
            raise DataError(
                f'{shown(source)}: {e}: pip install {_package(e)} '
                '(for s3:// and https://: pip install -e .[remote])'
            ) from e
        except Exception as e:  # every file system has its own
            raise DataError(
                f'{shown(source)}: cannot be listed ({_reason(e)}); check {_checks(source)}'
            ) from e
    if not urls:
        raise DataError(f'{shown(source)}: no shards found; {_why_none(source, timeout)}')
    return Shards(sorted(set(urls), key=natural), timeout)


def find_all(sources: Sequence[str], timeout: float = TIMEOUT) -> Shards:
    """Shards of several addresses, one after the other: as of `find`."""
    found = [find(source, timeout).urls for source in sources]
    return Shards(dict.fromkeys(itertools.chain.from_iterable(found)), timeout)


def _listed(url: str, timeout: float) -> list[str]:
    """Addresses that an address stands for. Raises whatever its file system does, and BadFile."""
    fs, path = fsspec.core.url_to_fs(url)
    # Only stars and folders need an answer from the store; braces are expanded before.
    if '*' in url:
        found = _ask(lambda: fs.glob(path), timeout)
    elif _is_shard(url) or not _ask(lambda: _is_folder(fs, path), timeout):
        return [url]
    else:
        found = _ask(lambda: fs.glob(f'{path.rstrip("/")}/*.tar'), timeout)
        if not found:
            raise BadFile('a folder without .tar files; those in folders below it: FOLDER/**/*.tar')
    return [fs.unstrip_protocol(p) for p in found]


def _is_shard(url: str) -> bool:
    """Whether an address is one of a shard by its name."""
    # A web server has no folders, and might send a whole shard to tell.
    return url.startswith('http') or url.partition('?')[0].lower().endswith('.tar')


def _is_folder(fs: Any, path: str) -> bool:
    """Whether a store has a folder of this name. Raises FileNotFoundError for a missing bucket."""
    try:
        return fs.info(path)['type'] == 'directory'
    except PermissionError:
        return False  # who may read a shard need not be allowed to list
    except FileNotFoundError:
        # A missing shard is told when its turn comes.
        if '/' in path.strip('/'):
            return False
        raise


def _why_none(source: str, timeout: float) -> str:
    """Why a pattern finds nothing, in words."""
    fs, path = fsspec.core.url_to_fs(next(iter(shards.braces(source))))
    try:
        # Nothing is found in a bucket that is not there, either, which only a listing tells.
        _ask(lambda: fs.ls(path.partition('*')[0].rpartition('/')[0]), timeout)
    except Exception as e:  # every file system has its own
        return f'{_reason(e)}; check {_checks(source)}'
    return 'check the pattern'


def _ask(question: Callable[[], T], timeout: float) -> T:
    """What a store answers. Raises whatever its file system does, and _Stalled."""
    started = time.monotonic()

    def check() -> None:
        if time.monotonic() - started > timeout:
            raise _Stalled(f'no answer in {timeout:g} s, --stream-timeout')

    with contextlib.closing(_Thread(question() for _ in range(1))) as thread:
        return next(thread.items(check))


def _checks(source: str) -> str:
    """What to look at when a store does not answer as it should."""
    s3 = "; AWS_ENDPOINT_URL names a store other than Amazon's" if source.startswith('s3') else ''
    return f'the address, the credentials and the network{s3}'


def _package(error: ImportError) -> str:
    """Name of the missing package; fsspec wraps the original error."""
    cause = getattr(error.__cause__, 'name', None)
    return cause or error.name or 'the package it names'


def no_cache(mode: str, say: Say) -> None:
    """Return None, the cache of a stream. Raises DataError if one is requested."""
    if mode == 'auto':
        say('cache: off; images of a stream are not cached')
    elif mode != 'off':
        raise DataError(
            f'--cache {mode}: a stream is not cached; '
            'give auto or off, or copy the shards to a disk'
        )


# ---- reading ----


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
        self._ahead: _Thread[Item] | None = None
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
                reasons.append(f'{url}: {_reason(e)}')
                # A store that does not answer is not asked as often as one that lacks a shard.
                answered = isinstance(e, (BadFile, FileNotFoundError))
                silent += not answered or isinstance(e, _Stalled)
            if silent == PATIENCE:
                break
        raise DataError(
            f'no image in {counted(len(reasons), "shard")} of {len(self._urls):,}: '
            f'{some(reasons, 3)}. Check {_checks(self._urls[0])}'
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
            self._ahead = _Thread(items)
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
                self._report(f'{which} left out until the next epoch: {_reason(e)}', url)
                self._check_patience(isinstance(e, _Stalled))
            count += read
        if not count:
            raise DataError(
                f'no image in an epoch of {counted(len(self), "shard")}: '
                f'{some(list(self._reported.values()), 3)}. Check {_checks(self._urls[0])}'
            )

    def _members(self, url: str) -> Generator[tuple[str, bytes], None, None]:
        """(name, contents) of every image of a shard. Raises _Stalled, and what reading it does."""
        shard = _Shard(url, self._timeout)

        def check() -> None:
            self._check_interrupted()
            shard.check()

        with contextlib.closing(_Thread(shard.members())) as thread:
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


class _Stalled(BadFile):
    """An address from which too little came for too long."""


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
        """Raise _Stalled if too little came since the waiting began, or since the last window; and
        if too much came without an image.
        """
        if self._read() - self._begun > MOST:
            raise _Stalled(f'stalled: no image in {MOST:,} bytes')
        if time.monotonic() - self._since <= self._timeout:
            return
        came = self._read() - self._bytes
        if came < LEAST:
            what = 'no answer' if self._meter is None else f'{came:,} bytes'
            raise _Stalled(f'stalled: {what} in {self._timeout:g} s, --stream-timeout')
        self._begin_window()

    def _begin_window(self) -> None:
        self._since = time.monotonic()
        self._bytes = self._read()

    def _read(self) -> int:
        return self._meter.bytes if self._meter else 0


class _Thread(Generic[T]):
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


def _reason(error: Exception) -> str:
    """First line of an error, with its class unless it is ours."""
    text = (str(error).strip().splitlines() or [''])[0][:300]
    if isinstance(error, FileNotFoundError):
        return text if 'not exist' in text else f'{error.filename or text} does not exist'
    return text if isinstance(error, BadFile) else f'{type(error).__name__}: {text}'
