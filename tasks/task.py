"""What a task is: everything that differs between restoring, parsing, finding landmarks and
searching an architecture.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from config.schema import Config

from .batches import SHOWN
from .players import Autocast, Players, Step, StepResult
from .prose import Prose


class Metric(NamedTuple):
    """What a task is judged by: higher is better."""

    key: str  # in logs
    name: str  # on curves and in sentences
    unit: str
    fall: float  # below the best that is worth a hint


class Scores(Protocol):
    """What a validation found."""

    def value(self, part: slice = slice(None)) -> float:
        """What a run is judged by, over a part of the images."""
        ...

    def row(self) -> dict[str, Any]:
        """{name: mean} of everything that is known."""
        ...

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) as training.pictures.strip takes them."""
        ...

    def sentence(self) -> str:
        """The scores in words."""
        ...


class Applied(NamedTuple):
    """How infer.py applies a network."""

    device: torch.device
    autocast: Autocast
    tta: bool  # average with the mirror image
    lpips: str | None  # file of weights
    size: int  # pixels of the pictures that it was trained on


Group = list[tuple[str, torch.Tensor, torch.Tensor | None]]  # (name, uint8 picture, ground truth)


class Task(Protocol):
    """One kind of thing to learn. train.py, infer.py and the report know tasks by this alone."""

    @property
    def name(self) -> str:
        """As presets and config.json name it."""
        ...

    @property
    def metric(self) -> Metric:
        """What a run is judged by."""
        ...

    @property
    def networks(self) -> Mapping[str, Callable[..., nn.Module]]:
        """That it can train, by the name of --network."""
        ...

    @property
    def losses(self) -> Mapping[str, Any]:
        """By the name of --loss."""
        ...

    @property
    def max_processes(self) -> int | None:
        """That may share a run; None: any number."""
        ...

    @property
    def prose(self) -> Prose:
        """What a report says of its runs."""
        ...

    @property
    def has_report(self) -> bool:
        """Whether there is a report of one run as a PDF; comparisons show every task."""
        ...

    def complete(self, config: Config) -> Config:
        """The options with those that follow from others. Raises RunError for what does not go
        together.
        """
        ...

    def check(self, config: Config) -> None:
        """Raise RunError for options that cannot be used, naming flag, value and remedy."""
        ...

    def load(
        self, config: Config, say: Callable[[str], None], bar: Callable[[str], Any]
    ) -> tuple[Any, dict[str, Any]]:
        """(images to train on, {name: validation set}). Raises DataError."""
        ...

    def feed(self, config: Config, images: Any, *, start: int, **where: Any) -> Any:
        """The pipe of batches from sample `start` on. where: rank, world, device, threads, say of
        dali_pipes.make
        """
        ...

    def plan(self, config: Config, batch: int) -> Any:
        """How a batch of this size is planned, for a trial of its memory."""
        ...

    def network(self, config: Config) -> nn.Module:
        """The network of a run, untrained."""
        ...

    def build(self, config: Config, device: torch.device) -> Players:
        """Networks, optimizers and what they are trained on."""
        ...

    def step(self, players: Players, pipe: Iterator[Any], step: Step) -> StepResult:
        """One step of all players on what the pipe yields."""
        ...

    def validate(
        self,
        net: nn.Module,
        data: Sequence[Any],
        config: Config,
        device: torch.device,
        world: Any = None,
        show: int = SHOWN,
    ) -> Scores:
        """Scores of a network on a validation set, the same in every process. show: pictures to
        keep
        """
        ...

    def averages(self, config: Config) -> bool:
        """Whether the mean of the best weight averages may be better than the last one."""
        ...

    def finish(self, config: Config, net: nn.Module) -> list[str]:
        """Write what a finished run leaves beside its weights -> lines for the user."""
        ...

    def read_truth(self, path: Path) -> torch.Tensor:
        """Ground truth of an image, from a file. Raises OSError or BadFile."""
        ...

    def check_infer(self, lpips: str | None) -> None:
        """Raise RunError where infer.py cannot write what comes out, or score it as asked."""
        ...

    def infer(
        self, net: nn.Module, groups: Iterable[Group], folder: Path, how: Applied
    ) -> list[str]:
        """Apply a network to groups of pictures of equal size and write what comes out -> lines for
        the user.
        """
        ...
