"""LPIPS (Zhang et al., CVPR 2018) by its authors' package, on a backbone that the user names.

The Unreasonable Effectiveness of Deep Features as a Perceptual Metric.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from errors import BadFile, MetricError
from models.names import best
from storage import printable, shown, tensors

Weights = dict[str, Tensor]


def lpips(path: str | Path, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function (output, target: [B, 3, H, W] uint8 on the device) -> [B] float64.

    Lower is better. Nothing is downloaded; the small linear layers on top come with the package.

    path: weights of torchvision's AlexNet or VGG16, as its site offers them; their layers show
        which of the two they are

    Raises MetricError without the package, the file, or the right kind of weights.
    """
    kind, weights = _backbone(path)
    package = _package()
    with warnings.catch_warnings():
        # The package calls torchvision in the way of 2021.
        warnings.simplefilter('ignore')
        # A "random" network is one whose weights are not downloaded.
        net = package.LPIPS(net=kind, pnet_rand=True, verbose=False)
    # slice2.3.weight is numbered like features.3.weight.
    for name, parameter in net.net.named_parameters():
        value = weights.get('features.' + name.split('.', 1)[1])
        if value is None or value.shape != parameter.shape:
            raise _wrong(path, f'features.{name.split(".", 1)[1]} is missing or of another shape')
        parameter.data.copy_(value)
    return _measure(net.to(device).eval())


def _package() -> ModuleType:
    try:
        import lpips as package
    except (ImportError, RuntimeError) as error:
        # A torchvision built for another torch raises RuntimeError.
        raise MetricError(
            '--lpips needs the package lpips and a torchvision that fits torch '
            f'{torch.__version__} ({error}): pip install -e .[lpips]'
        ) from error
    return package


def _backbone(path: str | Path) -> tuple[str, Weights]:
    """Read the weights and tell by their last convolution which network they are of."""
    try:
        weights = tensors.read(path)
    except (OSError, BadFile) as error:
        raise _wrong(path, error.strerror if isinstance(error, OSError) else error) from error
    weights = dict(best(weights, (), {'features.0.weight': torch.empty(0)}))
    numbers = [int(m[1]) for name in weights if (m := re.match(r'features\.(\d{1,4})\.', name))]
    kind = {10: 'alex', 28: 'vgg'}.get(max(numbers, default=-1))
    if kind is None:
        raise _wrong(path, f'it begins with {printable(next(iter(weights)), 60)}')
    return kind, weights


def _wrong(path: str | Path, reason: object) -> MetricError:
    return MetricError(
        f"--lpips {shown(path)}: not the weights of torchvision's AlexNet or VGG16 ({reason})"
    )


def _measure(net: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    def measure(output: Tensor, target: Tensor) -> Tensor:
        # The package takes pictures in [-1, 1].
        return net(output.float() / 127.5 - 1, target.float() / 127.5 - 1).flatten().double()

    return measure
