"""nvCOMP's batched deflate by its C interface (version 5 or newer; the library comes with DALI), to compare png.cu's `inflate` with.

For comparison only: what it does with a damaged stream is undefined by its documentation, and a data set may hold one.
"""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import torch


class _Options(ctypes.Structure):
    _fields_ = [
        ('backend', ctypes.c_int),
        ('sort_before_hw_decompress', ctypes.c_int),
        ('reserved', ctypes.c_char * 56),
    ]  # zeros: its default


def library():
    """The loaded library. Raises OSError where there is none."""
    found = importlib.util.find_spec('nvidia')
    for folder in found.submodule_search_locations if found else ():
        for path in sorted(Path(folder, 'libnvcomp').rglob('libnvcomp.so.*')):
            if path.suffix[1:].isdigit() and int(path.suffix[1:]) >= 5:
                return ctypes.CDLL(str(path))
    raise OSError('nvCOMP 5 is not installed')


def inflater(streams, sizes, device):
    """callable that inflates zlib streams [bytes] of known sizes on the GPU -> ([B] int32 statuses, 0 is good, uint8 tensor, places of the streams in it). It is not
    waited for. Raises OSError where the library is missing or refuses."""
    lib, n = library(), len(streams)
    bodies = [s[2:-4] for s in streams]  # deflate alone: without zlib's header and checksum
    starts, places = (
        np.cumsum([0, *(-(-size // 16) * 16 for size in lengths)])
        for lengths in ([len(b) for b in bodies], sizes)
    )
    data = np.zeros(int(starts[-1]), np.uint8)
    for body, at in zip(bodies, starts):
        data[at : at + len(body)] = np.frombuffer(body, np.uint8)
    data, out = (
        torch.from_numpy(data).to(device),
        torch.empty(int(places[-1]), dtype=torch.uint8, device=device),
    )
    table = lambda values: torch.tensor(np.asarray(values, np.int64), device=device)
    sources, lengths, targets, room, made = (
        table(data.data_ptr() + starts[:-1]),
        table([len(b) for b in bodies]),
        table(out.data_ptr() + places[:-1]),
        table(sizes),
        table([0] * n),
    )
    statuses, size = torch.empty(n, dtype=torch.int32, device=device), ctypes.c_size_t
    need = size()
    _good(
        lib.nvcompBatchedDeflateDecompressGetTempSizeAsync(
            size(n), size(max(sizes)), _Options(), ctypes.byref(need), size(sum(sizes))
        ),
        'asks for no memory',
    )
    spare = torch.empty(max(need.value, 1), dtype=torch.uint8, device=device)

    def run():
        pointers = [
            ctypes.c_void_p(t.data_ptr())
            for t in (sources, lengths, room, made, spare, targets, statuses)
        ]
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        _good(
            lib.nvcompBatchedDeflateDecompressAsync(
                *pointers[:4],
                size(n),
                pointers[4],
                size(need.value),
                pointers[5],
                _Options(),
                pointers[6],
                stream,
            ),
            'refuses',
        )
        return statuses, out, places

    run.inputs = data, sources, lengths, targets, room, made, spare  # kept as long as it
    return run


def _good(code, what):
    if code:
        raise OSError(f'nvCOMP {what} (status {code})')
