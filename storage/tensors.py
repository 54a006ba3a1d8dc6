"""Weights from files: safetensors, and what torch.save writes, read without running code in them.

The kind of a file is told by its contents, not by its name. Nothing is taken for granted: what a
file claims is compared with the bytes that it has.
"""

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from errors import BadFile

from . import files, records
from .paths import FilePath, printable, some

Weights = dict[str, Tensor]  # a state_dict

# What weights lie under in files of torch.save, the wanted one first: BasicSR and its heirs keep an
# average, StyleGAN's heirs too; Lightning, mmediting and plain training scripts have one set.
WRAPPERS = (
    'params_ema',
    'g_ema',
    'ema',
    'params',
    'state_dict',
    'model_state_dict',
    'generator',
    'net_g',
    'model',
)
MOST_HEADER = 16 << 20  # bytes of the header of a safetensors file
MOST_MEMBERS = 100_000  # of a zip
HOLDS = "a dict of tensors, or one under 'params_ema', 'params' or 'state_dict', was expected"
SAVE = 'save its weights alone, as .safetensors, where it came from'

# How files begin that are often met under the name of weights.
STRANGERS = (
    (rb'\s*<', 'a web page, not weights: the download wants a login or a confirmation'),
    (rb'version https://git-lfs', 'a pointer of Git LFS, not the file itself: run git lfs pull'),
    (rb'\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd', 'an archive: unpack it first'),
    (rb'\x89HDF', 'a file of Keras (HDF5), not of PyTorch'),
    (rb'\x89PNG|\xff\xd8\xff|GIF8|RIFF', 'a picture, not weights'),
)


# -------------------------------------------------------------------------------------------------
# Weights.


def read(path: FilePath) -> Weights:
    """The tensors of a file by their names, on the CPU. Raises OSError and BadFile."""
    return parse(files.read(path))


def parse(data: bytes) -> Weights:
    """The tensors of the contents of a file. Raises BadFile."""
    if _is_safetensors(data):
        return _safetensors(data)
    content = unpickle(data)
    # Wrappers may be nested, in two levels at most.
    return checked(_unwrapped(_unwrapped(content)), len(data))


def checked(content: Any, size: int) -> Weights:
    """A dict of tensors, arrays being made some. Raises BadFile for anything else.

    size: bytes of the file, which tensors cannot exceed
    """
    if not isinstance(content, Mapping) or not content:
        raise BadFile(f'holds no weights but {_kind(content)}: {HOLDS}')
    weights: Weights = {}
    for name, value in content.items():
        if not isinstance(name, str):
            raise BadFile(f'holds no weights: {_kind(name)} is no name of a tensor; {HOLDS}')
        tensor = value.tensor() if isinstance(value, _Array) else value
        if not isinstance(tensor, Tensor):
            raise BadFile(f'holds no weights: {_named(name)} is {_kind(value)}; {HOLDS}')
        _check_tensor(name, tensor, size)
        weights[name] = tensor.detach()
    return weights


def metadata(path: FilePath) -> dict[str, str]:
    """What a safetensors file says of itself, without its tensors. Raises OSError and BadFile."""
    with files.open_regular(path) as file:
        length = int.from_bytes(file.read(8), 'little')
        # A wrong length must not make memory be taken for it.
        header = file.read(length) if length <= MOST_HEADER else b''
        if not header.startswith(b'{') or len(header) < length:
            file.seek(0)
            _check_stranger(file.read(100))
            raise BadFile('not a safetensors file')
    kept: dict[str, Any] = records.parse(header, dict[str, Any])
    return records.convert(kept.get('__metadata__', {}), dict[str, str])


def _unwrapped(content: Any) -> Any:
    """What lies under a name that weights are known to lie under, or under the one that has any."""
    if not isinstance(content, Mapping):
        return content
    inner = {k: v for k, v in content.items() if isinstance(v, Mapping)}
    known = next((k for k in WRAPPERS if k in inner), None)
    if known is not None:
        return inner[known]
    full = [v for v in inner.values() if any(isinstance(x, (Tensor, _Array)) for x in v.values())]
    return full[0] if len(full) == 1 else content


def _check_tensor(name: str, tensor: Tensor, size: int) -> None:
    """Raise BadFile for a tensor that has no plain numbers, or more of them than the file."""
    plain = tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_complex()
    if tensor.device.type != 'cpu' or not plain:
        raise BadFile(f'{_named(name)} is no plain tensor: {SAVE}')
    # Nor may a side be long where another is 0.
    if max(tensor.numel() * tensor.element_size(), *tensor.shape, 0) > size:
        shape = list(tensor.shape)
        raise BadFile(f'damaged: {_named(name)} claims to be {shape}, more than the file holds')


def _named(name: str) -> str:
    return printable(name, 60)


def _kind(value: Any) -> str:
    """What a value is, in words."""
    words = {
        Tensor: 'a tensor',
        list: 'a list',
        tuple: 'a tuple',
        str: 'a text',
        int: 'a number',
        float: 'a number',
        type(None): 'nothing',
    }
    if isinstance(value, Mapping):
        names = [_named(k) if isinstance(k, str) else _kind(k) for k in list(value)[:4]]
        return f'a dict of {some(names, 3)}' if names else 'an empty dict'
    return words.get(type(value), f'a {type(value).__name__.lstrip("_")}')


# -------------------------------------------------------------------------------------------------
# The two formats.


def _is_safetensors(data: bytes) -> bool:
    """Whether a header follows that fits, as no pickle, zip or text has one."""
    length = int.from_bytes(data[:8], 'little')
    return data[8:9] == b'{' and 2 <= length <= len(data) - 8


def _safetensors(data: bytes) -> Weights:
    try:
        return checked(safetensors.torch.load(data), len(data))
    except BadFile:
        raise
    except Exception as error:
        # Its errors are of several kinds, of which some are Python's own.
        raise BadFile(f'damaged, or not a safetensors file ({first_line(error)})') from None


def unpickle(data: bytes, map_location: torch.device | str = 'cpu') -> Any:
    """What torch.save wrote: tensors, numbers, text, lists and dicts. Raises BadFile.

    NumPy's arrays, of which some programs save dicts, come as stand-ins that `checked` knows.
    """
    _check_kind(data)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter('ignore')  # of kinds of pickles
            return torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except Exception as error:
        # Damaged bytes lead torch into errors of every kind.
        raise BadFile(_refusal(error)) from None


def _check_stranger(data: bytes) -> None:
    """Raise BadFile, with the reason, for what is often met under the name of weights."""
    if not data:
        raise BadFile('empty (0 bytes): download or copy it again')
    for pattern, reason in STRANGERS:
        if re.match(pattern, data.removeprefix(b'\xef\xbb\xbf')):
            raise BadFile(reason)


def _check_kind(data: bytes) -> None:
    """Raise BadFile, with the reason, for what torch.save has not written."""
    _check_stranger(data)
    if data.startswith(b'PK'):
        _check_zip(data)
    elif not data.startswith(b'\x80'):
        raise BadFile('damaged, or neither a safetensors file nor one of torch.save')


def _check_zip(data: bytes) -> None:
    """Raise BadFile for a zip that torch.save has not written, or that is larger inside."""
    try:
        members = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except Exception as error:
        # Of a damaged directory: BadZipFile, struct.error, UnicodeDecodeError, ...
        raise BadFile(f'damaged or cut short ({first_line(error)}): copy it again') from None
    names = {member.filename.rpartition('/')[2] for member in members}
    if 'constants.pkl' in names:
        raise BadFile(f'a program of TorchScript, which is not run: {SAVE}')
    if 'data.pkl' not in names or len(members) > MOST_MEMBERS:
        raise BadFile('a zip archive, but none of torch.save: unpack it first')
    packed = next((m for m in members if m.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        name = _named(packed.filename)
        raise BadFile(f'its member {name} is compressed, as torch.save never does: {SAVE}')
    if sum(member.file_size for member in members) > len(data):
        raise BadFile('damaged: its members claim more bytes than the file has')


def _refusal(error: Exception) -> str:
    """Why torch has not read a file, without torch's advice to run the code in it."""
    foreign = re.search(r'(?:GLOBAL |function |class )<?([\w.]+)', str(error))
    if 'Unsupported global' in str(error) and foreign:
        return f'holds Python objects ({foreign[1][:60]}), which are not loaded: {SAVE}'
    if 'blocked' in str(error) and foreign:
        return f'holds a call of {foreign[1][:60]}, which is not run: do not trust this file'
    return f'cannot be read as weights: damaged, or not of torch.save ({type(error).__name__})'


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name."""
    lines = str(error).strip().splitlines()
    return printable(lines[0], 160) if lines else type(error).__name__


# -------------------------------------------------------------------------------------------------
# What NumPy puts into pickles, by stand-ins: nothing of NumPy's own is called with foreign values.


class _Kind:
    """numpy.dtype of plain numbers."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch('[<>=|]?(b1|[iu][1248]|f[248])', code):
            raise ValueError('an array of other things than numbers')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == '>':
            self.dtype = self.dtype.newbyteorder('>')


class _Array:
    """numpy.ndarray, whose bytes are kept until they are wanted."""

    def __init__(self, *_: object) -> None:
        self._array = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, data = state
        flat = np.frombuffer(data, kind.dtype)
        self._array = flat.reshape(shape, order='F' if by_columns else 'C')

    def tensor(self) -> Tensor:
        """Its numbers in the machine's order of bytes."""
        array = np.ascontiguousarray(self._array)
        native = array.astype(array.dtype.newbyteorder('='))
        return torch.from_numpy(native).reshape(self._array.shape)


def _scalar(kind: _Kind, data: bytes) -> Any:
    """numpy.core.multiarray.scalar."""
    return np.frombuffer(data, kind.dtype, 1)[0].item()


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Kind, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *(
        (stand_in, f'{module}.multiarray.{name}')
        for module in ('numpy.core', 'numpy._core')
        for stand_in, name in ((_Array, '_reconstruct'), (_scalar, 'scalar'))
    ),
]
