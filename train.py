"""Train a face restorer: HQ faces in, degraded on the fly, x4.

    python train.py                                                  the demo: synthetic faces, a few minutes on two cores
    python train.py --data faces/ --preset srresnet16                your own 512x512 faces, 1 % of them held out for validation
    python train.py --data train.txt --val pairs/ --preset unet --recipe ai6126_2022 --minutes 15 --out runs/mine
    torchrun --nproc-per-node 4 train.py --data faces/ --preset srresnet16        four GPUs; the same samples, four times the batch

Running the same command again resumes. A run directory holds config.json, log.jsonl, curves.png, samples/, checkpoints/, best/ and, at the end, weights.safetensors.
"""
import contextlib
import copy
import errno
import gc
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

import dali_pipes
import models
import options
from dali_pipes import degrade, manifest, sources
from metrics import perceptual
from tasks import restore
from training import checkpoint, log, memory, optim, run, soup, stop, watch
from training.ema import EMA
from training.lock import Lock
from training.machine import machine
from training.record import Record
from training.run import RunError
from training.world import PeerLost, PeerMissing, World

MAX_SKIPPED = 10        # steps in a row with gradients that are not finite, after which a run gives up


@dataclass
class At:
    """Where a run stands; a checkpoint holds it."""
    nimg:    int   = 0       # images seen
    seconds: float = 0.0     # time spent
    tick:    int   = 0       # validations done
    checks:  float = 0.0     # seconds that the fastest validation took: others may have been disturbed

    def share(self, c):
        """Share of the run that is done; the last validations, one for every average kept, fit into --minutes."""
        return self.nimg / c['nimg'] if c['nimg'] else self.seconds / max(60 * c['minutes'] - (2 + c['keep']) * self.checks, 1)


def train(c, world, held):
    """held: ExitStack that lets go of the run directory when the process is done with it."""
    device, say = world.device, print if world.main else lambda *_, **__: None
    torch.set_num_threads(max(c['threads'] // world.beside, 1))
    torch.manual_seed(c['seed'])
    torch.use_deterministic_algorithms(c['deterministic'])
    if device.index is not None:
        torch.cuda.set_device(device)                        # what names no GPU means this one
    with world.first():                                      # what one process has scanned or drawn, the others find
        images, sets = sources.load(c, say, log.bar if world.main else lambda _: None)
        if world.main:
            held.enter_context(Lock(c['out']))
        resumed = run.prepare(c['out'], c | {'images': sources.fingerprint(images)})

    # Network, optimizer, average; then everything again from the newest checkpoint, if there is one.
    net, stepper = player(c, device)
    ema = EMA(net, c['ema'])
    at, newest = At(), checkpoint.latest(c['out']) if resumed else None
    if newest:
        tensors, state = checkpoint.load(newest, map_location=device)
        net.load_state_dict(tensors['net'])
        ema.load_state_dict({'n': state['ema_n'], 'net': tensors['ema']})
        stepper.load_state_dict(state['stepper'])
        at = At(**state['at'])
    elif world.main:
        run.need_space(c['out'], checkpoint.room(net, c['keep']))
    forward = world.wrap(torch.compile(net) if c['compile'] else net)
    autocast, each, first = options.autocast(c, device), c['batch'] * world.size * c['accumulate'], next(iter(sets))
    record, lpips = Record(c['out'], at.nimg, say, beside=device.type != 'cpu') if world.main else None, perceptual.lpips(c['lpips'], device) if c['lpips'] else None
    if world.main:
        soup.forget_after(c['out'], at.nimg)
        run.write_json(Path(c['out'], 'machine.json'), machine() | {'processes': world.size, 'threads': torch.get_num_threads(),
                                                                     'feeding': 'in turns with training' if device.type == 'cpu' else 'beside training'})
    say(f'{c["out"]}: {c["preset"]}, {models.count(net):,} parameters, {c["recipe"]}, {len(images):,} {sources.kind(images)}, '
        f'{", ".join(f"{len(v):,} validation pairs ({k})" for k, v in sets.items())}, {c["precision"]} on {device}' + (f' x {world.size}' if world.size > 1 else '')
        + f', {c["pipe"]} pipe, ' + (f'feeding and training take turns on {torch.get_num_threads()} threads' if device.type == 'cpu' else f'{c["threads"]} threads feed')
        + (f', resumed at {at.nimg:,} images' if newest else ''))

    def save():
        if world.main:
            checkpoint.save(c['out'], at.nimg, {'net': net.state_dict(), 'ema': ema.net.state_dict()}, dict(stepper=stepper.state_dict(), ema_n=ema.n, at=asdict(at)))
        world.barrier()

    def validate():
        """{name: Scores} of the average."""
        scores = {name: restore.validate(ema.net, data, device, world, batch=c['batch'], autocast=autocast, threads=c['threads'], lpips=lpips) for name, data in sets.items()}
        if world.main:
            soup.keep(c['out'], at.nimg, ema.net.state_dict(), scores[first].psnr[::2].mean(), c['keep'])
            record.validation(at.nimg, scores, stepper.skipped(), seconds=round(at.seconds, 1), **bar.figures())
        return scores

    stopping, scores, saved, spent = stop.Stop(), None, time.monotonic(), 0.0
    losses = watch.Losses(each, MAX_SKIPPED, record.log.append if world.main else lambda row: None)
    recipe = degrade.recipe(c['recipe'])._replace(pool=c['pair_pool'])
    with (dali_pipes.make(c['pipe'], images, recipe, batch=c['batch'], size=c['size'], seed=c['seed'], start=at.nimg, rank=world.rank, world=world.size, say=say,
                          lq_from_usm=c['lq_from_usm'], target_usm=c['target_usm'], device=device, threads=torch.get_num_threads() if world.size > 1 else c['threads'],
                          cache=c['cache']) as pipe,
          log.Progress(c['nimg'], at.nimg, quiet=not world.main) as bar):
        while True:
            # What every process must decide alike.
            stopped, saving, at.seconds = world.agree(stopping.asked is not None, time.monotonic() - saved > 60 * c['save_minutes'], at.seconds + spent)
            start, share = time.monotonic(), at.share(c)
            due = share >= (at.tick + 1) / c['ticks'] and at.nimg > 0
            if due:
                at.tick = int(share * c['ticks'])
                scores = validate()
                took = time.monotonic() - start
                at.checks = min(took, at.checks or took)
                bar.update(at.nimg, psnr=scores[first].psnr.mean())
            if due or saving and at.nimg:
                save()
                saved = time.monotonic()
            if stopped or at.share(c) >= 1:
                break

            # One step.
            waited, lr, loss = 0.0, options.rate(at.share(c), c), 0.0
            for part in range(c['accumulate']):
                asked = time.monotonic()
                batch = next(pipe)
                waited += time.monotonic() - asked
                with world.last(forward, part == c['accumulate'] - 1):
                    with autocast():
                        total = sum(restore.losses(forward, batch, c['loss']).values()) / c['accumulate']
                    stepper.backward(total)
                loss = loss + total.detach()
            bad = stepper.step(lr)
            ema.update(net, each)
            at.nimg += each
            losses.add(at.nimg, loss, bad)
            if device.type == 'cpu' or len(losses) == 50:                            # reading a loss makes a GPU wait
                losses.look()
            spent = time.monotonic() - start
            bar.update(at.nimg, waited, at.share(c), loss=losses.mean or float('nan'), lr=lr, **memory.used(device))
            if world.main:
                record.step(at.nimg, at.share(c), losses.mean, lr)
        if stopped:
            save()
            say(f'\nstopped by {stopping.asked or "another process"} at {at.nimg:,} images and saved: the same command goes on from here')
            return
        bar.update(at.nimg, share=1.0)
    scores = scores or validate()
    if world.main:
        finish(c, ema, scores[first], sets[first], device, f'{at.nimg:,} images in {at.seconds / 60:.1f} minutes')
        record.close()


def player(c, device):
    """(network, what trains it) of a run."""
    net = models.NETWORKS[c['network']](**c['net']).to(device, memory_format=torch.channels_last)
    return net, optim.Stepper(net, optim.make(c['optimizer'], net, c['lr'], c['weight_decay']), c['precision'], c['clip'])


def trial(c, device, batch):
    """Two steps on black images, for their memory: the optimizer's state comes with the first; a batch is made ahead of the one in training."""
    net, stepper = player(c, device)
    plan = dali_pipes.Plan(1, degrade.recipe(c['recipe']), batch=batch, size=c['size'], lq_from_usm=c['lq_from_usm'], target_usm=c['target_usm'])
    black = torch.zeros(batch, 3, c['size'], c['size'], dtype=torch.uint8, device=device)
    for _ in range(2):
        ahead, now = (plan.finish(black, plan(np.arange(batch)), 'cuda' if device.type == 'cuda' else 'torch') for _ in range(2))
        with options.autocast(c, device)():
            loss = sum(restore.losses(net, now, c['loss']).values())
        stepper.backward(loss)
        stepper.step(0.0)


def finish(c, ema, last, data, device, length):
    """weights.safetensors: the last average, or the mean of the best ones if that is better on the even images of the validation set; the odd ones tell.

    last: Scores of the last average on `data`, the first validation set
    """
    probe, found, autocast = copy.deepcopy(ema.net), {}, options.autocast(c, device)

    def score(weights):
        probe.load_state_dict(weights)
        found['scores'] = restore.validate(probe, data, device, batch=c['batch'], autocast=autocast, threads=c['threads'])
        return found['scores'].psnr[::2].mean()
    weights, best, parts = ema.net.state_dict(), last, ['the last average']
    if len(data) > 1 and len(soup.kept(c['out'])) > 1:
        cooked, nimgs, value = soup.cook(c['out'], score)
        if value > last.psnr[::2].mean():
            weights, parts = cooked, [f'{n:,} images' for n in nimgs]
            score(cooked)
            best = found['scores']
    checkpoint.save_weights(Path(c['out'], 'weights.safetensors'), weights)
    result = dict(psnr=best.psnr.mean(), ssim=best.ssim.mean(), bicubic=best.bicubic.mean(), made_of=parts)
    if len(data) > 1:
        result |= dict(odd_half=best.psnr[1::2].mean(), odd_half_last_average=last.psnr[1::2].mean())
    run.write_json(Path(c['out'], 'result.json'), result)
    print(f'PSNR {best.psnr.mean():.3f} dB, SSIM {best.ssim.mean():.4f}, bicubic {best.bicubic.mean():.3f} dB (gain {best.psnr.mean() - best.bicubic.mean():+.3f}; '
          f'worst image {(best.psnr - best.bicubic).min():+.3f}), {len(data)} pairs, {length}')
    if parts[0] != 'the last average':
        print(f'weights: mean of the averages at {", ".join(parts)}, chosen on the even images; on the odd ones {best.psnr[1::2].mean():.3f} dB, '
              f'the last average {last.psnr[1::2].mean():.3f} dB')
    print(f'restore with: python infer.py --run {c["out"]} --input FOLDER')


def main(argv=None):
    args, world, full = options.parse(__doc__, argv), None, False
    try:
        c = options.configure(args)
        if args.dry_run:
            print(json.dumps(c, indent=2))
            return 0
        with World(torch.device(c['device'])) as world, contextlib.ExitStack() as held:
            train(c, world, held)
        return 0
    except (RunError, manifest.DataError, checkpoint.CheckpointError, degrade.kernels.KernelError, perceptual.MetricError) as e:
        if int(os.environ.get('RANK', 0)) == 0 or isinstance(e, PeerMissing):
            print(f'train.py: {e}', file=sys.stderr)
        return 2
    except PeerLost as e:
        print(f'train.py: {e}', file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        full = True                                          # what holds the memory is let go of with the exception, after this block
    except RuntimeError as e:
        if not (world and world.lost_by(e)):
            raise
        print(f'train.py: {world.lost(e)}', file=sys.stderr)
        return 1
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f'train.py: {e.filename or args.out or "the run directory"} cannot be written: {e.strerror}; the last checkpoint is whole', file=sys.stderr)
        return 2
    if full:
        gc.collect()
        print(f'train.py: {memory.advice(c, world.device, lambda batch: memory.peak(world.device, lambda: trial(c, world.device, batch)))}', file=sys.stderr)
    return 2


if __name__ == '__main__':
    sys.exit(main())
