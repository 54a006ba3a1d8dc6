"""What every task has: networks that are trained, the gradients of one batch for them, and a validation set read ahead of the network."""

import contextlib
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import nn


class Metric(NamedTuple):
    """What a task is judged by: higher is better."""

    key: str  # in logs
    name: str  # on curves and in sentences
    unit: str
    fall: float  # below the best that is worth a hint


class Player(NamedTuple):
    """A network and what trains it."""

    net: nn.Module
    forward: Any  # the network as it is called: compiled, averaging its gradients over processes, or itself
    stepper: Any  # training.optim.Stepper
    rate: float = 1.0  # its learning rate in shares of the run's
    still: Any = None  # module whose parameters get no gradients while this player learns
    alone: tuple = (0, 0.0)  # images before anybody listens to it, and its learning rate until then
    level: Any = None  # Level, of a discriminator that is held at one

    def lr(self, lr, nimg):
        """Its learning rate for the step after `nimg` images, where the run's is `lr`."""
        return self.alone[1] if nimg < self.alone[0] else lr * self.rate


class Level:
    """Keeps a discriminator near a share of right judgements: the more often it is right, the more its generator hears of it.

    A proportional control of one weight, as BEGAN has for its two losses (Berthelot et al., 2017). Nothing of it makes a GPU wait.

    aim: share of right judgements with which the adversarial loss has the weight that the user gave it
    """

    STRENGTH, HORIZON = (
        3.0,
        64,
    )  # the weight doubles with a share of 0.23 more; images over which the share is averaged

    def __init__(self, aim, device):
        self.aim, self.accuracy = aim, torch.full((), aim, device=device)

    def factor(self):
        """Of the adversarial loss's weight, a scalar on the device."""
        return torch.exp(self.STRENGTH * (self.accuracy - self.aim))

    def add(self, accuracy, images):
        """Take note of the share of right judgements, a scalar on the device, in a step of so many images."""
        self.accuracy += (accuracy - self.accuracy) * min(images / self.HORIZON, 1.0)


class frozen:
    """Context in which a network gets no gradients of its own; what comes in still does."""

    def __init__(self, net):
        self.parameters = list(net.parameters())

    def __enter__(self):
        for p in self.parameters:
            p.requires_grad_(False)

    def __exit__(self, *_):
        for p in self.parameters:
            p.requires_grad_(True)


def turns(players, searching=True):
    """[players] of one step, which learn from a batch each: all at once, but for the architecture of a network that is searched (First-order DARTS, Liu et al., ICLR 2019).
    That comes after the weights, which are still meanwhile, and not before it is `searching`."""
    together = {name: p for name, p in players.items() if name != 'architecture'}
    if len(together) == len(players) or not searching:
        return [together]
    return [together, {'net': players['architecture']._replace(forward=players['net'].forward)}]


def backward(players, batch, criterion, nimg, share, autocast, parts=1):
    """Gradients of one batch for all players, {'net': Player[, 'discriminator': Player]}, divided by `parts` of a step -> {name: scalar on the device}, 'loss' that of 'net'.

    Both gradients are those of the networks before the step: a discriminator learns from the pictures that its generator is corrected on.
    """
    player, discriminator = players['net'], players.get('discriminator')
    with frozen(player.still) if player.still else contextlib.nullcontext():
        with autocast():
            output = player.forward(batch.input)
            found = criterion.net(output, batch, discriminator and discriminator.net, nimg, share)
            if 'gan' in found and discriminator.level:
                found['gan'] = found['gan'] * discriminator.level.factor()
            total = sum(found.values())
        player.stepper.backward(total / parts)
    found = {'loss': total} | (found if len(found) > 1 or discriminator else {})
    if discriminator:
        with autocast():
            more, right = criterion.discriminator(discriminator.forward, output, batch)
        discriminator.stepper.backward(sum(more.values()) / parts)
        found |= more | {'d_accuracy': right}
    return {k: v.detach() for k, v in found.items()}


def ahead(pool, get, count, depth):
    """get(0), get(1), ... in order, computed by the pool up to `depth` ahead: a folder of any size in bounded memory."""
    waiting = deque()
    for i in range(count):
        waiting.append(pool.submit(get, i))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def grouped(items, most):
    """Runs of up to `most` items (name, tensors, or None where one is missing) of equal sizes."""
    group, last = [], None
    for item in items:
        shapes = [x if x is None else x.shape for x in item[1:]]
        if group and (len(group) == most or shapes != last):
            yield group
            group = []
        group.append(item)
        last = shapes
    if group:
        yield group
