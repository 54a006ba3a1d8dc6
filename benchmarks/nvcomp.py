"""nvCOMP's batched deflate by its C interface, to compare png.cu's `inflate` with.

Version 5 or newer; the library comes with DALI. For comparison only: its documentation leaves
undefined what it does with a damaged stream, and a data set may hold one.
"""

import ctypes
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, of every stream and of its place in the output


# ---- the interface, as nvcomp/deflate.h declares it ----


class _Options(ctypes.Structure):
    """nvcompBatchedDeflateDecompressOpts_t; zeros are its default."""

    _fields_ = [
        ('backend', ctypes.c_int),
        ('sort_before_hw_decompress', ctypes.c_int),
        ('reserved', ctypes.c_char * 56),
    ]


class Inflated(NamedTuple):
    """What an inflater leaves on the GPU; it is not waited for."""

    statuses: Tensor  # [B] int32; 0 is good
    data: Tensor  # uint8
    places: np.ndarray  # [B + 1] where the streams begin in it


class _Memory(NamedTuple):
    """What the library reads and writes: pointers and lengths of each stream, on the GPU."""

    data: Tensor  # uint8, the compressed streams
    sources: Tensor  # [B] int64 pointers to them
    lengths: Tensor  # [B] int64 bytes
    targets: Tensor  # [B] int64 pointers into the output
    room: Tensor  # [B] int64 bytes there
    made: Tensor  # [B] int64 bytes that were written
    spare: Tensor  # uint8, for the library's own use


def library() -> ctypes.CDLL:
    """The loaded library. Raises OSError where there is none."""
    spec = importlib.util.find_spec('nvidia')
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(folder, 'libnvcomp').rglob('libnvcomp.so.*')):
            if path.suffix[1:].isdigit() and int(path.suffix[1:]) >= 5:
                return ctypes.CDLL(str(path))
    raise OSError('nvCOMP 5 is not installed')


def inflater(
    streams: Sequence[bytes], sizes: Sequence[int], device: torch.device
) -> Callable[[], Inflated]:
    """A function that inflates zlib streams of known sizes on the GPU.

    streams: whole zlib streams; sizes: bytes that each inflates to
    Raises OSError, here or when called, where the library is missing or refuses.
    """
    lib = library()

    # Deflate alone, without zlib's header of two bytes and its checksum of four.
    bodies = [stream[2:-4] for stream in streams]
    places = _places(sizes)
    out = torch.empty(int(places[-1]), dtype=torch.uint8, device=device)
    memory = _allocate(lib, bodies, sizes, out.data_ptr() + places[:-1], device)
    statuses = torch.empty(len(bodies), dtype=torch.int32, device=device)

    # Everything above is made once, so that a run is the decompression alone.
    def run() -> Inflated:
        _decompress(lib, memory, statuses)
        return Inflated(statuses, out, places)

    return run


def _places(sizes: Sequence[int]) -> np.ndarray:
    """[B + 1] where aligned pieces of these sizes begin, and the end of the last."""
    return np.cumsum([0, *(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes)])


# ---- memory, and the calls ----


def _allocate(
    lib: ctypes.CDLL,
    bodies: Sequence[bytes],
    sizes: Sequence[int],
    targets: np.ndarray,
    device: torch.device,
) -> _Memory:
    """Copy the streams to the GPU and make the tables that point to them. Raises OSError."""
    # One buffer for all of them, filled on the host.
    starts = _places([len(body) for body in bodies])
    host = np.zeros(int(starts[-1]), np.uint8)
    for body, start in zip(bodies, starts[:-1], strict=True):
        host[start : start + len(body)] = np.frombuffer(body, np.uint8)
    data = torch.from_numpy(host).to(device)

    def table(values: Any) -> Tensor:
        return torch.tensor(np.asarray(values, np.int64), device=device)

    # The library takes arrays of pointers, one entry for each stream.
    needed = _temporary_bytes(lib, sizes)
    return _Memory(
        data,
        sources=table(data.data_ptr() + starts[:-1]),
        lengths=table([len(body) for body in bodies]),
        targets=table(targets),
        room=table(sizes),
        made=table([0] * len(bodies)),
        spare=torch.empty(needed, dtype=torch.uint8, device=device),
    )


def _temporary_bytes(lib: ctypes.CDLL, sizes: Sequence[int]) -> int:
    """How much memory the library asks for. Raises OSError."""
    needed = ctypes.c_size_t()
    status = lib.nvcompBatchedDeflateDecompressGetTempSizeAsync(
        ctypes.c_size_t(len(sizes)),
        ctypes.c_size_t(max(sizes)),
        _Options(),
        ctypes.byref(needed),
        ctypes.c_size_t(sum(sizes)),
    )
    _check(status, 'does not say how much memory it needs')
    return needed.value


def _decompress(lib: ctypes.CDLL, m: _Memory, statuses: Tensor) -> None:
    """Launch the decompression on torch's current stream. Raises OSError."""

    def pointer(tensor: Tensor) -> ctypes.c_void_p:
        return ctypes.c_void_p(tensor.data_ptr())

    status = lib.nvcompBatchedDeflateDecompressAsync(
        pointer(m.sources),
        pointer(m.lengths),
        pointer(m.room),
        pointer(m.made),
        ctypes.c_size_t(len(statuses)),
        pointer(m.spare),
        ctypes.c_size_t(len(m.spare)),
        pointer(m.targets),
        _Options(),
        pointer(statuses),
        ctypes.c_void_p(torch.cuda.current_stream(statuses.device).cuda_stream),
    )
    _check(status, 'refuses')


def _check(status: int, what: str) -> None:
    if status:
        raise OSError(f'nvCOMP {what} (status {status})')
