"""Cache of decoded images: on the GPU, in host memory, or in a mapped file.

No file is decoded twice; with a mapped file not even by the next run. Slots are numbered like the
manifest's images and hold [size, size, 3] uint8, not flipped. They have more channels where
something is paired with the image (a mask, an LQ), and are `tall` times as high where something is
stacked on it. A file that cannot be decoded shares the pixels of its replacement.
"""

import hashlib
import os
import shutil
import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch

from degrade.upload import upload
from errors import DataError
from faces.masks.pairs import Pair as MaskPair
from sources.aliases import FilePath, Say
from sources.manifest import Pair, Picture, cache_folder

from .host_memory import available_memory

MODES = 'auto', 'gpu', 'host', 'file', 'off'  # what --cache offers
# Share of the free GPU memory, or of the available host memory, that `auto` takes at most: the rest
# is left to the training.
SHARE = 0.4
MOST_WRITING = 4  # batches on their way from a GPU to a mapped file
READERS = 4  # threads that gather a batch for a GPU out of a mapped file

Index = Sequence[int] | np.ndarray


class Cache(Protocol):
    """Slots for the decoded images of a manifest. Pixels are [k, tall * size, size, channels]."""

    def missing(self, index: Index) -> np.ndarray:
        """Return the places in `index` [B] whose slots are empty or not to be trusted."""
        ...

    def put(self, index: Index, pixels: torch.Tensor, used: Index | None = None) -> None:
        """Fill slots with uint8 pixels on any device.

        used: [k] numbers of the images that they really are (default: index)
        """
        ...

    def take(self, index: Index, there: torch.Tensor | None = None) -> torch.Tensor:
        """Return uint8 pixels of full slots, on the device of the batches.

        there: index on that device, where it is there already
        """
        ...

    def close(self) -> None:
        """Release what is not released with the object."""
        ...


# ---- which cache ----


def make(
    mode: str,
    images: Sequence[Picture],
    size: int,
    device: torch.device,
    say: Say = print,
    folder: FilePath | None = None,
    channels: int = 3,
    tall: int = 1,
) -> Cache | None:
    """Return a cache of these images for batches on `device`, or None.

    mode:     'gpu'; 'host' (pinned where there is a GPU); 'file'; 'off'; or 'auto': the GPU if
              everything fits in SHARE of its free memory, else host memory by the same rule, else
              none; says which and why
    size:     side of the decoded images in pixels
    folder:   of the file, which is shared by processes and by later runs; default
              manifest.cache_folder()
    channels: of the decoded images; more than 3 for LQ/GT pairs and for pictures with masks
    tall:     the decoded images are this many times as high as wide
    Processes that torchrun starts on one machine each cache images for themselves, so that each is
    allowed its part of the host memory.
    Raises DataError for a GPU that is not there, too little memory, and a folder that cannot be
    written.
    """
    each = size * size * channels * tall
    free = _free_memory(device)
    if mode == 'auto':
        mode = _fitting(len(images), each, free, say)
    if mode == 'off':
        return None
    if mode == 'file':
        return Mapped(images, size, folder or cache_folder(), device, say, channels, tall)
    # Before the first image: an allocation that fails later would cost the run.
    _check_memory(mode, len(images), each, free)
    return Memory(len(images), size, device, on_gpu=mode == 'gpu', channels=channels, tall=tall)


def _free_memory(device: torch.device) -> dict[str, int]:
    """Bytes that this process may use, of 'host' and, where the device is one, of 'gpu' memory."""
    free = {}
    if device.type == 'cuda':
        free['gpu'] = torch.cuda.mem_get_info(device)[0]
    # torchrun tells how many processes it has started on this machine.
    free['host'] = available_memory() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    return free


def _fitting(count: int, each: int, free: dict[str, int], say: Say) -> str:
    """Return the mode that 'auto' stands for. each: bytes of an image."""
    need = count * each
    mode = next((m for m in ('gpu', 'host') if m in free and need <= SHARE * free[m]), 'off')
    names = {'host': 'available host', 'gpu': 'free GPU'}
    room = ', '.join(
        f'{SHARE:.0%} of {_gb(free[m])} {names[m]} memory' for m in ('host', 'gpu') if m in free
    )
    say(f'cache: {mode}; {count:,} decoded images take {_gb(need)}, auto allows {room}')
    return mode


def _check_memory(mode: str, count: int, each: int, free: dict[str, int]) -> None:
    """Raise DataError unless there is enough of the memory that was asked for."""
    if mode not in free:
        raise DataError(
            f'--cache {mode}: there is no GPU to keep images on; give host, file, off or auto'
        )
    need = count * each
    if need > free[mode]:
        raise DataError(
            f'--cache {mode}: {count:,} decoded images take {_gb(need)}, but only '
            f'{_gb(free[mode])} are free and {int(free[mode] // each):,} would fit; '
            'give auto, file or off'
        )


def _gb(n: float) -> str:
    return f'{n / 1e9:.1f} GB'


# ---- in memory ----


class Memory:
    """The Cache in one tensor on the GPU or in host memory.

    count:  slots
    device: of the batches
    on_gpu: whether the slots are there, too
    Raises DataError for host memory that cannot be pinned.
    """

    def __init__(
        self,
        count: int,
        size: int,
        device: torch.device,
        on_gpu: bool,
        channels: int = 3,
        tall: int = 1,
    ) -> None:
        """Take the memory of all slots."""
        self.device = device
        self._pixels = torch.empty(
            (count, tall * size, size, channels),
            dtype=torch.uint8,
            device=device if on_gpu else 'cpu',
        )
        self._full = np.zeros(count, bool)
        self._views = self._pixels.unbind()  # its slots

        # Not by torch's allocator of pinned memory, which rounds up to a power of two.
        self._pinned = not on_gpu and device.type == 'cuda'
        if self._pinned:
            size_in_bytes = self._pixels.numel()
            code = torch.cuda.cudart().cudaHostRegister(self._pixels.data_ptr(), size_in_bytes, 0)
            if int(code):
                raise DataError(
                    f'--cache host: CUDA cannot pin {_gb(size_in_bytes)} of host memory '
                    f'(error {int(code)}): give file or off, or raise the limit (ulimit -l)'
                )

    def missing(self, index: Index) -> np.ndarray:
        """Return the places in `index` [B] whose slots are empty."""
        return np.flatnonzero(~self._full[index])

    def put(self, index: Index, pixels: torch.Tensor, used: Index | None = None) -> None:
        """Fill slots. On a GPU the same stream has to take the images again."""
        # Copies are queued on the current stream and thus precede every `take` on it.
        if self._pixels.device == pixels.device:
            self._pixels.index_copy_(0, self._numbers(index), pixels)
        else:
            torch._foreach_copy_(self._slots(index), pixels.unbind(), non_blocking=True)
        self._full[index] = True

    def take(self, index: Index, there: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pixels of full slots on the device."""
        if self._pixels.device == self.device:
            return self._pixels[self._numbers(index) if there is None else there]

        # Straight from pinned memory, image by image: to gather them first would be another copy.
        # In one call, since a call of Python's for each would keep the training waiting.
        shape = (len(index), *self._pixels.shape[1:])
        out = torch.empty(shape, dtype=torch.uint8, device=self.device)
        torch._foreach_copy_(out.unbind(), self._slots(index), non_blocking=True)
        return out

    def _numbers(self, index: Index) -> torch.Tensor:
        return upload(np.asarray(index, np.int64), self._pixels.device)

    def _slots(self, index: Index) -> list[torch.Tensor]:
        return [self._views[i] for i in np.asarray(index).tolist()]

    def close(self) -> None:
        """Unpin the memory."""
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._pixels.data_ptr())
            self._pinned = False


# ---- in a file ----


class Mapped:
    """The Cache in a file.

    A slot counts only if its record names the very files (path, length, mtime) that it was decoded
    from and its checksum fits. A kill while it was written, a damaged disk or changed images thus
    cost a decoding, and never give a wrong picture. A full disk ends the filling, not the run.
    Raises DataError for a folder that cannot be written.
    """

    # Of what `decode` and `fit` make of a file: raise it when that changes.
    version = 2
    # key:  stands for the files, 0 in an empty record
    # used: number of the image that the pixels really are
    # crc:  CRC-32 of the pixels
    RECORD = np.dtype([('key', np.uint64), ('used', np.uint32), ('crc', np.uint32)])

    def __init__(
        self,
        images: Sequence[Picture],
        size: int,
        folder: FilePath,
        device: torch.device,
        say: Say,
        channels: int = 3,
        tall: int = 1,
    ) -> None:
        """Open the file, or make one of this length."""
        self.device = device
        self._say = say
        self._shape = (tall * size, size, channels)
        self._bytes = size * size * channels * tall  # of a slot
        self._identities = [_identity(i) for i in images]
        name = _folder_name(images, self.version, size, channels, tall)
        self.folder = os.path.join(os.path.expanduser(folder), name)
        self._disk_full = False
        self._file: int | None = None  # descriptor that pixels are written through
        # Pixels of a GPU are written by a thread once they have come.
        self._writer = ThreadPoolExecutor(1, 'cache')
        self._writing: deque[Future[None]] = deque()
        self._readers = ThreadPoolExecutor(READERS, 'cache')
        try:
            self._open(len(images))
        except OSError as e:
            raise DataError(
                f'--cache file: {self.folder} cannot be written ({e.strerror}): set FACES_CACHE to '
                f'a folder with {_gb(len(images) * self._bytes)} to spare'
            ) from e

        # Slots whose checksum this process has checked; records are only looked through for now.
        self._full = np.zeros(len(images), bool)
        known = sum(self._is_named(i) for i in range(len(images)))
        say(f'cache: {self.folder}, {known:,} of {len(images):,} images decoded before')

    def _open(self, count: int) -> None:
        """Open pixels and records of `count` slots. Raises OSError."""
        pixels, records = (os.path.join(self.folder, name) for name in ('pixels', 'records'))
        os.makedirs(self.folder, exist_ok=True)
        self._file = _sized(pixels, count * self._bytes)
        os.close(_sized(records, count * self.RECORD.itemsize))
        self._pixels = np.memmap(pixels, np.uint8, 'r', shape=(count, *self._shape))
        self._records = np.memmap(records, self.RECORD, 'r+', shape=count)

    def _key(self, i: int, used: int) -> int:
        """64 bits that stand for the file of slot i and the one its pixels are of."""
        both = self._identities[i] + self._identities[used]
        digest = hashlib.blake2b(both, digest_size=8).digest()
        return int.from_bytes(digest, 'little') | 1  # never the 0 of an empty record

    def _is_named(self, i: int) -> bool:
        """Whether the record of slot i names the present files."""
        record = self._records[i]
        used = int(record['used'])
        return used < len(self._identities) and bool(record['key'] == self._key(i, used))

    def missing(self, index: Index) -> np.ndarray:
        """Return the places in `index` [B] whose slots are empty or not to be trusted.

        Slots that another process has filled are full.
        """
        # A process checks a slot once, because the checksum reads all of its pixels.
        for i in index:
            if self._full[i] or not self._is_named(i):
                continue
            self._full[i] = zlib.crc32(self._pixels[i]) == self._records[i]['crc']
        return np.flatnonzero(~self._full[index])

    def put(self, index: Index, pixels: torch.Tensor, used: Index | None = None) -> None:
        """Fill slots as long as the disk has room; says so once it has not.

        Those with pixels of a GPU are filled a little later.
        """
        used = index if used is None else used
        if pixels.device.type == 'cpu':
            self._fill(index, pixels, used)
        elif not self._disk_full:
            # Few batches wait, so that their memory is bounded; a slow disk slows the first epoch.
            if len(self._writing) == MOST_WRITING:
                self._writing.popleft().result()
            host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            host.copy_(pixels, non_blocking=True)
            done = torch.cuda.current_stream(pixels.device).record_event()
            self._writing.append(self._writer.submit(self._fill_after, done, index, host, used))

    def _fill_after(
        self, done: torch.cuda.Event, index: Index, pixels: torch.Tensor, used: Index
    ) -> None:
        """Fill slots with pixels that have come once an event is done."""
        done.synchronize()
        self._fill(index, pixels, used)

    def _fill(self, index: Index, pixels: torch.Tensor, used: Index) -> None:
        for i, image, u in zip(index, pixels, used, strict=True):
            if self._disk_full:
                return

            # Pixels first. Whatever the record says meanwhile, its checksum does not fit them.
            data = image.contiguous().numpy().tobytes()
            try:
                self._write(int(i), data)
            except OSError as e:
                self._disk_full = True
                free = shutil.disk_usage(self.folder).free
                self._say(
                    f'cache: {self.folder} takes no more images ({e.strerror}), and the others are '
                    f'decoded every time; make room ({_gb(free)} are free) or set FACES_CACHE to a '
                    'folder on another disk'
                )
                return

            # The key comes last, because the slot counts from then on.
            record = self._records[i : i + 1]
            record['key'] = 0
            record['used'] = u
            record['crc'] = zlib.crc32(data)
            record['key'] = self._key(int(i), int(u))
            self._full[i] = True

    def _write(self, i: int, data: bytes) -> None:
        """Write slot i. Raises OSError.

        By the system call and not through the map: on a full disk that is an error rather than the
        end of the process.
        """
        assert self._file is not None, 'the cache is closed'
        at = i * self._bytes

        # The system may write less than it is given, for instance up to the end of the disk.
        while data:
            written = _write_at(self._file, data, at)
            data = data[written:]
            at += written

    def take(self, index: Index, there: torch.Tensor | None = None) -> torch.Tensor:
        """Return the pixels of full slots on the device."""
        # Gathered where a GPU can fetch them, for which several threads keep the training waiting
        # for less; on a CPU the training wants the cores.
        gpu = self.device.type == 'cuda'
        host = torch.empty((len(index), *self._shape), dtype=torch.uint8, pin_memory=gpu)
        room, numbers = host.numpy(), np.asarray(index)

        def gather(part: slice) -> None:
            np.take(self._pixels, numbers[part], 0, out=room[part], mode='clip')

        count = -(-len(index) // READERS) if gpu else len(index)
        parts = [slice(i, i + count) for i in range(0, len(index), max(count, 1))]
        list(self._readers.map(gather, parts) if gpu else map(gather, parts))
        return host.to(self.device, non_blocking=True)

    def close(self) -> None:
        """Write what has come and close the file; the map is released with the object."""
        self._writer.shutdown()
        self._readers.shutdown()
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _folder_name(
    images: Sequence[Picture], version: int, size: int, channels: int, tall: int
) -> str:
    """Name of a cache's folder, by what lies in its slots: kind of pixels and paths of images."""
    # Three channels and squares are not named, so that folders from before there were other kinds
    # keep their names.
    kind = f'{version}/{size}'
    if channels != 3:
        kind += f'/{channels}'
    if tall != 1:
        kind += f'/{tall}'
    content = '\0'.join([kind, *(i.path for i in images)])
    digest = hashlib.blake2b(content.encode('utf-8', 'surrogateescape'), digest_size=8)
    return f'decoded-{digest.hexdigest()}'


def _identity(image: Picture) -> bytes:
    """What changes when a file, or the one paired with it, does: real path, length and mtime."""
    if isinstance(image, MaskPair):
        return _identity(image.image) + _identity(image.mask) + bytes([image.swap])
    if isinstance(image, Pair):
        return _identity(image.gt) + _identity(image.lq)
    try:
        stat = os.stat(image.where[0])  # of the shard where the image lies in one
    except OSError:  # gone since it was scanned: its reader will say so
        text = f'{image.path}\0gone\n'
    else:
        text = f'{os.path.realpath(image.path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n'
    return text.encode('utf-8', 'surrogateescape')


def _write_at(file: int, data: bytes, at: int) -> int:
    """Write bytes at a place of a file -> how many. Raises OSError."""
    if hasattr(os, 'pwrite'):
        return os.pwrite(file, data, at)
    os.lseek(file, at, os.SEEK_SET)  # Windows; one thread fills a cache
    return os.write(file, data)


def _sized(path: str, length: int) -> int:
    """Return the descriptor of a file of exactly this length.

    New bytes are zeros and take no room on the disk.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, 'O_BINARY', 0), 0o644)
    if os.fstat(file).st_size != length:
        os.ftruncate(file, length)
    return file
