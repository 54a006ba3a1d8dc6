"""What a run is played with: its data, its networks, what they are trained on; and a trial of them all for the memory they take."""
import numpy as np
import torch

import dali_pipes
import models
import options
from dali_pipes import degrade
from losses import features
from tasks.players import Player, backward
from training import checkpoint, optim, run
from training.run import RunError


def feed(c, images, **more):
    """The pipe of a run. more: start, rank, world, device, threads, say of dali_pipes.make"""
    shared = dict(batch=c['batch'], size=c['size'], seed=c['seed'], cache=c['cache'], decode=c['decode']) | more
    recipe = c['recipe'] and degrade.recipe(c['recipe'])._replace(pool=c['pair_pool'])
    if c['task'] == 'parse':
        return dali_pipes.make_parse(c['pipe'], images, recipe=recipe, **shared)
    return dali_pipes.make(c['pipe'], images, recipe, lq_from_usm=c['lq_from_usm'], target_usm=c['target_usm'], crop=c['crop'], **shared)


def cast(c, device):
    """{'net': the network of a run, 'discriminator': its discriminator, if it has one} as tasks.players.Player."""
    def player(net, lr):
        net = net.to(device, memory_format=torch.channels_last)
        return Player(net, net, optim.Stepper(net, optim.make(c['optimizer'], net, lr, c['weight_decay']), c['precision'], c['clip']), lr / c['lr'])
    players = {'net': player(options.network(c), c['lr'])}
    if c['gan']:
        players['discriminator'] = player(models.DISCRIMINATORS[c['discriminator']](**c['discriminator_net']), c['discriminator_lr'] or c['lr'])
    return players


def begin(c, net, say):
    """Fill a network with what its run starts from."""
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
            of = run.stored(c['parser'])
            if of.get('network') != 'parse_unet':
                raise ValueError(f'{c["parser"]} is no run of parse_unet')
            parser = options.network(of)
            checkpoint.load_weights(parser, c['parser'])
            extract, weights = Encoder(parser).requires_grad_(False).eval(), [1 / len(parser.encoder)] * len(parser.encoder)
    except ValueError as e:
        raise RunError(f'--{"vgg" if c["vgg"] else "parser"}: {e}') from e
    return task.Criterion(c, extract and extract.to(device), weights)


def trial(c, device, batch):
    """Two steps on black images, for their memory: the optimizers' states come with the first; a batch is made ahead of the one in training."""
    players, goal = cast(c, device), criterion(c, device)
    recipe, shared = c['recipe'] and degrade.recipe(c['recipe']), dict(batch=batch, size=c['size'])
    plan = (dali_pipes.ParsePlan(1, recipe=recipe, **shared) if c['task'] == 'parse' else
            dali_pipes.Plan(1, recipe, lq_from_usm=c['lq_from_usm'], target_usm=c['target_usm'], crop=c['crop'], **shared))
    black = torch.zeros(batch, plan.channels, c['size'], c['size'], dtype=torch.uint8, device=device)
    for _ in range(2):
        ahead, now = (plan.finish(black, plan(np.arange(batch)), 'cuda' if device.type == 'cuda' else 'torch') for _ in range(2))
        backward(players, now, goal, c['gan_from'], 0.0, options.autocast(c, device))
        for p in players.values():
            p.stepper.step(0.0)
