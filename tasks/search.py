"""Architecture search: first-order and alternating (DARTS, Liu et al., ICLR 2019), judged as
restoration is.

The images are split in halves. On one the weights of a supernet are trained; on the other, later,
the parameters that say what each way through the supernet and each operation weighs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models
import storage
from config import rules
from config.schema import Config
from errors import RunError
from models import decode
from sources import addresses
from training import optim, pictures
from training.world import World

from .batches import SHOWN
from .options import SEARCHING
from .players import Player, Players, Step, StepResult, learn, stepper
from .restore import Restore, degradation, make_pipe
from .task import Scores


class Search(Restore):
    """A restorer one part of which is searched."""

    name = 'search'
    networks = models.SEARCHES
    has_report = False
    max_processes = 1  # weights and architecture take turns

    def check(self, config: Config) -> None:
        """As of a restorer, and what only a search asks."""
        rules.check(config, SEARCHING)
        super().check(config)

    def load(
        self, config: Config, say: Callable[[str], None], bar: Callable[[str], Any]
    ) -> tuple[Any, dict[str, Any]]:
        """As of a restorer; a search on crops is validated on crops."""
        # Borders are most of a small map, and normalisation has learnt the size it was trained on.
        images, sets = super().load(config, say, bar)
        crop = config.data.crop
        if crop:
            sets = {name: CenterCrop(data, crop, config.scale) for name, data in sets.items()}
        return images, sets

    def feed(self, config: Config, images: Any, *, start: int, **where: Any) -> 'Halves':
        """Batches of both halves of the images."""
        pipe = make_pipe(config, where)
        search_from, coldest = config.search.search_from, config.search.arch_temperature
        return Halves(pipe, images, degradation(config), start, search_from, coldest)

    def build(self, config: Config, device: torch.device) -> Players:
        """The weights, and the architecture, which Adam trains as published."""
        # The restorer's optimizer covers everything; here it is split into weights and
        # architecture.
        players = super().build(config, device)
        net = players.by_name['net']
        weights, architecture = parts(net.net)
        # Adam whatever --optimizer says: DARTS trains the architecture with it, at a rate of its
        # own.
        adam = torch.optim.Adam(
            architecture.parameters(),
            config.search.arch_lr,
            weight_decay=config.search.arch_weight_decay,
            fused=next(architecture.parameters()).is_cuda,
        )
        precision, clip = config.run.precision, config.optimization.clip
        by_name = {
            'net': net._replace(
                stepper=stepper(weights, config, config.optimization.lr), frozen=architecture
            ),
            'architecture': Player(
                architecture,
                None,
                optim.Stepper(architecture, adam, precision, clip),
                config.search.arch_lr / config.optimization.lr,
                frozen=weights,
            ),
        }
        return players._replace(by_name=by_name)

    def step(self, players: Players, pipe: Any, step: Step) -> StepResult:
        """The weights on a batch of their half; then, later in the run, the architecture on one of
        the other half.
        """
        net, architecture = players.by_name['net'], players.by_name['architecture']
        searched: Any = net.net
        searched.supernet.temperature.fill_(
            temperature(step.progress, pipe.search_from, pipe.coldest)
        )
        # First the weights, with the architecture frozen ...
        first = learn({'net': net}, players.criterion, lambda: next(pipe), step)
        # ... which mean too little in the beginning to judge an architecture by.
        if step.progress < pipe.search_from:
            return first
        # Then the architecture on images that the weights have not seen, so that it cannot overfit.
        searched = {'net': architecture._replace(forward=net.forward)}
        second = learn(searched, players.criterion, lambda: pipe.other(step.nimg), step)
        losses = first.losses | {f'architecture_{k}': v for k, v in second.losses.items()}
        return StepResult(losses, first.skipped + second.skipped, first.waited + second.waited)

    def validate(
        self,
        net: nn.Module,
        data: Sequence[Any],
        config: Config,
        device: torch.device,
        world: World | None = None,
        show: int = SHOWN,
    ) -> Scores:
        """As of a restorer, and where the architecture stands."""
        searched: Any = net
        restored = super().validate(net, data, config, device, world, show)
        return SearchScores(
            restored, entropies(searched.supernet), searched.supernet.architecture()
        )

    def averages(self, config: Config) -> bool:
        """No: the best score of an architecture is where it was undecided."""
        return False

    def finish(self, config: Config, net: nn.Module) -> list[str]:
        """Write arch.json and path.png."""
        from . import lattice  # with matplotlib, which takes a second

        out = Path(str(config.run.out))
        searched: Any = net
        supernet, architecture = searched.supernet, found(net)
        storage.write_json(out / 'arch.json', architecture)
        best = architecture[searched.part]
        operations, ways, _ = supernet.weights()
        drawing = lattice.figure(best, operations, ways, supernet.start)
        pictures.save(out / 'path.png', drawing)
        preset = 'frsnet' if 'sr' in architecture else 'mfpsnet --prior ...'
        return [
            f'found: {out}/arch.json, path.png; train with it: '
            f'python train.py --preset {preset} --arch {out}/arch.json'
        ]


# ------------------------------------------------------------------------------------------------
# Two halves of the images.


class Halves:
    """The pipe of a search: batches of the weights' half of the images by next(), of the
    architecture's by other(nimg).

    nimg is the number of the first sample, so that both are functions of the images that the
    weights have seen, whenever the search of the architecture began. Raises RunError for a stream
    and for fewer than two images.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        images: Any,
        recipe: Any,
        start: int,
        search_from: float = 0.0,
        coldest: float = 1.0,
    ) -> None:
        if isinstance(images, addresses.Shards):
            raise RunError(
                'a search splits its images in halves, which a stream of shards cannot be: give '
                '--data files'
            )
        try:
            mine, self._images = halves(images)
        except ValueError as error:
            raise RunError(f'--data: {error}') from error
        self.search_from = search_from  # share of the run in which the weights learn alone
        self.coldest = coldest  # temperature at the end
        self._make = make
        self._recipe = recipe
        self._pipe = make(mine, recipe, start=start)
        self._other: Any = None

    def __iter__(self) -> 'Halves':
        return self

    def __next__(self) -> Any:
        return next(self._pipe)

    def other(self, nimg: int) -> Any:
        """The next batch of the architecture's half; its pipe opens with the first one."""
        if self._other is None:
            self._other = self._make(self._images, self._recipe, start=nimg)
        return next(self._other)

    def interrupt(self) -> None:
        """End whatever wait there is, as a pipe does."""
        self._pipe.interrupt()
        if self._other is not None:
            self._other.interrupt()

    def __enter__(self) -> 'Halves':
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()
        if self._other is not None:
            self._other.close()


def halves(images: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """(images of the weights, images of the architecture): those with even numbers and those with
    odd ones. Raises ValueError where there are fewer than two.
    """
    if len(images) < 2:
        raise ValueError(
            'a search needs at least two images, one for the weights and one for the architecture, '
            f'not {len(images)}'
        )
    return images[::2], images[1::2]


class CenterCrop:
    """Squares from the middle of a validation set's pictures, of the side trained on.

    The running statistics of a supernet's normalisations hold for maps of that size alone: borders
    are most of a small map. side: in pixels of the ground truth, a multiple of the scale, ground
    truth / input
    """

    def __init__(self, data: Any, side: int, scale: int) -> None:
        self._data = data
        self._side = side
        self._scale = scale
        self.name = data.name

    @property
    def images(self) -> Any:
        """What the set is made of."""
        return self._data.images

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: int) -> tuple[str, Tensor, Tensor]:
        name, lq, gt = self._data[i]
        top, left = ((s - self._side) // 2 // self._scale for s in gt.shape[1:])
        side, scale = self._side // self._scale, self._scale
        small = lq[:, top : top + side, left : left + side]
        y, x = scale * top, scale * left
        return name, small, gt[:, y : y + self._side, x : x + self._side]


# ------------------------------------------------------------------------------------------------
# What is searched, and where it stands.


def parts(net: Any) -> tuple[nn.ParameterList, nn.ParameterDict]:
    """(weights, architecture) of a searched network: modules that hold its parameters between them,
    shared with it.
    """
    supernet = net.supernet
    names = ('alpha', 'beta', 'ends')
    known = {name: getattr(supernet, name) for name in names}
    architecture = nn.ParameterDict({name: p for name, p in known.items() if p is not None})
    # Parameters are told apart by identity: names would depend on the network around them.
    searched = {id(p) for p in architecture.values()}
    return nn.ParameterList(p for p in net.parameters() if id(p) not in searched), architecture


def temperature(progress: float, search_from: float, coldest: float) -> float:
    """What divides the architecture's parameters: 1 while the weights learn alone, then falling
    geometrically to `coldest` at the end of the run, so that choices are open first and made last
    (Xie et al., SNAS, ICLR 2019).
    """
    searched = max(0.0, progress - search_from) / (1 - search_from)
    return coldest ** min(1.0, searched)


def entropies(supernet: Any) -> tuple[float, float]:
    """(of the operations of an edge, of the ways from a level): means of the entropies of their
    weights, as shares of the greatest one; 1: undecided, 0: decided. Where the ways into a level
    are compared, the second is decode.entropy, of whole paths.
    """
    with torch.no_grad():
        operations, ways, ends = supernet.weights()
    alpha, beta = operations.double().cpu(), ways.double().cpu()
    of_operations = float(_entropy(alpha, torch.ones_like(alpha)).mean())
    if ends is not None:
        return of_operations, decode.entropy(beta, ends.cpu(), supernet.start)
    # Levels that no path reaches have no ways, and would count as decided.
    reached = beta.sum(2) > 0
    ways = beta[reached] / beta[reached].sum(1, keepdim=True)
    _, alike = decode.normalise(alpha, torch.zeros_like(beta), supernet.start)
    return of_operations, float(_entropy(ways, alike[reached]).mean())


def _entropy(p: Tensor, possible: Tensor) -> Tensor:
    """[n, k] probabilities -> [n] entropies as share of the greatest one.

    possible: [n, k], 0 for what is not
    """
    # What is decided has rounded probabilities of 0, and is possible all the same.
    return -torch.xlogy(p, p).sum(1) / (possible > 0).sum(1).log()


def found(net: Any) -> dict[str, Any]:
    """{name of the part: architecture of greatest weight}, ready for JSON: what arch.json holds and
    --arch takes.
    """
    return {net.part: net.supernet.architecture()}


class SearchScores(NamedTuple):
    """Scores of the supernet, and where its architecture stands."""

    restored: Scores
    entropies: tuple[float, float]  # see `entropies`
    architecture: dict[str, Any]  # of greatest weight so far

    def value(self, part: slice = slice(None)) -> float:
        """Mean PSNR over a part of the images."""
        return self.restored.value(part)

    def row(self) -> dict[str, Any]:
        """{name: value} for the log."""
        alpha, beta = self.entropies
        return self.restored.row() | {
            'alpha_entropy': alpha,
            'beta_entropy': beta,
            'path': self.architecture['path'],
            'cell': self.architecture['cell'],
        }

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) of pictures.strip."""
        return self.restored.pictures()

    def sentence(self) -> str:
        """The scores and the architecture in words."""
        alpha, beta = self.entropies
        return (
            f'{self.restored.sentence()}\n'
            f'path {self.architecture["path"]}, cell {self.architecture["cell"]}; '
            f'entropy of operations {alpha:.4f}, of ways {beta:.4f} (1: undecided, 0: decided)'
        )
