"""Normalisation that generators and discriminators share: spectral (of weights), instance."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpectralConv2d(nn.Module):
    """Convolution whose weight is divided by its largest singular value (Miyato et al., ICLR 2018).

    It computes what torch.nn.utils.spectral_norm makes of a Conv2d, with the same parameter names,
    but in float32 under autocast, and with converged singular vectors before the first step. Every
    forward pass in training improves the singular vectors by one power iteration.

    start: initialises (weight, bias) in place; None: torch's initialisation
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        start: Callable[[Tensor, Tensor | None], None] | None = None,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, out_channels, kernel, bias=bias)
        if start:
            start(conv.weight, conv.bias)
        self.stride = stride
        self.padding = padding
        self.weight_orig = conv.weight
        self.bias = conv.bias

        # The left and right singular vectors of the weight as an [out, in * kernel^2] matrix.
        matrix = conv.weight.detach().flatten(1)
        self.register_buffer('weight_u', F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer('weight_v', torch.empty(matrix.shape[1]))
        self.refresh(15)

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, h, w] -> [B, out_channels, h', w']."""
        return F.conv2d(x, self.weight(), self.bias, stride=self.stride, padding=self.padding)

    def weight(self) -> Tensor:
        """Return the [out, in, kernel, kernel] float32 weight with largest singular value 1."""
        with torch.autocast(self.weight_orig.device.type, enabled=False):
            matrix = self.weight_orig.flatten(1)
            if self.training:
                self.refresh()
            # Copies, because another forward pass may change the buffers before the backward pass.
            u = self.weight_u.clone()
            v = self.weight_v.clone()
            return self.weight_orig / torch.dot(u, matrix @ v)

    @torch.no_grad()
    def refresh(self, steps: int = 1) -> None:
        """Improve the singular vectors of the present weights by some power iterations."""
        # On the meta device there is nothing to improve, and each step would take milliseconds.
        if self.weight_orig.is_meta:
            return
        matrix = self.weight_orig.flatten(1)
        for _ in range(steps):
            self.weight_v.copy_(F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12))
            self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=1e-12))


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise every channel of every picture to mean 0 and variance 1, [B, C, h, w] -> as x.

    Statistics are float32. Unlike F.instance_norm this keeps the channels-last layout.
    """
    var, mean = torch.var_mean(x.float(), (2, 3), correction=0, keepdim=True)
    return ((x.float() - mean) * (var + eps).rsqrt()).to(x.dtype)
