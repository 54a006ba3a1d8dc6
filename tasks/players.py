"""What every task trains: players, each a network with its optimizer, and one step of them on one
batch or several.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from config.schema import Config
from dali_pipes.batch import Batch
from training import optim
from training.world import World

Losses = dict[str, Tensor]  # name -> scalar on the device
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class Criterion(Protocol):
    """What the networks of a run are trained on."""

    def net(
        self,
        output: Any,
        batch: Batch,
        discriminator: nn.Module | None,
        nimg: int,
        progress: float,
    ) -> Losses:
        """{name: weighted scalar} that the network makes small."""
        ...

    def discriminator(self, forward: Any, output: Any, batch: Batch) -> tuple[Losses, Tensor]:
        """({name: weighted scalar} that the discriminator makes small, share of its judgements that
        are right)
        """
        ...


class DiscriminatorController:
    """Keeps a discriminator near a share of right judgements: the more often it is right, the more
    the adversarial loss weighs.

    A proportional control of one weight, as BEGAN has for its two losses (Berthelot et al., 2017).
    Nothing of it makes a GPU wait.

    aim: share of right judgements with which the adversarial loss has the weight that the user gave
    it
    """

    STRENGTH = 3.0  # the weight doubles with a share of 0.23 more
    HORIZON = 64  # images over which the share is averaged

    def __init__(self, aim: float, device: torch.device | str) -> None:
        self.aim = aim
        self.accuracy = torch.full((), aim, device=device)

    def factor(self) -> Tensor:
        """Of the adversarial loss's weight, a scalar on the device."""
        return torch.exp(self.STRENGTH * (self.accuracy - self.aim))

    def update(self, accuracy: Tensor, images: int) -> None:
        """Take note of the share of right judgements, a scalar on the device, in a step of so many
        images.
        """
        self.accuracy += (accuracy - self.accuracy) * min(images / self.HORIZON, 1.0)


class Player(NamedTuple):
    """A network and what trains it."""

    net: nn.Module
    forward: Any  # the network as it is called: compiled, distributed, or itself
    stepper: optim.Stepper
    rate: float = 1.0  # its learning rate / that of the run
    frozen: nn.Module | None = None  # its parameters get no gradients while this player learns
    warmup_images: int = 0  # images from which it learns before others listen to it
    warmup_lr: float = 0.0  # its learning rate until then
    controller: DiscriminatorController | None = None

    def lr(self, lr: float, nimg: int) -> float:
        """Its learning rate for the step after `nimg` images, where that of the run is `lr`."""
        return self.warmup_lr if nimg < self.warmup_images else lr * self.rate


class Players(NamedTuple):
    """All players of a run, and what they are trained on.

    by_name: 'net' first, the network that the run is about; 'discriminator' of a GAN;
    'architecture' of a search
    """

    by_name: dict[str, Player]
    criterion: Criterion

    @property
    def net(self) -> nn.Module:
        """The network that the run is about, as a plain module."""
        return self.by_name['net'].net

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """{name: state_dict of its network}"""
        return {name: player.net.state_dict() for name, player in self.by_name.items()}

    def state(self) -> dict[str, Any]:
        """Optimizers and controllers, for a checkpoint."""
        # Keys as checkpoints have had them since format 3.
        steppers = {name: player.stepper.state_dict() for name, player in self.by_name.items()}
        levels = {n: p.controller.accuracy for n, p in self.by_name.items() if p.controller}
        return {'steppers': steppers, 'levels': levels}

    def load(self, weights: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        """Take over what `weights` and `state` gave."""
        for name, player in self.by_name.items():
            player.net.load_state_dict(weights[name])
            player.stepper.load_state_dict(state['steppers'][name])
            if player.controller:
                player.controller.accuracy.copy_(state['levels'][name])

    def distributed(self, world: World, *, compiled: bool) -> 'Players':
        """The same players with gradients averaged over the processes, compiled if asked for."""
        wrapped = {}
        for name, player in self.by_name.items():
            forward = player.forward
            if forward is not None:
                # Compiled inside, distributed outside: hooks that average gradients are not traced.
                net: Any = torch.compile(player.net) if compiled else player.net
                forward = world.wrap(net)
            wrapped[name] = player._replace(forward=forward)
        return self._replace(by_name=wrapped)

    def skipped(self) -> int:
        """Steps without a finite gradient so far; a GPU is waited for."""
        return sum(player.stepper.skipped() for player in self.by_name.values())


class Step(NamedTuple):
    """Where a run stands when it takes a step, and how it computes."""

    nimg: int  # images before the step
    progress: float  # share of the run that is done
    lr: float  # learning rate of the run
    images: int  # of the step, over all processes
    accumulate: int  # batches of the step
    autocast: Autocast
    world: World


class StepResult(NamedTuple):
    """What a step reports."""

    losses: Losses  # 'loss' is the sum that the network makes small
    skipped: Tensor  # scalar on the device; not 0 if a gradient was not finite
    waited: float  # seconds spent waiting for batches


def player(net: nn.Module, config: Config, device: torch.device, lr: float, **more: Any) -> Player:
    """A network on the device with the optimizer of a run. more: other fields of Player"""
    net = channels_last(net, device)
    return Player(net, net, stepper(net, config, lr), lr / config.optimization.lr, **more)


def channels_last(net: nn.Module, device: torch.device | str) -> nn.Module:
    """The network on the device, in the layout that convolutions are fastest in."""
    return net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def total(values: Iterable[Tensor]) -> Tensor:
    """Sum of scalars on the device."""
    return sum(values)  # type: ignore[return-value]  # of at least one


def stepper(net: nn.Module, config: Config, lr: float) -> optim.Stepper:
    """The optimizer of a run for a network's parameters."""
    options = config.optimization
    precision = config.run.precision
    optimizer = optim.make(
        options.optimizer, net, lr, options.weight_decay, options.betas, precision
    )
    return optim.Stepper(net, optimizer, precision, options.clip)


@contextlib.contextmanager
def frozen(net: nn.Module | None) -> Iterator[None]:
    """Context in which a network gets no gradients of its own; what comes in still does."""
    parameters = list(net.parameters()) if net is not None else []
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)


def learn(
    players: dict[str, Player],
    criterion: Criterion,
    next_batch: Callable[[], Batch],
    step: Step,
) -> StepResult:
    """One step of players that learn from the same batches: gradients of `step.accumulate` batches,
    then an update each.

    players: 'net', and 'discriminator' of a GAN
    """
    waited = 0.0
    parts = []
    for part in range(step.accumulate):
        # Waiting for data is the time that the network would rather compute.
        asked = time.monotonic()
        batch = next_batch()
        waited += time.monotonic() - asked

        # Gradients are averaged over the processes once, with the last batch of the step.
        nets = [p.forward for p in players.values()]
        with step.world.sync_gradients(nets, part == step.accumulate - 1):
            parts.append(backward(players, batch, criterion, step))

    skipped = total(p.stepper.step(p.lr(step.lr, step.nimg)) for p in players.values())
    losses = {name: total(part[name] for part in parts) / len(parts) for name in parts[0]}
    return StepResult(losses, skipped, waited)


def backward(players: dict[str, Player], batch: Batch, criterion: Criterion, step: Step) -> Losses:
    """Gradients of one batch for all players -> {name: scalar on the device}, 'loss' the sum for
    'net'.

    Both gradients are those of the networks before the step: a discriminator learns from the
    pictures that its generator is corrected on.
    """
    player, discriminator = players['net'], players.get('discriminator')

    # The network.
    with frozen(player.frozen):
        with step.autocast():
            # Networks that know where in a face a pixel lies are told where a crop does.
            knows = batch.place is not None and getattr(player.net, 'takes_place', False)
            given = (batch.input, batch.place) if knows else (batch.input,)
            output = player.forward(*given)
            # The generator hears the plain module: gradients of the discriminator are not wanted
            # here.
            judge = discriminator.net if discriminator else None
            terms = criterion.net(output, batch, judge, step.nimg, step.progress)
            # The controller weighs the adversarial loss by how often the discriminator was right.
            if 'gan' in terms and discriminator and discriminator.controller:
                terms['gan'] = terms['gan'] * discriminator.controller.factor()
            loss = total(terms.values())
        player.stepper.backward(loss / step.accumulate)

    # A single term is the loss itself and needs no second name in the log.
    losses = {'loss': loss}
    if len(terms) > 1 or discriminator:
        losses |= terms

    # The discriminator, on the same pictures.
    if discriminator:
        with step.autocast():
            terms, accuracy = criterion.discriminator(discriminator.forward, output, batch)
        discriminator.stepper.backward(total(terms.values()) / step.accumulate)
        losses |= terms | {'d_accuracy': accuracy}
    return {name: value.detach() for name, value in losses.items()}


def autocast(precision: str | None, device: torch.device | str) -> Autocast:
    """Callable that returns the context of forward passes; float32 stays float32. precision: bf16,
    fp16 or fp32
    """
    kind = torch.device(device).type
    # With fp32 the context is there and does nothing, so callers need no case of their own.
    dtype = torch.float16 if precision == 'fp16' else torch.bfloat16
    return functools.partial(torch.autocast, kind, dtype, enabled=precision != 'fp32')
