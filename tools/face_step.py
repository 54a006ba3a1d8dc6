"""The whole step of a restored face as one network: resize, restore, round.

What tools/export.py --faces writes: programs without PyTorch, and without a line of their own,
give it aligned faces of any size as they are read from files, and write what it returns.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.psnr import to_uint8


class FaceStep(nn.Module):
    """A restorer between 8-bit pictures.

    net:  [B, 3, side, side] in [0, 1] -> [B, 3, S, S]
    side: pixels of the faces that it was trained on
    """

    def __init__(self, net: nn.Module, side: int) -> None:
        super().__init__()
        self.net, self.side = net, side

    def forward(self, faces: Tensor) -> Tensor:
        """[B, h, w, 3] uint8 RGB -> [B, S, S, 3] uint8; no aliases where it shrinks."""
        # As files and OpenCV have it: rows of pixels, three bytes each.
        x = faces.permute(0, 3, 1, 2).float() / 255
        # Antialiased: what is larger than the network's input is averaged.
        x = F.interpolate(x, (self.side, self.side), mode='bilinear', antialias=True)
        return to_uint8(self.net(x).float()).permute(0, 2, 3, 1)


def sample(net: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """Return pictures that a network takes, for a trial. shape: (B, h, w)"""
    generator = torch.Generator().manual_seed(0)
    batch, height, width = shape
    if isinstance(net, FaceStep):
        return torch.randint(256, (batch, height, width, 3), generator=generator, dtype=torch.uint8)
    return torch.rand(batch, 3, height, width, generator=generator)


def _resize(graph: Any, x: Any, size: Any, *more: Any) -> Any:
    """The antialiased resize as ONNX has it (Resize-18): PyTorch's exporter does not know it."""
    # Of all four sides: with `axes` onnxruntime takes an empty `scales` for missing sides.
    sides = graph.op('Concat', graph.op('Shape', x, start_i=0, end_i=2), size, axis_i=0)
    return graph.op(
        'Resize',
        x,
        graph.op('Constant', value_t=torch.tensor([], dtype=torch.float32)),
        graph.op('Constant', value_t=torch.tensor([], dtype=torch.float32)),
        sides,
        antialias_i=1,
        exclude_outside_i=1,
        mode_s='linear',
        coordinate_transformation_mode_s='half_pixel',
    )


torch.onnx.register_custom_op_symbolic('aten::_upsample_bilinear2d_aa', _resize, 18)
