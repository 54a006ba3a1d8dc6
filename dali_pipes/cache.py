"""Decoded images, kept: on the GPU, in host memory, or in a mapped file, so that no file is decoded twice (with a mapped file: not even by the next run).

Slots are numbered like the manifest's images and hold [size, size, 3] uint8, not flipped; with more channels what lies beside the image (a mask, an LQ), `tall` times as high
what lies above it. A file that cannot be decoded shares the pixels of its replacement.
"""

import hashlib
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import torch

from degrade.upload import upload
from errors import DataError
from sources.manifest import cache_folder

MODES = 'auto', 'gpu', 'host', 'file', 'off'
SHARE = 0.4  # of the free GPU memory, or of the available host memory, that `auto` takes at most


def make(mode, images, size, device, say=print, folder=None, channels=3, tall=1):
    """A cache of these images (list of manifest.Image; with more channels of masks.pairs.Pair or manifest.Pair; twice as tall of manifest.Stacked) for batches on `device`, or None.

    mode: 'gpu'; 'host' (pinned where there is a GPU); 'file' (in `folder`, default manifest.cache_folder(); shared by processes and by later runs); 'off';
          'auto': the GPU if everything fits in SHARE of its free memory, else host memory by the same rule, else none; says which and why
    Processes that torchrun starts on one machine keep images each for itself, so each has its part of the host memory.
    Raises DataError: a GPU that is not there, too little memory, a folder that cannot be written.
    """
    each, gpu = size * size * channels * tall, device.type == 'cuda'
    need = len(images) * each
    free = {
        'host': available_memory() // int(os.environ.get('LOCAL_WORLD_SIZE', 1)),
        **({'gpu': torch.cuda.mem_get_info(device)[0]} if gpu else {}),
    }
    if mode == 'auto':
        mode = next((m for m in ('gpu', 'host') if m in free and need <= SHARE * free[m]), 'off')
        room = ', '.join(
            f'{SHARE:.0%} of {_gb(b)} {"available host" if m == "host" else "free GPU"} memory'
            for m, b in free.items()
        )
        say(f'cache: {mode}; {len(images):,} decoded images take {_gb(need)}, auto allows {room}')
    if mode == 'off':
        return None
    if mode == 'file':
        return Mapped(images, size, folder or cache_folder(), device, say, channels, tall)
    if mode not in free:
        raise DataError(
            f'--cache {mode}: there is no GPU to keep images on; give host, file, off or auto'
        )
    if need > free[mode]:
        fit = int(free[mode] // each)
        raise DataError(
            f'--cache {mode}: {len(images):,} decoded images take {_gb(need)}, {_gb(free[mode])} are free: {fit:,} would fit; give auto, file or off'
        )
    return Memory(len(images), size, device, on_gpu=mode == 'gpu', channels=channels, tall=tall)


def available_memory(groups='/sys/fs/cgroup', member='/proc/self/cgroup'):
    """Bytes of host memory that can be had without swapping and within the limits of a container or batch job; all of it where the system does not tell."""
    try:
        with open('/proc/meminfo') as f:
            free = next(int(line.split()[1]) << 10 for line in f if line.startswith('MemAvailable'))
    except (OSError, StopIteration):
        free = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    return min([free, *_rooms(groups, member)])


def _rooms(groups, member):
    """Bytes that each control group with a limit still allows this process: its own and those above it, of version 2 (memory.max) or 1 (memory.limit_in_bytes)."""
    try:
        lines = Path(member).read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(':', 2) for line in lines):
        if controllers not in ('', 'memory'):
            continue
        root, limit, used = (
            (groups, 'memory.max', 'memory.current')
            if not controllers
            else (f'{groups}/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes')
        )
        for part in (path, *map(str, Path(path).parents)):
            try:
                said, taken, stat = (
                    Path(root + part, name).read_text() for name in (limit, used, 'memory.stat')
                )
                kept = dict(
                    line.split() for line in stat.splitlines()
                )  # files that the kernel keeps and would give back
                yield max(
                    int(said)
                    - int(taken)
                    + int(kept.get('total_inactive_file', kept.get('inactive_file', 0))),
                    0,
                )
            except (
                OSError,
                ValueError,
            ):  # no limit here ('max'), or none that can be read: in a container paths begin elsewhere
                continue


def _gb(n):
    return f'{n / 1e9:.1f} GB'


class Memory:
    """Slots in one tensor on the GPU or in host memory."""

    def __init__(self, count, size, device, on_gpu, channels=3, tall=1):
        self.device = device
        self._pix = torch.empty(
            count,
            tall * size,
            size,
            channels,
            dtype=torch.uint8,
            device=device if on_gpu else 'cpu',
        )
        self._has = np.zeros(count, bool)
        self._pinned = not on_gpu and device.type == 'cuda'
        if self._pinned:  # not by torch's allocator, which rounds up to a power of two
            code = torch.cuda.cudart().cudaHostRegister(self._pix.data_ptr(), self._pix.numel(), 0)
            if int(code):
                raise DataError(
                    f'--cache host: CUDA cannot pin {_gb(self._pix.numel())} of host memory (error {int(code)}): give file or off, or raise the limit (ulimit -l)'
                )

    def missing(self, index):
        """Places in `index` [B] whose slots are empty."""
        return np.flatnonzero(~self._has[index])

    def put(self, index, pixels, used=None):
        """Fill slots: pixels [k, tall * size, size, channels] uint8 tensor on any device."""
        for i, image in zip(index, pixels):
            self._pix[int(i)].copy_(image, non_blocking=True)  # on the stream that takes it again
            self._has[i] = True

    def take(self, index):
        """[k, tall * size, size, channels] uint8 on the device, of full slots."""
        if self._pix.device == self.device:
            return self._pix[upload(np.asarray(index, np.int64), self.device)]
        out = torch.empty(len(index), *self._pix.shape[1:], dtype=torch.uint8, device=self.device)
        for image, i in zip(out, index):
            image.copy_(
                self._pix[int(i)], non_blocking=True
            )  # straight from pinned memory, image by image: gathering first would be a copy more
        return out

    def close(self):
        if self._pinned:
            torch.cuda.cudart().cudaHostUnregister(self._pix.data_ptr())
            self._pinned = False


class Mapped:
    """Slots in a file. A slot counts only if its record names the very files (path, length, mtime) it was decoded from and its checksum fits, so a kill while
    it was written, a damaged disk or changed images cost a decoding, never a wrong picture. A full disk ends the filling, not the run."""

    version = 1  # of what `decode` and `fit` make of a file: raise it when that changes
    RECORD = np.dtype([('key', np.uint64), ('used', np.uint32), ('crc', np.uint32)])

    def __init__(self, images, size, folder, device, say, channels=3, tall=1):
        self.device, self._say, self._bytes = device, say, size * size * channels * tall
        self._files = [_identity(i) for i in images]
        kind = (
            f'{self.version}/{size}'
            + ('' if channels == 3 else f'/{channels}')
            + ('' if tall == 1 else f'/{tall}')
        )
        name = hashlib.blake2b(
            '\0'.join([kind, *(i.path for i in images)]).encode('utf-8', 'surrogateescape'),
            digest_size=8,
        ).hexdigest()
        self.folder, self._full = os.path.join(os.path.expanduser(folder), f'decoded-{name}'), False
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._file = _sized(os.path.join(self.folder, 'pixels'), len(images) * self._bytes)
            os.close(
                _sized(os.path.join(self.folder, 'records'), len(images) * self.RECORD.itemsize)
            )
            self._pix = np.memmap(
                os.path.join(self.folder, 'pixels'),
                np.uint8,
                'r',
                shape=(len(images), tall * size, size, channels),
            )
            self._records = np.memmap(
                os.path.join(self.folder, 'records'), self.RECORD, 'r+', shape=len(images)
            )
        except OSError as e:
            raise DataError(
                f'--cache file: {self.folder} cannot be written ({e.strerror}): set FACES_CACHE to a folder with {_gb(len(images) * self._bytes)} to spare'
            ) from e
        self._has = np.zeros(len(images), bool)
        known = sum(self._named(i) for i in range(len(images)))
        say(f'cache: {self.folder}, {known:,} of {len(images):,} images decoded before')

    def _key(self, i, used):
        return (
            int.from_bytes(
                hashlib.blake2b(self._files[i] + self._files[used], digest_size=8).digest(),
                'little',
            )
            | 1
        )  # never the 0 of an empty record

    def _named(self, i):
        record = self._records[i]
        return record['used'] < len(self._files) and record['key'] == self._key(
            i, int(record['used'])
        )

    def missing(self, index):
        """Places in `index` [B] whose slots are empty or not to be trusted. Slots that another process filled count."""
        for i in index:
            if (
                not self._has[i]
                and self._named(i)
                and zlib.crc32(self._pix[i]) == self._records[i]['crc']
            ):
                self._has[i] = True
        return np.flatnonzero(~self._has[index])

    def put(self, index, pixels, used=None):
        """Fill slots: pixels [k, tall * size, size, channels] uint8 tensor; used: [k] numbers of the images they really are (default: index)."""
        for i, image, u in zip(index, pixels, index if used is None else used):
            if self._full:
                return
            data = image.cpu().contiguous().numpy().tobytes()
            try:
                _write(self._file, data, int(i) * self._bytes)
            except OSError as e:
                self._full = True
                self._say(
                    f'cache: {self.folder} takes no more images ({e.strerror}): the others are decoded every time; make room ({_gb(shutil.disk_usage(self.folder).free)} are free) '
                    'or set FACES_CACHE to another disk'
                )
                return
            record = self._records[i : i + 1]
            record['key'] = 0
            record['used'], record['crc'] = u, zlib.crc32(data)
            record['key'] = self._key(int(i), int(u))  # last: from here on it counts
            self._has[i] = True

    def take(self, index):
        """[k, tall * size, size, channels] uint8 on the device, of full slots."""
        return upload(self._pix[index], self.device)

    def close(self):
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _identity(image):
    if hasattr(image, 'mask'):
        return _identity(image.image) + _identity(image.mask) + bytes([image.swap])
    if hasattr(image, 'lq'):
        return _identity(image.gt) + _identity(image.lq)
    try:
        st = os.stat(image.where[0])  # of the shard, where it lies in one
    except OSError:  # gone since it was checked: whoever reads it will say so
        return f'{image.path}\0gone\n'.encode('utf-8', 'surrogateescape')
    return f'{os.path.realpath(image.path)}\0{st.st_size}\0{st.st_mtime_ns}\n'.encode(
        'utf-8', 'surrogateescape'
    )


def _sized(path, length):
    """Descriptor of a file of exactly this length; new bytes are zeros and take no room on the disk."""
    f = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if os.fstat(f).st_size != length:
        os.ftruncate(f, length)
    return f


def _write(f, data, at):
    """Through the system call, not the map: a full disk is an error there, a killed process here."""
    while data:
        written = os.pwrite(f, data, at)
        data, at = data[written:], at + written
