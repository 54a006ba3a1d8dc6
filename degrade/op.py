"""What an operation of the chain offers: parameters, a draw, and a body per implementation."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch

from .canvas import Canvas
from .draw import Draw
from .ranges import Values

P = TypeVar('P', bound=tuple[Any, ...])

# The parameters of a whole chain: one NamedTuple per stage, in the order of the stages.
ChainParams = tuple[Any, ...]


class Sizes(NamedTuple):
    """Heights and widths that a stage may refer to when it draws its parameters."""

    now: np.ndarray  # [B, 2] int64 height and width where the stage begins
    gt: np.ndarray  # [B, 2] int64 of the ground truth
    lq: np.ndarray  # [B, 2] int64 of the network's input


class Op(Protocol[P]):
    """An operation; every module that implements one (`blur`, `jpeg`, ...) satisfies this protocol.

    Only `sample` sees randomness. The `run_*` functions are pure functions of explicit parameters
    and agree within measured tolerances; `run_ref` is the definition.
    """

    @property
    def __name__(self) -> str:
        """Name under which the module can be imported."""

    @property
    def Params(self) -> type[P]:
        """NamedTuple of [B] arrays; a skipped operation is a value of these, not a branch."""

    @property
    def RANGES(self) -> Mapping[str, Values]:
        """What recipe files may say for each keyword of `sample`."""

    def told(self, p: P, size: np.ndarray, /) -> list[str]:
        """What one sample's parameters do to an image of this size [2], in words; [] if nothing."""

    def sample(self, draw: Draw, on: np.ndarray, sizes: Sizes, /, *args: Any, **ranges: Any) -> P:
        """Draw the parameters of B samples; `on` [B] bool says where the operation acts."""

    def run_ref(self, x: np.ndarray, p: P, /) -> np.ndarray:
        """Apply one sample's parameters to one image [h, w, 3] float64 in [0, 1]."""

    def run_torch(self, c: Canvas, p: P, /, opencv: bool = False) -> Canvas:
        """Apply to a batch in float32; `opencv` allows OpenCV for a single image on the CPU."""

    def record(self, p: P, size: np.ndarray, /) -> np.ndarray:
        """Parameters as the kernel's array of structs, for samples of true sizes `size` [B, 2]."""

    def run_cuda(self, c: Canvas, p: P, r: torch.Tensor, /) -> Canvas:
        """Apply to a batch on the GPU; `r` holds the bytes of `record(p, c.size)` there."""


def number(v: Any) -> str:
    """A parameter of one sample in words: 0.35, 64x64."""
    if np.ndim(v):
        return 'x'.join(number(x) for x in v)
    return f'{v:.3g}' if isinstance(v, (float, np.floating)) else str(v)
