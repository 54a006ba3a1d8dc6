"""The check that metrics of two 8-bit pictures share."""

import torch
from torch import Tensor


def check(name: str, output: Tensor, target: Tensor) -> None:
    """Raise ValueError, naming the metric, unless both are uint8 tensors of one shape."""
    if output.shape != target.shape or output.dtype != torch.uint8 or target.dtype != torch.uint8:
        raise ValueError(
            f'{name} of {tuple(output.shape)} {output.dtype} and {tuple(target.shape)} '
            f'{target.dtype}: two uint8 tensors of one shape are needed (see to_uint8)'
        )
