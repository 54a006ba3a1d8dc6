"""Kernel launches, observed while something runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from degrade import kernels


@contextmanager
def intercepted(handle: Callable[[str, Callable[[], None]], object]) -> Iterator[None]:
    """In place of every launch meanwhile call handle(name of the kernel, launch).

    The handler has to call launch() itself.
    """
    original = kernels.launch

    def launch(
        file: str | Path,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *args: kernels.Argument,
    ) -> None:
        handle(name, partial(original, file, name, grid, block, *args))

    # The operations call it through its module, so that replacing it there reaches them all.
    kernels.launch = launch
    try:
        yield
    finally:
        kernels.launch = original


@contextmanager
def left_out() -> Iterator[list[str]]:
    """Note the name of every kernel meanwhile instead of launching it; no GPU is needed."""
    names: list[str] = []
    original = kernels.launch, kernels.need_gpu

    def launch(file: str | Path, name: str, *_: Any) -> None:
        names.append(name)

    kernels.launch = launch  # type: ignore[assignment]  # takes whatever the other does
    kernels.need_gpu = lambda x: None
    try:
        yield names
    finally:
        kernels.launch, kernels.need_gpu = original
