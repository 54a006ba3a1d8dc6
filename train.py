"""Train a face restorer: HQ faces in, degraded on the fly; x4, or the size stays; or a parser.

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

import torch

import dali_pipes
import models
from config import options
from errors import (
    CheckpointError,
    DataError,
    KernelError,
    MetricError,
    PeerLost,
    PeerMissing,
    RunError,
)
from metrics import perceptual
from tasks import data as sources
from tasks import lattice, stage
from tasks.players import backward, turns
from training import checkpoint, log, memory, pictures, run, soup, stop, watch
from training.ema import EMA
from training.lock import Lock
from training.machine import machine
from training.record import Record
from training.world import World

MAX_SKIPPED = 10  # steps in a row with gradients that are not finite, after which a run gives up


@dataclass
class At:
    """Where a run stands; a checkpoint holds it."""

    nimg: int = 0  # images seen
    seconds: float = 0.0  # time spent
    tick: int = 0  # validations done
    checks: float = 0.0  # seconds that the fastest validation took: others may have been disturbed

    def share(self, c):
        """Share of the run that is done; the last validations, one for every average kept, fit into --minutes."""
        return (
            self.nimg / c['nimg']
            if c['nimg']
            else self.seconds / max(60 * c['minutes'] - (2 + c['keep']) * self.checks, 1)
        )


def train(c, world, held):
    """held: ExitStack that lets go of the run directory when the process is done with it."""
    device, say, task = (
        world.device,
        print if world.main else lambda *_, **__: None,
        options.TASKS[c['task']],
    )
    torch.set_num_threads(max(c['threads'] // world.local_size, 1))
    torch.manual_seed(c['seed'])
    torch.use_deterministic_algorithms(c['deterministic'])
    if device.index is not None:
        torch.cuda.set_device(device)  # what names no GPU means this one
    with world.main_first():  # what one process has scanned or drawn, the others find
        images, sets = sources.load(c, say, log.bar if world.main else lambda _: None)
        if c['task'] == 'search' and c['crop']:
            sets = {
                name: task.Middle(data, c['crop'], options.scale_of(c))
                for name, data in sets.items()
            }
        if world.main:
            held.enter_context(Lock(c['out']))
        resumed = run.prepare(c['out'], c | {'images': sources.fingerprint(images)})

    # Network, optimizer, average; then everything again from the newest checkpoint, if there is one.
    newest = checkpoint.latest(c['out']) if resumed else None
    players, at = stage.cast(c, device), At()
    net = players['net'].net
    if not newest:
        stage.begin(c, net, say)
    ema = EMA(net, c['ema'])
    if newest:
        tensors, state = checkpoint.load(newest, map_location=device)
        for name, p in players.items():
            p.net.load_state_dict(tensors[name])
            p.stepper.load_state_dict(state['steppers'][name])
            if p.level:
                p.level.accuracy.copy_(state['levels'][name])
        ema.load_state_dict({'n': state['ema_n'], 'net': tensors['ema']})
        at = At(**state['at'])
    elif world.main:
        run.need_space(c['out'], checkpoint.room([p.net for p in players.values()], c['keep']))
    if world.size > 1 and c['task'] == 'search':
        raise RunError(
            f'--preset {c["preset"]}: a search runs in one process, so that weights and architecture take turns; start it without torchrun'
        )
    players = {
        name: p._replace(
            forward=p.forward and world.wrap(torch.compile(p.net) if c['compile'] else p.net)
        )
        for name, p in players.items()
    }
    criterion = stage.criterion(c, device)
    autocast, each, first = (
        options.autocast(c, device),
        c['batch'] * world.size * c['accumulate'],
        next(iter(sets)),
    )
    record, more = (
        Record(c['out'], at.nimg, task.METRIC, say, beside=device.type != 'cpu')
        if world.main
        else None,
        {'lpips': perceptual.lpips(c['lpips'], device)} if c['lpips'] else {},
    )
    if world.main:
        soup.forget_after(c['out'], at.nimg)
        run.write_json(
            Path(c['out'], 'machine.json'),
            machine()
            | {
                'processes': world.size,
                'threads': torch.get_num_threads(),
                'feeding': 'in turns with training' if device.type == 'cpu' else 'beside training',
            },
        )
    say(
        f'{c["out"]}: {c["preset"]}, {models.count(net):,} parameters, {"degraded before" if dali_pipes.is_paired(images) else c["recipe"] or "no degradation"}, {len(images):,} {sources.kind(images)}, '
        f'{", ".join(f"{len(v):,} validation pairs ({k})" for k, v in sets.items())}, {c["precision"]} on {device}'
        + (f' x {world.size}' if world.size > 1 else '')
        + f', {c["pipe"]} pipe, '
        + (
            f'feeding and training take turns on {torch.get_num_threads()} threads'
            if device.type == 'cpu'
            else f'{c["threads"]} threads feed'
        )
        + (f', resumed at {at.nimg:,} images' if newest else '')
    )

    def save():
        if world.main:
            checkpoint.save(
                c['out'],
                at.nimg,
                {name: p.net.state_dict() for name, p in players.items()}
                | {'ema': ema.net.state_dict()},
                dict(
                    steppers={name: p.stepper.state_dict() for name, p in players.items()},
                    levels={name: p.level.accuracy for name, p in players.items() if p.level},
                    ema_n=ema.n,
                    at=asdict(at),
                ),
            )
        world.barrier()

    def validate():
        """{name: Scores} of the average."""
        models.refresh_spectral_norm(
            ema.net
        )  # one step of estimates an update is too few early in a run
        scores = {
            name: task.validate(
                ema.net,
                data,
                device,
                world,
                batch=c['batch'],
                autocast=autocast,
                threads=c['threads'],
                **more,
            )
            for name, data in sets.items()
        }
        if world.main:
            soup.save_candidate(
                c['out'],
                at.nimg,
                ema.net.state_dict(),
                scores[first].value(slice(0, None, 2)),
                c['keep'],
            )
            record.validation(
                at.nimg,
                scores,
                sum(p.stepper.skipped() for p in players.values()),
                seconds=round(at.seconds, 1),
                **bar.figures(),
            )
        return scores

    stopping, scores, saved, spent = stop.Stop(), None, time.monotonic(), 0.0
    seen = watch.LossMeter(each, MAX_SKIPPED, record.log.append if world.main else lambda row: None)
    where = dict(
        rank=world.rank,
        world=world.size,
        device=device,
        threads=torch.get_num_threads() if world.size > 1 else c['threads'],
    )
    with (
        stage.feed(c, images, start=at.nimg, say=say, **where) as pipe,
        log.Progress(c['nimg'], at.nimg, quiet=not world.main) as bar,
    ):
        while True:
            # What every process must decide alike.
            stopped, saving, at.seconds = world.agree(
                stopping.asked is not None,
                time.monotonic() - saved > 60 * c['save_minutes'],
                at.seconds + spent,
            )
            start, share = time.monotonic(), at.share(c)
            due = share >= (at.tick + 1) / c['ticks'] and at.nimg > 0
            if due:
                at.tick = int(share * c['ticks'])
                scores = validate()
                took = time.monotonic() - start
                at.checks = min(took, at.checks or took)
                bar.update(at.nimg, **{task.METRIC.key: scores[first].value()})
            if due or saving and at.nimg:
                save()
                saved = time.monotonic()
            if stopped or at.share(c) >= 1:
                break

            # One step; in a search first of the weights, then of the architecture, each on a half of the images.
            waited, lr, found, bad = 0.0, options.rate(at.share(c), c), {}, 0.0
            for turn, playing in enumerate(turns(players, at.share(c) >= c['search_from'])):
                losses = []
                for part in range(c['accumulate']):
                    asked = time.monotonic()
                    batch = pipe.other(at.nimg) if turn else next(pipe)
                    waited += time.monotonic() - asked
                    with world.sync_gradients(
                        [p.forward for p in playing.values()], part == c['accumulate'] - 1
                    ):
                        losses.append(
                            backward(
                                playing,
                                batch,
                                criterion,
                                at.nimg,
                                at.share(c),
                                autocast,
                                c['accumulate'],
                            )
                        )
                bad = bad + sum(p.stepper.step(p.lr(lr, at.nimg)) for p in playing.values())
                found |= {
                    ('architecture_' if turn else '') + k: sum(loss[k] for loss in losses)
                    / len(losses)
                    for k in losses[0]
                }
            if 'discriminator' in players and players['discriminator'].level:
                players['discriminator'].level.add(world.mean(found['d_accuracy']), each)
            ema.update(net, each)
            at.nimg += each
            seen.add(at.nimg, found, bad)
            if device.type == 'cpu' or len(seen) == 50:  # reading a loss makes a GPU wait
                seen.look()
            spent = time.monotonic() - start
            bar.update(at.nimg, waited, at.share(c), **seen.means, lr=lr, **memory.used(device))
            if world.main:
                record.step(at.nimg, at.share(c), seen.take, lr)
        if stopped:
            save()
            say(
                f'\nstopped by {stopping.asked or "another process"} at {at.nimg:,} images and saved: the same command goes on from here'
            )
            return
        bar.update(at.nimg, share=1.0)
    scores = scores or validate()
    if world.main:
        finish(
            c,
            ema,
            scores[first],
            sets[first],
            device,
            f'{at.nimg:,} images in {at.seconds / 60:.1f} minutes',
        )
        record.close()


def finish(c, ema, last, data, device, length):
    """weights.safetensors: the last average, or the mean of the best ones if that is better on the even images of the validation set; the odd ones tell.

    last: Scores of the last average on `data`, the first validation set
    """
    task, probe, found, even, odd = (
        options.TASKS[c['task']],
        copy.deepcopy(ema.net),
        {},
        slice(0, None, 2),
        slice(1, None, 2),
    )

    def score(weights):
        probe.load_state_dict(weights)
        models.refresh_spectral_norm(probe)
        found['scores'] = task.validate(
            probe,
            data,
            device,
            batch=c['batch'],
            autocast=options.autocast(c, device),
            threads=c['threads'],
        )
        return found['scores'].value(even)

    weights, best, parts, metric = ema.net.state_dict(), last, ['the last average'], task.METRIC
    if (
        len(data) > 1
        and len(soup.candidates(c['out'])) > 1
        and not c['gan']
        and c['task'] != 'search'
    ):  # a GAN's best PSNR is where it began, an architecture's where it was undecided
        cooked, nimgs, value = soup.greedy_soup(c['out'], score)
        if value > last.value(even):
            parts = [f'{n:,} images' for n in nimgs]
            score(cooked)
            weights, best = probe.state_dict(), found['scores']
    checkpoint.save_weights(Path(c['out'], 'weights.safetensors'), weights)
    if c['task'] == 'search':
        supernet, arch = ema.net.supernet, task.found(ema.net)
        run.write_json(Path(c['out'], 'arch.json'), arch)
        pictures.save(
            Path(c['out'], 'path.png'),
            lattice.figure(*arch.values(), supernet.alpha, supernet.beta, supernet.start),
        )
    result = best.row() | dict(made_of=parts)
    if len(data) > 1:
        result |= dict(
            even_half=best.value(even),
            odd_half=best.value(odd),
            odd_half_last_average=last.value(odd),
        )
    run.write_json(Path(c['out'], 'result.json'), result)
    print(f'{best.sentence()}, {length}')
    if parts[0] != 'the last average':
        print(
            f'weights: mean of the averages at {", ".join(parts)}, chosen on the even images; on the odd ones {best.value(odd):.3f} {metric.unit}, '
            f'the last average {last.value(odd):.3f} {metric.unit}'
        )
    if c['task'] == 'search':
        print(
            f'found: {c["out"]}/arch.json, path.png; train with it: python train.py --preset {"frsnet" if "sr" in arch else "mfpsnet --prior ..."} --arch {c["out"]}/arch.json'
        )
    print(f'use it with: python infer.py --run {c["out"]} --input FOLDER')


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
    except (RunError, DataError, CheckpointError, KernelError, MetricError) as e:
        if int(os.environ.get('RANK', 0)) == 0 or isinstance(e, PeerMissing):
            print(f'train.py: {e}', file=sys.stderr)
        return 2
    except PeerLost as e:
        print(f'train.py: {e}', file=sys.stderr)
        return 1
    except torch.OutOfMemoryError:
        full = True  # what holds the memory is let go of with the exception, after this block
    except RuntimeError as e:
        if not (world and world.is_peer_failure(e)):
            raise
        print(f'train.py: {world.peer_lost(e)}', file=sys.stderr)
        return 1
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(
            f'train.py: {e.filename or args.out or "the run directory"} cannot be written: {e.strerror}; the last checkpoint is whole',
            file=sys.stderr,
        )
        return 2
    if full:
        gc.collect()
        print(
            f'train.py: {memory.advice(c, world.device, lambda batch: memory.peak(world.device, lambda: stage.trial(c, world.device, batch)))}',
            file=sys.stderr,
        )
    return 2


if __name__ == '__main__':
    sys.exit(main())
