"""What a run is played with: its data, its networks, what they are trained on; and a trial of them all for the memory they take."""

import functools

import numpy as np
import torch

import dali_pipes
import degrade
import models
from config import options
from errors import RunError
from faces import landmarks
from losses import features
from sources import stream
from tasks import guides, search
from tasks.players import Level, Player, backward, turns
from training import checkpoint, optim, run


def feed(c, images, **more):
    """The pipe of a run. more: start, rank, world, device, threads, say of dali_pipes.make"""
    shared = (
        dict(batch=c['batch'], size=c['size'], seed=c['seed'], cache=c['cache'], decode=c['decode'])
        | more
    )
    recipe = c['recipe'] and degrade.recipe(c['recipe'])._replace(pool=c['pair_pool'])
    if c['task'] in options.MASKED:
        points = (
            landmarks.of(landmarks.read(c['landmarks']), images, c['size'])
            if c['landmarks']
            else None
        )
        return dali_pipes.make_parse(c['pipe'], images, points=points, recipe=recipe, **shared)
    make = functools.partial(
        dali_pipes.make,
        c['pipe'],
        lq_from_usm=c['lq_from_usm'],
        target_usm=c['target_usm'],
        crop=c['crop'],
        **shared,
    )
    return (
        Halves(make, images, recipe, shared['start'])
        if c['task'] == 'search'
        else make(images, recipe)
    )


class Halves:
    """The pipe of a search: batches of the weights' half of the images by next(), of the architecture's by other(nimg), the number of their first sample.

    So both are functions of the images that the weights have seen, whenever the search of the architecture began.
    """

    def __init__(self, make, images, recipe, start):
        if isinstance(images, stream.Shards):
            raise RunError(
                'a search splits its images in halves, which a stream of shards cannot be: give --data files'
            )
        try:
            one, self._images = search.halves(images)
        except ValueError as e:
            raise RunError(f'--data: {e}') from e
        self._make, self._recipe, self._pipe, self._other = (
            make,
            recipe,
            make(one, recipe, start=start),
            None,
        )

    def __next__(self):
        return next(self._pipe)

    def other(self, nimg):
        self._other = self._other or self._make(self._images, self._recipe, start=nimg)
        return next(self._other)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()
        if self._other:
            self._other.close()


def cast(c, device):
    """{'net': the network of a run, 'discriminator': its discriminator, if it has one} as tasks.players.Player."""

    def player(net, lr, **more):
        net = net.to(device, memory_format=torch.channels_last)
        return Player(
            net,
            net,
            optim.Stepper(
                net,
                optim.make(c['optimizer'], net, lr, c['weight_decay'], c['betas']),
                c['precision'],
                c['clip'],
            ),
            lr / c['lr'],
            **more,
        )

    players = {'net': player(options.network(c), c['lr'])}
    if c['task'] == 'search':
        players |= _searched(c, players['net'])
    if c['gan']:
        lr = (
            c['discriminator_lr'] or c['lr']
        )  # from the first image on: while it is not listened to, nobody has to be spared
        players['discriminator'] = player(
            models.DISCRIMINATORS[c['discriminator']](**c['discriminator_net']),
            lr,
            alone=(c['gan_from'], lr),
            level=Level(c['gan_level'], device) if c['gan_level'] else None,
        )
    return players


def _searched(c, player):
    """The players that a searched network and its player make: its weights, and its architecture, which Adam trains as published."""
    weights, architecture = search.parts(player.net)
    adam = torch.optim.Adam(
        architecture.parameters(),
        c['arch_lr'],
        weight_decay=c['arch_weight_decay'],
        fused=next(architecture.parameters()).is_cuda,
    )
    trained = optim.Stepper(
        weights,
        optim.make(c['optimizer'], weights, c['lr'], c['weight_decay'], c['betas']),
        c['precision'],
        c['clip'],
    )
    return {
        'net': player._replace(stepper=trained, still=architecture),
        'architecture': Player(
            architecture,
            None,
            optim.Stepper(architecture, adam, c['precision'], c['clip']),
            c['arch_lr'] / c['lr'],
            still=weights,
        ),
    }


def begin(c, net, say):
    """Fill a network with what its run starts from."""
    if c['prior']:
        guides.fill(net.guides, c['prior'])
    if c['start']:
        say(f'starts from {checkpoint.load_weights(net, c["start"])}')
    if c['trunk']:
        try:
            net.load_trunk(c['trunk'])
        except (ValueError, OSError) as e:
            raise RunError(f'--trunk: {e}') from e


class Encoder(torch.nn.Module):
    """The feature maps of a parser's encoder, a perceptual loss that owes nothing to ImageNet."""

    def __init__(self, parser):
        super().__init__()
        self.parser = parser

    def forward(self, x):
        return self.parser.encode(x)


def criterion(c, device):
    """What a run's networks are trained on. Raises RunError for features that cannot be had."""
    task, extract, weights = options.TASKS[c['task']], None, ()
    try:
        if c['vgg']:
            weights = options.FEATURES[c['features']].values()
            extract = features.vgg19(c['vgg'], options.FEATURES[c['features']])
        elif c['parser']:
            of = run.read_config(c['parser'])
            if of.get('network') != 'parse_unet':
                raise ValueError(f'{c["parser"]} is no run of parse_unet')
            parser = options.network(of)
            checkpoint.load_weights(parser, c['parser'])
            extract, weights = (
                Encoder(parser).requires_grad_(False).eval(),
                [1 / len(parser.encoder)] * len(parser.encoder),
            )
    except ValueError as e:
        raise RunError(f'--{"vgg" if c["vgg"] else "parser"}: {e}') from e
    return task.Criterion(c, extract and extract.to(device), weights)


def trial(c, device, batch):
    """Two steps on black images, for their memory: the optimizers' states come with the first; a batch is made ahead of the one in training."""
    players, goal = cast(c, device), criterion(c, device)
    recipe, shared = c['recipe'] and degrade.recipe(c['recipe']), dict(batch=batch, size=c['size'])
    plan = (
        dali_pipes.PointPlan(np.zeros((1, landmarks.IBUG, 2)), recipe=recipe, **shared)
        if c['landmarks']
        else dali_pipes.ParsePlan(1, recipe=recipe, **shared)
        if c['task'] in options.MASKED
        else dali_pipes.Plan(
            1,
            recipe,
            lq_from_usm=c['lq_from_usm'],
            target_usm=c['target_usm'],
            crop=c['crop'],
            **shared,
        )
    )
    black = torch.zeros(
        batch, plan.channels, c['size'], c['size'], dtype=torch.uint8, device=device
    )
    for _ in range(2):
        ahead, now = (
            plan.finish(black, plan(np.arange(batch)), 'cuda' if device.type == 'cuda' else 'torch')
            for _ in range(2)
        )
        for playing in turns(players):
            backward(playing, now, goal, c['gan_from'], 0.0, options.autocast(c, device))
            for p in playing.values():
                p.stepper.step(0.0)
