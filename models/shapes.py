"""Networks of shapes alone, which take neither memory nor time for their values."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

Built = TypeVar('Built')

RANDOM = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    nn.init.normal_,
    nn.init.uniform_,
    nn.init.kaiming_normal_,
    nn.init.kaiming_uniform_,
}


class NoRandomValues(TorchFunctionMode):
    """Context in which tensors are not filled with random values.

    On the meta device, which has no values, each call would take milliseconds, and a network has
    hundreds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, unless it fills a tensor, which it returns."""
        known = kwargs or {}
        if func in RANDOM:
            return args[0] if args else known['tensor']
        return func(*args, **known)


def shapes(make: Callable[[], Built]) -> Built:
    """What `make` builds, without memory for its weights."""
    with torch.device('meta'), NoRandomValues():
        return make()


def numbers(net: nn.Module) -> int:
    """Return how many numbers a network has: parameters, and buffers whether saved or not."""
    return sum(v.numel() for v in (*net.parameters(), *net.buffers()))
