"""Tar shards at addresses (s3://, gs://, https://, ...), read from front to back while training: what fsspec can open, nothing is copied first.

Weaker than a data set on a disk: nothing can be read at random, so the order comes from a shuffle buffer. A run without interruption can be repeated; one that
is resumed draws the order of its images anew, keyed by the sample number it resumes at, while flips and degradations stay functions of the sample number.
"""

import contextlib
import itertools
import queue
import threading
from typing import NamedTuple

import fsspec
import numpy as np
from torch.utils.data import get_worker_info

from degrade import draw
from errors import BadFile, DataError

from . import shards
from .files import big_enough, check, decode, fit, shown, sound
from .manifest import SIDES, natural, some
from .order import permutation

SHUFFLE = 1000  # encoded images that the next one is drawn from, per process: 0.4 GB of 512x512 PNG, and several shards of 1 GB mix well enough
AHEAD = (
    64  # drawn images that wait for the training: an object store pauses for a second now and then
)
BLOCK = 16 << 20  # bytes asked for at once: with less, one connection waits more than it reads


class Shards:
    """Addresses of the shards of a data set; len() is their number."""

    def __init__(self, urls):
        self.urls = list(urls)

    def __len__(self):
        return len(self.urls)


def is_url(source):
    return '://' in str(source)


def find(source):
    """Shards of an address, with braces ({000..099}) or with stars that the store lists, in natural order. Raises DataError: a library that is not installed,
    nothing found, a store that does not answer."""
    urls = []
    for url in shards.braces(source):
        try:
            fs, path = fsspec.core.url_to_fs(url)
            urls += [fs.unstrip_protocol(p) for p in fs.glob(path)] if '*' in url else [url]
        except ImportError as e:
            package = (
                getattr(e.__cause__, 'name', None)
                or getattr(e, 'name', None)
                or 'the package it names'
            )
            raise DataError(
                f'{shown(source)}: {e}: pip install {package} (for s3:// and https://: pip install -e .[remote])'
            ) from e
        except Exception as e:  # every file system has its own
            raise DataError(
                f'{shown(source)}: cannot be listed ({_reason(e)}); check the address and the credentials'
            ) from e
    if not urls:
        raise DataError(f'{shown(source)}: no shards found; check the pattern')
    return Shards(sorted(set(urls), key=natural))


def no_cache(mode, say):
    """None, the cache of a stream. Raises DataError if one is asked for."""
    if mode == 'auto':
        say('cache: off; images are not kept from a stream')
    elif mode != 'off':
        raise DataError(
            f'--cache {mode}: a stream is not kept; give auto or off, or copy the shards to a disk'
        )


class Item(NamedTuple):
    epoch: int
    name: str  # address of the shard/member
    data: bytes


class Stream:
    """The images of shards, every one once per epoch; the same methods as Reader, but what they give is the next images, whatever their indices.

    Each epoch permutes the shards, of which every world-th is this rank's; worker processes deal these out again. Images are drawn from SHUFFLE of their epoch
    by Philox. Bad ones are told once and passed over. A shard that cannot be read, or not to its end, is told, and left out until the next epoch.
    Raises DataError: fewer shards than processes; an epoch without a usable image.
    """

    uniform = jph = False  # sizes are known only when an image is there
    tall = 1

    def __init__(self, found, size, *, seed=0, start=0, rank=0, world=1, say=print):
        if len(found) < world:
            raise DataError(
                f'{len(found)} shards for {world} processes: each reads shards of its own; start fewer processes or write smaller shards'
            )
        self._urls, self._size, self._seed, self._start, self._rank, self._world, self.say = (
            found.urls,
            size,
            seed,
            start,
            rank,
            world,
            say,
        )
        self._good, self._told, self._fruitful = (
            set(),
            {},
            -1,
        )  # hashes of files that were judged; messages; last epoch with a usable image
        self._lent, self._peeked = (
            {},
            [],
        )  # hash -> Item of files that were only walked; items that come before those of the queue
        self._queue = self._thread = self._closing = None  # from the first image on

    def __len__(self):
        """Shards of this rank: how many processes can share its part of the work."""
        return len(self._urls[self._rank :: self._world])

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != 'say'}

    def __setstate__(self, state):
        self.__dict__.update(state, say=print)

    def encoded(self, indices, pool=None, sound=True):
        """[(bytes of a good file, -1)] for each index. Not `sound`: walked, not decoded; whoever decodes them tells which are `proven` and asks for others `instead`."""
        return self._take(len(indices), self._judge if sound else self._walk, pool)

    def proven(self, found):
        """Of what `encoded` gave, all these were decoded without fault."""
        for data, _ in found:
            self._good.add(hash(data))
            self._lent.pop(hash(data), None)

    def instead(self, refused, pool=None):
        """refused: [(index, bytes)] that a decoder did not take -> as `decoded`: what the CPU makes of them, or of the next images."""
        items = [
            self._lent.pop(hash(data), Item(self._fruitful, '', data)) for _, data in refused
        ]  # one that is not lent was found good before
        return self._take(len(refused), self._image, pool, items)

    def peek(self, count, pool=None):
        """Bytes of the files that come next, for a trial; they still come."""
        self._peeked += [self._next() for _ in range(count - len(self._peeked))]
        return [item.data for item in self._peeked]

    def decoded(self, indices, pool=None):
        """[([size, size, 3] uint8 RGB, -1)] for each index."""
        return self._take(len(indices), self._image, pool)

    def close(self):
        if self._thread:
            self._closing.set()
            with contextlib.suppress(queue.Full):
                self._queue.put_nowait(RuntimeError('the stream is closed'))  # for whoever waits
            self._thread.join(10)  # seconds; a connection that hangs keeps nobody from ending

    def _take(self, count, make, pool, items=()):
        """[(what is made of an item, -1)] of these items and the ones after them."""

        def attempt(item):
            try:
                return make(item)
            except BadFile as e:
                return e

        taken = []
        while len(taken) < count:
            items = [*items, *(self._next() for _ in range(count - len(taken) - len(items)))]
            for item, made in zip(items, list((pool.map if pool else map)(attempt, items))):
                if item.epoch > self._fruitful + 1:
                    raise DataError(
                        f'no usable image in an epoch of {len(self)} shards: {some(list(self._told), 3)}'
                    )
                if isinstance(made, BadFile):
                    self._tell(f'{item.name} skipped: {made}')
                else:
                    taken.append((made, -1))
                    self._fruitful = item.epoch
            items = ()
        return taken

    def fit(self, rgb):
        return fit(rgb, self._size)

    def _image(self, item):
        return self.fit(decode(self._judge(item)))

    def _walk(self, item):
        """Bytes of a file that looks good. Raises BadFile."""
        key = hash(item.data)
        if key not in self._good:
            big_enough(*check(item.data)[1:3], self._size)
            self._lent[key] = item
        return item.data

    def _judge(self, item):
        """Bytes of a good file. Raises BadFile."""
        key = hash(item.data)
        if key not in self._good:
            big_enough(*check(item.data)[1:3], self._size)
            sound(item.data)
            self._good.add(key)
        return item.data

    def _tell(self, message):
        if message not in self._told:
            self._told[message] = True
            self.say(message)

    # One thread reads, so that neither the store's pauses nor the number of threads that decode change what comes next.

    def _next(self):
        if self._peeked:
            return self._peeked.pop(0)
        if self._thread is None:
            self._queue, self._closing = queue.Queue(AHEAD), threading.Event()
            worker = get_worker_info()  # of a DataLoader's process; None elsewhere
            self._thread = threading.Thread(
                target=self._read_ahead,
                args=(worker.id, worker.num_workers) if worker else (0, 1),
                daemon=True,
                name='shards',
            )
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _read_ahead(self, worker, workers):
        try:
            words = np.random.Philox(
                key=np.array(
                    [self._seed, draw.stream(f'shuffle/{self._start}/{self._rank}/{worker}')],
                    np.uint64,
                )
            )
            epochs = (self._epoch(epoch, worker, workers) for epoch in itertools.count())
            for item in shuffled(epochs, SHUFFLE, lambda n: int(words.random_raw()) * n >> 64):
                if item.name.split('/')[-2].lower() in SIDES[0]:
                    raise DataError(
                        f'{item.name} is an LQ, and of a stream only HQ faces are trained on: copy and unpack the shards, and give --data the folder with LQ/ and GT/'
                    )
                self._put(item)
                if self._closing.is_set():
                    return
        except BaseException as e:  # for whoever asks for an image
            self._put(e)

    def _put(self, item):
        while not self._closing.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                pass

    def _epoch(self, epoch, worker, workers):
        """Items of this process in an epoch, shard by shard."""
        order, count = permutation(self._start + epoch, len(self._urls), self._seed), 0
        for i in order[self._rank :: self._world][worker::workers]:
            url = self._urls[i]
            try:
                fs, path = fsspec.core.url_to_fs(url)
                with fs.open(path, 'rb', block_size=BLOCK) as file:
                    for name, _, data in shards.walk(file, sequential=True):
                        count += 1
                        yield Item(epoch, f'{url}/{name}', data)
            except Exception as e:  # every file system has its own
                self._tell(f'{url} left out until the next epoch: {_reason(e)}')
        if not count:
            raise DataError(
                f'no image in an epoch of {len(self)} shards: {some(list(self._told), 3)}. Check the addresses, the credentials and the network'
            )


def shuffled(epochs, size, drawn):
    """Iterator over the items of all epochs (an iterator of iterators), each epoch complete, drawn from up to `size` items; drawn(n): number below n.
    For each one drawn another is read, of the next epoch where this one has no more: memory stays the same and reading never pauses."""
    reading = next(epochs)
    held = list(itertools.islice(reading, size))
    while True:
        following, ahead = next(epochs), []
        while held:
            place = drawn(len(held))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
            more = list(itertools.islice(reading, 1))
            held += more
            ahead += [] if more else itertools.islice(following, 1)
        held, reading = ahead + list(itertools.islice(following, size - len(ahead))), following


def _reason(error):
    text = (str(error).strip().splitlines() or [''])[0][:300]
    return text if isinstance(error, BadFile) else f'{type(error).__name__}: {text}'
