"""Train a face restorer: HQ faces in, degraded on the fly, x4.

    python train.py                                                  the demo: synthetic faces, a few minutes on two cores
    python train.py --data faces/ --preset srresnet16                your own 512x512 faces, 1 % of them held out for validation
    python train.py --data train.txt --val pairs/ --preset unet --recipe ai6126_2022 --minutes 15 --out runs/mine
    torchrun --nproc-per-node 4 train.py --data faces/ --preset srresnet16        four GPUs; the same samples, four times the batch

Running the same command again resumes. A run directory holds config.json, log.jsonl, curves.png, samples/, checkpoints/, best/ and, at the end, weights.safetensors.
"""
import argparse
import contextlib
import copy
import errno
import functools
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import torch

import dali_pipes
import models
from dali_pipes import cache, degrade, manifest, sources
from tasks import restore
from training import checkpoint, log, optim, pictures, run, schedule, soup, stop, watch
from training.ema import EMA
from training.lock import Lock
from training.machine import machine
from training.run import RunError
from training.world import PeerLost, World

# `nimg` images in all, learning rate `lr` at its peak, `ema` horizon in images, `ticks` validations evenly over the run. The U-Net's batch suits CPUs, where more
# steps do more than larger ones; give a GPU 16 or more.
PRESETS = {
    'demo':       dict(network='unet',     net=dict(),          recipe='ai6126_2024', batch=2,  minutes=6.5,     lr=1e-3, loss='l1', ema=800,    ticks=5),
    'unet':       dict(network='unet',     net=dict(),          recipe='ai6126_2024', batch=4,  nimg=200_000,    lr=1e-3, loss='l1', ema=800,    ticks=20),
    'srresnet16': dict(network='srresnet', net=dict(blocks=16), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet20': dict(network='srresnet', net=dict(blocks=20), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet24': dict(network='srresnet', net=dict(blocks=24), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet26': dict(network='srresnet', net=dict(blocks=26), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
}
MAX_SKIPPED = 10        # steps in a row with gradients that are not finite, after which a run gives up


def numbers(text):
    return [float(part) for part in text.split(',')]


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a = functools.partial(p.add_argument, default=None)
    switch = functools.partial(a, action=argparse.BooleanOptionalAction)
    a('--preset',       help=f'starting point that the other flags override: {", ".join(PRESETS)} (default: demo; unet if --data is given)')
    a('--data',         help='HQ faces: folder, list of files, glob, or .tar shards (faces-{000..099}.tar, also at s3:// or https://); PNG or JPEG (default: synthetic faces)')
    a('--val',          nargs='+', help='validation sets, each PATH or NAME=PATH: a folder with LQ/ and GT/, HQ faces as for --data (degraded the same way every time, '
                             'and left out of training), or how many of --data to hold out: a number, or a share below 1 (default: 0.01)')
    a('--recipe',       help=f'degradation: {", ".join(degrade.RECIPES)} (default: the preset\'s)')
    a('--pipe',         help=f'{", ".join(dali_pipes.PIPES)} (default: dali; torch where DALI is not installed)')
    a('--out',          help='run directory (default: runs/PRESET)')
    a('--batch',        type=int, help='images at a time per process')
    a('--accumulate',   type=int, help='batches whose gradients make one step (default: 1)')
    a('--nimg',         type=int, help='length of the run in images')
    a('--minutes',      type=float, help='length of the run as wall time instead, validation included; the schedule is fitted to it')
    a('--optimizer',    help=f'{", ".join(optim.OPTIMIZERS)} (default: adamw)')
    a('--lr',           type=float, help='peak learning rate')
    a('--weight-decay', type=float, help='default: 0')
    a('--schedule',     help=f'{", ".join(schedule.SCHEDULES)} (default: cosine)')
    a('--warmup',       type=float, help='share of the run with a rising learning rate (default: 0.03)')
    a('--milestones',   type=numbers, help='multistep: shares of the run after which the rate is halved (default: 0.5,0.75)')
    a('--periods',      type=numbers, help='restarts: relative lengths of the cosines (default: 1,1)')
    a('--weights',      type=numbers, help='restarts: relative rates they begin with (default: 1)')
    a('--tail',         type=float, help='share of the run at its end that is another cosine, from 2 %% of --lr (default: 0)')
    a('--clip',         type=float, help='largest norm of the gradients (default: 1)')
    a('--loss',         help=f'{", ".join(restore.LOSSES)}')
    a('--ema',          type=float, help='horizon of the weight average in images')
    a('--ticks',        type=int, help='validations, checkpoints and pictures, evenly over the run')
    a('--keep',         type=int, help='best weight averages that are kept, and averaged at the end if that helps (default: 3)')
    a('--seed',         type=int, help='of the weights, the order, the flips and the degradations (default: 0)')
    a('--size',         type=int, help='side of the HQ images in pixels (default: 512)')
    switch('--lq-from-usm', help='degrade the sharpened face, where the recipe has it so (default: yes)')
    switch('--target-usm', help='train on the sharpened face; validation keeps the plain one (default: no)')
    a('--pair-pool',    type=int, help='ai6126_2024_parity: size of the emulated queue of training pairs (default: 0, off)')
    a('--precision',    help='bf16, fp16 or fp32 (default: bf16 where the hardware computes it)')
    switch('--compile', help='torch.compile: slower to start, faster on a GPU (default: no)')
    switch('--deterministic', help='on a GPU, too, the same bits every time; slower (default: no)')
    a('--device',       help='cuda, cuda:1, cpu (default: cuda if there is one)')
    a('--threads',      type=int, help='CPU threads (default: all cores); bit-identical resume needs the same number')
    a('--cache',        help=f'decoded images are kept: {", ".join(cache.MODES)} (default: auto: on the GPU, else in host memory, if they take less than '
                             f'{100 * cache.SHARE:.0f} %% of what is free; file: in $FACES_CACHE, for later runs, too)')
    a('--save-minutes', type=float, help='minutes between checkpoints, beside one at every tick (default: 5)')
    a('--strict',       action='store_true', help='refuse a data set with bad files instead of skipping them')
    a('--verify',       action='store_true', help='decode every file once before training')
    a('--dry-run',      action='store_true', help='print the options and exit')
    return p.parse_args(argv)


def configure(args):
    """Flags and preset -> the options that define the run, as in config.json."""
    preset = run.choose(args.preset or ('unet' if args.data else 'demo'), PRESETS, 'preset')
    given = {k: v for k, v in vars(args).items() if v is not None and k != 'dry_run'}
    c = dict(format=run.FORMAT, pipe=_default_pipe, out=f'runs/{preset}', seed=0, size=512, data=None, val=None, lq_from_usm=True, target_usm=False, pair_pool=0,
             accumulate=1, optimizer='adamw', weight_decay=0.0, schedule='cosine', warmup=0.03, milestones=[0.5, 0.75], periods=[1, 1], weights=[1], tail=0.0, clip=1.0,
             keep=3, precision=default_precision, compile=False, deterministic=False, device='cuda' if torch.cuda.is_available() else 'cpu', threads=os.cpu_count(),
             cache='auto', save_minutes=5.0)
    c |= PRESETS[preset] | given | {'preset': preset}
    if 'nimg' in given or 'minutes' in given:                # one of the two is the length
        c |= {k: given.get(k) for k in ('nimg', 'minutes')}
        if all(k in given for k in ('nimg', 'minutes')):
            raise RunError('--nimg and --minutes are two lengths of one run: give one')
    c |= {'nimg': c.get('nimg'), 'minutes': c.get('minutes')}
    c |= {k: v for k, v in run.stored(c['out']).items() if k in ('threads', 'precision') and k not in given}      # bits depend on them
    c = {k: v(c) if callable(v) else v for k, v in c.items()}
    for k, names in dict(pipe=dali_pipes.PIPES, recipe=degrade.RECIPES, cache=cache.MODES, loss=restore.LOSSES, optimizer=optim.OPTIMIZERS, schedule=schedule.SCHEDULES,
                         precision=('bf16', 'fp16', 'fp32')).items():
        run.choose(c[k], names, k)
    for k in ('batch', 'accumulate', 'nimg', 'minutes', 'lr', 'clip', 'ema', 'ticks', 'keep', 'size', 'threads', 'save_minutes'):
        if c[k] is not None and not c[k] > 0:
            raise RunError(f'--{k.replace("_", "-")} {c[k]}: must be positive')
    if c['device'] != 'cpu' and not (c['device'].split(':')[0] == 'cuda' and torch.cuda.is_available()):
        raise RunError(f'--device {c["device"]}: ' + ('there is no CUDA GPU that torch can use; give --device cpu' if c['device'].startswith('cuda') else 'give cuda or cpu'))
    if c['pipe'] == 'dali' and not _has_dali():
        raise RunError('--pipe dali needs NVIDIA DALI: pip install -e .[cuda13], or [cuda12] for drivers 525-579; --pipe torch does without')
    if c['size'] % 4 or c['seed'] < 0:
        raise RunError(f'--size {c["size"]} must be a multiple of the scale 4 and --seed {c["seed"]} not negative')
    try:
        rate(0.5, c)
    except ValueError as e:
        raise RunError(f'--warmup, --tail or --periods: {e}') from e
    return c


def _default_pipe(c):
    if _has_dali():
        return 'dali'
    print('DALI is not installed: --pipe torch (pip install -e .[cuda13] brings it)')
    return 'torch'


def _has_dali():
    try:
        return importlib.util.find_spec('nvidia.dali') is not None
    except (ModuleNotFoundError, ValueError):                # no package nvidia at all
        return False


def default_precision(c):
    """bf16 where c['device'] computes it in hardware, else fp32."""
    if torch.device(c['device']).type == 'cuda':
        return 'bf16' if torch.cuda.is_bf16_supported(including_emulation=False) else 'fp32'
    info = Path('/proc/cpuinfo')
    flags = info.read_text() if info.exists() else ''
    return 'bf16' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'fp32'


def rate(progress, c):
    """Learning rate of a run's options at a share of it."""
    return schedule.lr(progress, c['lr'], c['schedule'], **{k: c[k] for k in ('warmup', 'milestones', 'periods', 'weights', 'tail')})


def autocast_of(c, device):
    """Context of forward passes; float32 stays float32."""
    return functools.partial(torch.autocast, device.type, torch.float16 if c['precision'] == 'fp16' else torch.bfloat16, enabled=c['precision'] != 'fp32')


def train(c, world, held):
    """held: ExitStack that lets go of the run directory when the process is done with it."""
    torch.set_num_threads(max(c['threads'] // world.beside, 1))
    torch.manual_seed(c['seed'])
    torch.use_deterministic_algorithms(c['deterministic'])
    device, say = world.device, print if world.main else lambda *_, **__: None
    if device.index is not None:
        torch.cuda.set_device(device)                        # what names no GPU means this one
    with world.first():                                      # what one process has scanned or drawn, the others find
        images, sets = sources.load(c, say, log.bar if world.main else lambda _: None)
        if world.main:
            held.enter_context(Lock(c['out']))
        resumed = run.prepare(c['out'], c | {'images': sources.fingerprint(images)})

    # Network, optimizer, average; then everything again from the newest checkpoint, if there is one.
    net = models.NETWORKS[c['network']](**c['net']).to(device, memory_format=torch.channels_last)
    ema = EMA(net, c['ema'])
    stepper = optim.Stepper(net, optim.make(c['optimizer'], net, c['lr'], c['weight_decay']), c['precision'], c['clip'])
    nimg, seconds, tick, checks = 0, 0.0, 0, 0.0             # images seen, time spent, ticks done, time of the last validation
    newest = checkpoint.latest(c['out']) if resumed else None
    if newest:
        tensors, state = checkpoint.load(newest, map_location=device)
        net.load_state_dict(tensors['net'])
        ema.load_state_dict({'n': state['ema_n'], 'net': tensors['ema']})
        stepper.load_state_dict(state['stepper'])
        nimg, seconds, tick, checks = (state[k] for k in ('nimg', 'seconds', 'tick', 'checks'))
    forward = world.wrap(torch.compile(net) if c['compile'] else net)
    journal, autocast, each = log.Log(c['out']), autocast_of(c, device), c['batch'] * world.size * c['accumulate']
    if world.main:
        run.write_json(Path(c['out'], 'machine.json'), machine() | {'processes': world.size, 'threads': torch.get_num_threads(),
                                                                     'feeding': 'in turns with training' if device.type == 'cpu' else 'beside training'})
        journal.rewind(nimg)
        soup.forget_after(c['out'], nimg)
    say(f'{c["out"]}: {c["preset"]}, {models.count(net):,} parameters, {c["recipe"]}, {len(images):,} {sources.kind(images)}, '
        f'{", ".join(f"{len(v):,} validation pairs ({k})" for k, v in sets.items())}, {c["precision"]} on {device}' + (f' x {world.size}' if world.size > 1 else '')
        + f', {c["pipe"]} pipe, ' + (f'feeding and training take turns on {torch.get_num_threads()} threads' if device.type == 'cpu' else f'{c["threads"]} threads feed')
        + (f', resumed at {nimg:,} images' if newest else ''))

    def progress():
        """Share of the run that is done; the last validations, one for every average kept, fit into --minutes."""
        return nimg / c['nimg'] if c['nimg'] else seconds / max(60 * c['minutes'] - (2 + c['keep']) * checks, 1)

    def save():
        if world.main:
            checkpoint.save(c['out'], nimg, {'net': net.state_dict(), 'ema': ema.net.state_dict()},
                            dict(stepper=stepper.state_dict(), ema_n=ema.n, nimg=nimg, seconds=seconds, tick=tick, checks=checks))
        world.barrier()

    def validate():
        """{name: Scores} of the average."""
        scores = {name: restore.validate(ema.net, data, device, world, batch=c['batch'], autocast=autocast, threads=c['threads']) for name, data in sets.items()}
        if world.main:
            first = next(iter(scores.values()))
            more = {f'{name}/{k}': getattr(s, k).mean() for name, s in list(scores.items())[1:] for k in ('psnr', 'ssim', 'bicubic')}
            journal.append(dict(nimg=nimg, psnr=first.psnr.mean(), ssim=first.ssim.mean(), bicubic=first.bicubic.mean(), **more, seconds=round(seconds, 1), **bar.figures()))
            for name, s in scores.items():
                place = Path(c['out'], 'samples', f'{nimg:09d}.png' if s is first else f'{name}-{nimg:09d}.png')
                pictures.strip(place, s.shown, [(None, b, o, None) for b, o in zip(s.bicubic, s.psnr)])
            pictures.curves(Path(c['out'], 'curves.png'), journal.read())
            soup.keep(c['out'], nimg, ema.net.state_dict(), first.psnr[::2].mean(), c['keep'])
            waiting = 0.0 if device.type == 'cpu' else bar.figures()['wait']     # on a CPU feeding takes its turns
            for hint in set(watch.hints(journal.read(), waiting, stepper.skipped())) - hinted:
                hinted.add(hint)
                say(f'hint: {hint}')
        return scores

    stopping, scores, saved, rows, spent, hinted = stop.Stop(), None, time.monotonic(), int(200 * progress()), 0.0, set()
    losses = watch.Losses(each, MAX_SKIPPED, journal.append if world.main else lambda row: None)
    recipe = degrade.recipe(c['recipe'])._replace(pool=c['pair_pool'])
    with (dali_pipes.make(c['pipe'], images, recipe, batch=c['batch'], size=c['size'], seed=c['seed'], start=nimg, rank=world.rank, world=world.size, say=say,
                          lq_from_usm=c['lq_from_usm'], target_usm=c['target_usm'], device=device, threads=torch.get_num_threads() if world.size > 1 else c['threads'],
                          cache=c['cache']) as pipe,
          log.Progress(c['nimg'], nimg, quiet=not world.main) as bar):
        while True:
            # What every process must decide alike.
            stopped, saving, seconds = world.agree(stopping.asked is not None, time.monotonic() - saved > 60 * c['save_minutes'], seconds + spent)
            due = progress() >= (tick + 1) / c['ticks'] and nimg > 0
            start = time.monotonic()
            if due or saving and nimg:
                if due:
                    tick = int(progress() * c['ticks'])
                    scores = validate()
                    checks = time.monotonic() - start
                    bar.update(nimg, psnr=next(iter(scores.values())).psnr.mean())
                save()
                newest, saved = checkpoint.latest(c['out']), time.monotonic()
            if stopped or progress() >= 1:
                break
            waited, lr, loss = 0.0, rate(progress(), c), 0.0

            # One step.
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
            nimg += each
            losses.add(nimg, loss, bad)
            if device.type == 'cpu' or len(losses) == 50:                        # reading a loss makes a GPU wait
                losses.look()
            spent = time.monotonic() - start
            bar.update(nimg, waited, progress(), loss=losses.mean or float('nan'), lr=lr)
            if 200 * progress() >= rows + 1 and losses.mean and world.main:
                rows = int(200 * progress())
                journal.append(dict(nimg=nimg, loss=losses.mean, lr=lr))
        if stopped:
            save()
            say(f'\nstopped by {stopping.asked or "another process"} at {nimg:,} images and saved: the same command goes on from here')
            return
        bar.update(nimg, share=1.0)
    finish(c, world, ema, scores or validate(), sets, device, autocast, say, f'{nimg:,} images in {seconds / 60:.1f} minutes')


def finish(c, world, ema, scores, sets, device, autocast, say, length):
    """weights.safetensors: the last average, or the mean of the best ones if that is better on the even images of the first validation set; the odd ones tell."""
    if not world.main:
        return
    (name, data), last = next(iter(sets.items())), next(iter(scores.values()))
    probe, found = copy.deepcopy(ema.net), {}

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
    say(f'PSNR {best.psnr.mean():.3f} dB, SSIM {best.ssim.mean():.4f}, bicubic {best.bicubic.mean():.3f} dB (gain {best.psnr.mean() - best.bicubic.mean():+.3f}; '
        f'worst image {(best.psnr - best.bicubic).min():+.3f}), {len(data)} pairs, {length}')
    if parts[0] != 'the last average':
        say(f'weights: mean of the averages at {", ".join(parts)}, chosen on the even images; on the odd ones {best.psnr[1::2].mean():.3f} dB, the last average {last.psnr[1::2].mean():.3f} dB')
    say(f'restore with: python infer.py --run {c["out"]} --input FOLDER')


def main(argv=None):
    args = parse(argv)
    world = None
    try:
        c = configure(args)
        if args.dry_run:
            print(json.dumps(c, indent=2))
            return 0
        with World(torch.device(c['device'])) as world, contextlib.ExitStack() as held:
            train(c, world, held)
        return 0
    except (RunError, manifest.DataError, checkpoint.CheckpointError, degrade.kernels.KernelError) as e:
        if int(os.environ.get('RANK', 0)) == 0:
            print(f'train.py: {e}', file=sys.stderr)
        return 2
    except PeerLost as e:
        print(f'train.py: {e}', file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as e:
        print(f'train.py: {out_of_memory(c)}', file=sys.stderr)
        return 2
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


def out_of_memory(c):
    """What to say when the GPU's memory does not suffice."""
    total = torch.cuda.mem_get_info()[1]
    return (f'the GPU ran out of its {total / 1e9:.1f} GB with --batch {c["batch"]}: nearly all of it grows with the batch, so take '
            + (f'--batch {c["batch"] // 2} --accumulate {2 * c["accumulate"]}, which makes the same steps' if c['batch'] > 1 else 'a smaller --preset')
            + '; --cache host or off frees what the cache holds')


if __name__ == '__main__':
    sys.exit(main())
