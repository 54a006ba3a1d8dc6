"""Reading while training: a file that turns out bad is replaced by the next good one, the same in every pipe."""

import abc
import threading

import numpy as np

from errors import BadFile, DataError

from .files import big_enough, check, decode, fit, read_bytes, shown, sound
from .manifest import some


class Reader:
    """Files by number, a bad one replaced by the next good one in manifest order (the first after the last).

    images: list of Image; size: training size. A file is walked whenever it is read, and decoded for judgement at first sight, unless scan(verify=True)
    did that. The replacement is a function of the files, not of the order of asking. Threads may share a Reader,
    processes get a copy that judges and reports for itself.
    """

    tall = 1  # how many times as high as wide the decoded images are

    def __init__(self, images, size=512, say=print):
        self.images, self.size, self.say = list(images), size, say
        self._good, self._bad, self._said, self._lock = set(), {}, set(), threading.Lock()
        larger = sum((i.width, i.height) != (size, self.tall * size) for i in self.images)
        self.uniform = not larger  # all of exactly the training size,
        self.jph = self.uniform and all(i.kind == 'jph' for i in self.images)  # and JPH
        if larger:
            say(
                f'{larger:,} of {len(self):,} images are larger than {size}x{size}: area-resized, then centre-cropped'
            )

    def __len__(self):
        return len(self.images)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ('_lock', 'say')}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock(), say=print)

    def encoded(self, indices, pool=None, sound=True):
        """[(bytes of the file, index of the image they are)], by the threads of a pool. Not `sound`: walked, not decoded; whoever decodes them tells which are
        `proven` and asks for others `instead`."""
        return list((pool.map if pool else map)(lambda index: self.read(index, sound), indices))

    def proven(self, found):
        """Of what `encoded` gave, all these were decoded without fault."""
        self._good.update(used for _, used in found)

    def instead(self, refused, pool=None):
        """refused: [(index, bytes)] that a decoder did not take -> as `decoded`: what the CPU makes of them, or of others in their place."""
        return self.decoded([index for index, _ in refused], pool)

    def peek(self, count, pool=None):
        """Bytes of some files, for a trial."""
        return [data for data, _ in self.encoded(range(min(count, len(self))), pool, sound=False)]

    def decoded(self, indices, pool=None):
        """[([size, size, 3] uint8 RGB, index used)], by the threads of a pool."""
        return list((pool.map if pool else map)(self.image, indices))

    def close(self):
        """Nothing is left open between two reads."""

    def read(self, index, sound=True):
        """(bytes of the file, index of the image they are); reports a replacement once. Raises DataError when no file is left."""
        for step in range(len(self)):
            used = (index + step) % len(self)
            data = self._judge(used, sound)
            if data is not None:
                self._report([(index + s) % len(self) for s in range(step)], used)
                return data, used
        raise DataError(
            f'none of {len(self):,} files can be decoded any more: '
            + some([f'{shown(self.images[i].path)} ({r})' for i, r in sorted(self._bad.items())], 3)
            + '. Is the disk still there?'
        )

    def image(self, index):
        """([size, size, 3] uint8 RGB, index used): read, decode, fit."""
        while True:
            data, used = self.read(index)
            try:
                return self.fit(decode(data)), used
            except BadFile as e:  # changed on disk since it was judged
                self._bad[used] = str(e)

    def suits(self, width, height):
        """Raise BadFile for pictures of this size in pixels that `fit` refuses."""
        big_enough(width, height, self.size)

    def fit(self, rgb):
        """A decoded picture [H, W, 3] -> what is trained on. Raises BadFile."""
        return fit(rgb, self.size)

    def _judge(self, index, decodes=True):
        """Bytes of a good file, None of a bad one; good is what decodes, or what only looks so."""
        if index in self._bad:
            return None
        image = self.images[index]
        try:
            data = read_bytes(*image.where)
            self.suits(
                *check(data)[1:3]
            )  # always: a decoder of a whole batch ends with the one file that changed meanwhile
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

    def _report(self, skipped, used):
        with self._lock:
            new = [i for i in skipped if i not in self._said]
            self._said.update(new)
        for i in new:
            bad, good = (shown(self.images[j].path) for j in (i, used))
            self.say(f'{bad} cannot be decoded ({self._bad[i]}): replaced by {good}')


class PairedReader(Reader, abc.ABC):
    """Reader of pictures with something beside them, a mask or an LQ, as further channels: a pair of which either file turns out bad is replaced by the next good one."""

    @abc.abstractmethod
    def paired(self, index):
        """[size, size, k] uint8. Raises OSError, BadFile."""

    def read_paired(self, used, pool):
        """[B, size, size, k] uint8 beside pictures that are decoded elsewhere, too late to replace one. Raises DataError for what changed on disk since it was judged."""

        def one(index):
            try:
                return self.paired(index)
            except (OSError, BadFile) as e:
                raise DataError(
                    f'{shown(self.images[index].path)}: {self.reason(index, e)}; it was good when the run began: put it back, and the same command goes on'
                ) from e

        return np.stack(list(pool.map(one, used)))

    @abc.abstractmethod
    def reason(self, index, error):
        """What is wrong with a pair whose other file is `error`, for a message."""

    def image(self, index):
        """([size, size, 3 + k] uint8, index used)"""
        while True:
            rgb, used = super().image(index)
            try:
                return np.dstack([rgb, self.paired(used)]), used
            except (OSError, BadFile) as e:  # changed on disk since it was judged
                self._bad[used] = self.reason(used, e)

    def _judge(self, index, decodes=True):
        """Bytes of the picture, if what is beside it is good too."""
        new = index not in self._good
        data = super()._judge(index, decodes)
        if new and data is not None:
            try:
                self.paired(index)
            except (OSError, BadFile) as e:
                self._bad[index] = self.reason(index, e)
                return None
        return data


class StrictReader(Reader):
    """Reader of images that something else belongs to by number: none is replaced. Raises DataError for a bad file."""

    def _report(self, skipped, used):
        if skipped:
            path, reason = self.images[skipped[0]].path, self._bad[skipped[0]]
            raise DataError(
                f'{shown(path)} cannot be decoded ({reason}): repair or remove it; --verify leaves such files out before training'
            )
