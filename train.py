"""Train a face restorer: HQ faces in, degraded on the fly, x4.

    python train.py                                                  the demo: synthetic faces, a few minutes on two cores
    python train.py --data faces/ --preset srresnet16                your own 512x512 faces, 1 % of them held out for validation
    python train.py --data train.txt --val pairs/ --preset unet --recipe ai6126_2022 --minutes 15 --out runs/mine

Running the same command again resumes. A run directory holds config.json, log.jsonl, curves.png, samples/ and checkpoints/.
"""
import argparse
import errno
import functools
import hashlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import torch

import dali_pipes
import models
from dali_pipes import cache, degrade, faces, manifest, validation
from tasks import restore
from training import checkpoint, log, pictures, run, schedule, stop
from training.ema import EMA
from training.run import RunError

# `nimg` images in all, learning rate `lr` at its peak, `ema` horizon in images, `ticks` validations evenly over the run.
PRESETS = {
    'demo':       dict(network='unet',     net=dict(),          recipe='ai6126_2024', batch=2,  minutes=6.0,     lr=1e-3, loss='l1', ema=800,    ticks=5),
    'unet':       dict(network='unet',     net=dict(),          recipe='ai6126_2024', batch=4,  nimg=200_000,    lr=1e-3, loss='l1', ema=800,    ticks=20),
    'srresnet16': dict(network='srresnet', net=dict(blocks=16), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet20': dict(network='srresnet', net=dict(blocks=20), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet24': dict(network='srresnet', net=dict(blocks=24), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
    'srresnet26': dict(network='srresnet', net=dict(blocks=26), recipe='ai6126_2024', batch=8,  nimg=2_400_000,  lr=2e-4, loss='l1', ema=8_000,  ticks=60),
}
DEMO_FACES, DEMO_VAL, VAL_SEED = 112, 12, 1_000_000           # synthetic faces to train and to validate on, drawn from different seeds


def parse(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a = functools.partial(p.add_argument, default=None)
    a('--preset',       help=f'starting point that the other flags override: {", ".join(PRESETS)} (default: demo; unet if --data is given)')
    a('--data',         help='HQ faces: folder, list of files, or glob; PNG or JPEG (default: synthetic faces)')
    a('--val',          help='folder with LQ/ and GT/, HQ faces as for --data (degraded the same way every time, and left out of training), '
                             'or how many of --data to hold out: a number, or a share below 1 (default: 0.01)')
    a('--recipe',       help=f'degradation: {", ".join(degrade.RECIPES)} (default: the preset\'s)')
    a('--pipe',         help=f'{", ".join(dali_pipes.PIPES)} (default: dali; torch where DALI is not installed)')
    a('--out',          help='run directory (default: runs/PRESET)')
    a('--batch',        type=int, help='images per step')
    a('--nimg',         type=int, help='length of the run in images')
    a('--minutes',      type=float, help='length of the run as wall time instead, validation included; the schedule is fitted to it')
    a('--lr',           type=float, help='peak learning rate')
    a('--loss',         help=f'{", ".join(restore.LOSSES)}')
    a('--ema',          type=float, help='horizon of the weight average in images')
    a('--ticks',        type=int, help='validations, checkpoints and pictures, evenly over the run')
    a('--seed',         type=int, help='of the weights, the order, the flips and the degradations (default: 0)')
    a('--size',         type=int, help='side of the HQ images in pixels (default: 512)')
    a('--lq-from-usm',  action=argparse.BooleanOptionalAction, help='degrade the sharpened face, where the recipe has it so (default: yes)')
    a('--target-usm',   action=argparse.BooleanOptionalAction, help='train on the sharpened face; validation keeps the plain one (default: no)')
    a('--pair-pool',    type=int, help='ai6126_2024_parity: size of the emulated queue of training pairs (default: 0, off)')
    a('--precision',    help='bf16 or fp32 (default: bf16 where the hardware computes it)')
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
    c = dict(pipe=_default_pipe, out=f'runs/{preset}', seed=0, size=512, data=None, val=None, lq_from_usm=True, target_usm=False, pair_pool=0,
             precision=default_precision, device='cuda' if torch.cuda.is_available() else 'cpu', threads=os.cpu_count(), cache='auto', save_minutes=5.0)
    c |= PRESETS[preset] | given | {'preset': preset}
    if 'nimg' in given or 'minutes' in given:                # one of the two is the length
        c |= {k: given.get(k) for k in ('nimg', 'minutes')}
        if all(k in given for k in ('nimg', 'minutes')):
            raise RunError('--nimg and --minutes are two lengths of one run: give one')
    c |= {'nimg': c.get('nimg'), 'minutes': c.get('minutes')}
    c |= {k: v for k, v in run.stored(c['out']).items() if k in ('threads', 'precision') and k not in given}      # bits depend on them
    c = {k: v(c) if callable(v) else v for k, v in c.items()}
    run.choose(c['pipe'], dali_pipes.PIPES, 'pipe'), run.choose(c['recipe'], degrade.RECIPES, 'recipe')
    run.choose(c['cache'], cache.MODES, 'cache'), run.choose(c['loss'], restore.LOSSES, 'loss'), run.choose(c['precision'], ('bf16', 'fp32'), 'precision')
    for k in ('batch', 'nimg', 'minutes', 'lr', 'ema', 'ticks', 'size', 'threads', 'save_minutes'):
        if c[k] is not None and not c[k] > 0:
            raise RunError(f'--{k.replace("_", "-")} {c[k]}: must be positive')
    if c['device'] != 'cpu' and not (c['device'].split(':')[0] == 'cuda' and torch.cuda.is_available()):
        raise RunError(f'--device {c["device"]}: ' + ('there is no CUDA GPU that torch can use; give --device cpu' if c['device'].startswith('cuda') else 'give cuda or cpu'))
    if c['pipe'] == 'dali' and not _has_dali():
        raise RunError('--pipe dali needs NVIDIA DALI: pip install -e .[cuda13], or [cuda12] for drivers 525-579; --pipe torch does without')
    if c['size'] % 4 or c['seed'] < 0:
        raise RunError(f'--size {c["size"]} must be a multiple of the scale 4 and --seed {c["seed"]} not negative')
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


def load_data(c, say=print):
    """(images to train on, validation set) of the options; DataError for anything unusable."""
    scan = functools.partial(manifest.scan, size=c['size'], verify=bool(c.get('verify')), strict=bool(c.get('strict')), progress=log.bar('checking files'), say=say)
    degraded = functools.partial(validation.Degraded, recipe=degrade.recipe(c['recipe']), size=c['size'], lq_from_usm=c['lq_from_usm'])
    if c['data'] is None:
        folders = []
        for name, count, seed in ('train', DEMO_FACES, 0), ('val', DEMO_VAL, VAL_SEED):
            folders.append(manifest.cache_folder() / f'faces-{c["size"]}-v{faces.VERSION}' / name)
            faces.write(folders[-1], count, first_seed=seed, size=c['size'], progress=log.bar(f'drawing {count} synthetic faces ({name})'))
        train, held = (scan(str(f / 'images')) for f in folders)
        return train.images, degraded(held.images) if c['val'] is None else _pairs(c, say)
    train, val = scan(c['data']), c['val'] or '0.01'
    if val.replace('.', '', 1).isdigit():
        train, held = train.split(float(val) if '.' in val else int(val), c['seed'])
        return train.images, degraded(held.images)
    if manifest.is_paired(val):
        return train.images, _pairs(c, say)
    held = scan(val)
    left = train.without(held.paths)
    if len(left) < len(train):
        say(f'{len(train) - len(left):,} images of --val are left out of training')
    if not len(left):
        raise manifest.DataError(f'--data {c["data"]} holds nothing but the images of --val {val}')
    return left.images, degraded(held.images)


def _pairs(c, say):
    return validation.Pairs(manifest.scan_pairs(c['val'], say=say))


def fingerprint(images):
    """Which files are trained on, by name and order: a resumed run must see the same."""
    names = '\n'.join(os.path.basename(i.path) for i in images)
    return f'{len(images)} images, {hashlib.blake2b(names.encode(), digest_size=8).hexdigest()}'


def optimizer_of(net, lr, device):
    return torch.optim.AdamW(net.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=device.type == 'cuda')


def step(net, ema, optimizer, batch, loss, autocast):
    """One step of the network and its average -> its loss, a scalar on the device, not waited for."""
    with autocast():
        total = sum(restore.losses(net, batch, loss).values())
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    ema.update(net, len(batch.input))
    return total.detach()


def train(c):
    torch.set_num_threads(c['threads'])
    torch.manual_seed(c['seed'])
    device = torch.device(c['device'])
    if device.index is not None:
        torch.cuda.set_device(device)            # what names no GPU means this one
    images, val = load_data(c)
    resumed = run.prepare(c['out'], c | {'images': fingerprint(images)})

    # Network, optimizer, average; then everything again from the newest checkpoint, if there is one.
    net = models.NETWORKS[c['network']](**c['net']).to(device, memory_format=torch.channels_last)
    ema = EMA(net, c['ema'])
    optimizer = optimizer_of(net, c['lr'], device)
    nimg, seconds, tick, checks = 0, 0.0, 0, 0.0             # images seen, time spent, ticks done, time of the last validation
    newest = checkpoint.latest(c['out']) if resumed else None
    if newest:
        tensors, state = checkpoint.load(newest, map_location=device)
        net.load_state_dict(tensors['net'])
        ema.load_state_dict({'n': state['ema_n'], 'net': tensors['ema']})
        optimizer.load_state_dict(state['optimizer'])
        nimg, seconds, tick, checks = (state[k] for k in ('nimg', 'seconds', 'tick', 'checks'))
    journal = log.Log(c['out'])
    journal.rewind(nimg)
    autocast = functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=c['precision'] == 'bf16')
    print(f'{c["out"]}: {c["preset"]}, {models.count(net):,} parameters, {c["recipe"]}, {len(images):,} images, {len(val):,} validation pairs, '
          f'{c["precision"]} on {device}, {c["pipe"]} pipe' + (f', resumed at {nimg:,} images' if newest else ''))

    def progress():
        """Share of the run that is done; the last validation fits into --minutes."""
        return nimg / c['nimg'] if c['nimg'] else seconds / max(60 * c['minutes'] - checks, 1)

    def save():
        checkpoint.save(c['out'], nimg, {'net': net.state_dict(), 'ema': ema.net.state_dict()},
                        dict(optimizer=optimizer.state_dict(), ema_n=ema.n, nimg=nimg, seconds=seconds, tick=tick, checks=checks))

    def validate():
        scores = restore.validate(ema.net, val, device, batch=c['batch'], autocast=autocast, threads=c['threads'])
        journal.append(dict(nimg=nimg, psnr=scores.psnr.mean(), ssim=scores.ssim.mean(), bicubic=scores.bicubic.mean(), seconds=round(seconds, 1), **bar.figures()))
        pictures.strip(Path(c['out'], 'samples', f'{nimg:09d}.png'), scores.shown, [(None, b, o, None) for b, o in zip(scores.bicubic, scores.psnr)])
        pictures.curves(Path(c['out'], 'curves.png'), journal.read())
        return scores

    stopping, scores, losses, saved, rows = stop.Stop(), None, [], time.monotonic(), int(200 * progress())
    recipe = degrade.recipe(c['recipe'])._replace(pool=c['pair_pool'])
    with (dali_pipes.make(c['pipe'], images, recipe, batch=c['batch'], size=c['size'], seed=c['seed'], start=nimg, lq_from_usm=c['lq_from_usm'],
                          target_usm=c['target_usm'], device=device, threads=c['threads'], cache=c['cache']) as pipe,
          log.Progress(c['nimg'], nimg) as bar):
        while progress() < 1 and not stopping.asked:
            start = time.monotonic()
            batch = next(pipe)
            waited = time.monotonic() - start

            # One step.
            lr = schedule.lr(progress(), c['lr'])
            for group in optimizer.param_groups:
                group['lr'] = lr
            losses.append(step(net, ema, optimizer, batch, c['loss'], autocast))
            nimg += c['batch']

            # What is written along the way: the loss 200 times, everything else at ticks.
            if device.type == 'cpu' or len(losses) == 50 or progress() >= (tick + 1) / c['ticks']:      # reading a loss makes a GPU wait
                losses = [_finite(losses, nimg, c, newest)]
            seconds += time.monotonic() - start
            bar.update(nimg, waited, progress(), loss=losses[-1], lr=lr)
            if 200 * progress() >= rows + 1:
                rows = int(200 * progress())
                journal.append(dict(nimg=nimg, loss=float(losses[-1]), lr=lr))
            if progress() >= (tick + 1) / c['ticks'] or time.monotonic() - saved > 60 * c['save_minutes']:
                start = time.monotonic()
                if progress() >= (tick + 1) / c['ticks']:
                    tick = int(progress() * c['ticks'])
                    scores = validate()
                    checks = time.monotonic() - start
                    bar.update(nimg, psnr=scores.psnr.mean())
                seconds += time.monotonic() - start
                save()
                newest, saved = checkpoint.latest(c['out']), time.monotonic()
        if stopping.asked:
            save()
            print(f'\nstopped by {stopping.asked} at {nimg:,} images and saved: the same command goes on from here')
            return
        bar.update(nimg, share=1.0)
    scores = scores or validate()
    print(f'PSNR {scores.psnr.mean():.3f} dB, SSIM {scores.ssim.mean():.4f}, bicubic {scores.bicubic.mean():.3f} dB '
          f'(gain {scores.psnr.mean() - scores.bicubic.mean():+.3f}; worst image {(scores.psnr - scores.bicubic).min():+.3f}), {len(val)} pairs, '
          f'{nimg:,} images in {seconds / 60:.1f} minutes\nrestore with: python infer.py --run {c["out"]} --input FOLDER')


def _finite(losses, nimg, c, newest):
    """The mean loss since the last look, as a tensor; RunError if one was not a number."""
    mean = torch.stack(losses).mean()
    if not torch.isfinite(mean):
        first = nimg - c['batch'] * (len(losses) - 1 - int(torch.isfinite(torch.stack(losses)).int().argmin()))
        kept = f'the checkpoint {newest} is kept' if newest else 'there is no checkpoint yet'
        raise RunError(f'the loss is {float(mean)} at image {first:,} of {c["out"]} (samples {first - c["batch"]:,} to {first - 1:,}): {kept}; '
                       f'start afresh with a lower --lr (now {c["lr"]:g}) or --precision fp32, and another --out')
    return mean


def main(argv=None):
    args = parse(argv)
    try:
        c = configure(args)
        if args.dry_run:
            print(json.dumps(c, indent=2))
            return 0
        train(c)
        return 0
    except (RunError, manifest.DataError, checkpoint.CheckpointError, degrade.kernels.KernelError) as e:
        print(f'train.py: {e}', file=sys.stderr)
        return 2
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        print(f'train.py: {e.filename or args.out or "the run directory"} cannot be written: {e.strerror}; the last checkpoint is whole', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
