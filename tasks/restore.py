"""Face restoration: one network, a pixel loss, and the challenge's validation (PSNR and SSIM of rounded 8-bit images, no crop)."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from losses import pixel
from metrics.psnr import psnr, to_uint8
from metrics.ssim import ssim

LOSSES = {'l1': pixel.l1, 'charbonnier': pixel.charbonnier, 'mse': pixel.mse, 'psnr': pixel.psnr}


class Scores(NamedTuple):
    psnr:    np.ndarray     # [N] dB of the restored images
    ssim:    np.ndarray     # [N]
    bicubic: np.ndarray     # [N] dB of bicubic enlargement of the same inputs
    lpips:   np.ndarray     # [N], NaN where it was not asked for
    shown:   list           # (input, bicubic, ours, truth) uint8 [3, h, w] of the first few


def losses(net, batch, kind):
    """{'pixel': scalar} of a Batch."""
    return {'pixel': LOSSES[kind](net(batch.input), batch.target)}


def restore(net, lq, tta=False):
    """lq [B, 3, h, w] uint8 on the device -> [B, 3, H, W] uint8. tta: mean over the image and its mirror image."""
    x = (lq.float() / 255).contiguous(memory_format=torch.channels_last)
    y = net(x).float()
    if tta:
        y = (y + net(x.flip(3)).float().flip(3)) / 2
    return to_uint8(y)


def bicubic(lq, size):
    """lq [B, 3, h, w] uint8 -> [B, 3, *size] uint8, a = -0.75 as OpenCV's."""
    return to_uint8(F.interpolate(lq.float() / 255, size=tuple(size), mode='bicubic'))


@torch.no_grad()
def validate(net, data, device, world=None, *, batch=8, autocast, show=4, threads=1, lpips=None):
    """Score `net` on a validation set: items (name, LQ uint8, GT uint8). autocast: a callable that returns a context. -> Scores.

    lpips: metrics.perceptual.lpips, or None
    world: training.world.World whose processes share the set, each taking every size-th image; all get the scores, each shows its own pictures
    """
    rows, shown = [], []
    rank, size = (world.rank, world.size) if world else (0, 1)
    mine = range(rank, len(data), size)
    with ThreadPoolExecutor(threads) as pool:                    # reads ahead of the network
        for items in grouped(ahead(pool, lambda i: data[mine[i]], len(mine), 2 * batch), batch):
            lq, gt = (torch.stack(x).to(device) for x in list(zip(*items))[1:])
            with autocast():
                ours = restore(net, lq)
            cubic = bicubic(lq, gt.shape[-2:])
            dB = psnr(ours, gt)
            rows.append(torch.stack([dB, ssim(ours, gt).to(dB.dtype), psnr(cubic, gt), lpips(ours, gt) if lpips else torch.full_like(dB, torch.nan)]).cpu())
            for i in range(min(len(lq), show - len(shown))):
                shown.append(tuple(t[i].cpu() for t in (lq, cubic, ours, gt)))
    found = torch.cat(rows, 1).T.tolist() if rows else []
    if size > 1:
        found = [row for _, row in sorted(world.gather(list(zip(mine, found))))]
    return Scores(*np.array(found).T, shown)


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
    """Runs of up to `most` items of equal sizes."""
    group = []
    for item in items:
        if group and (len(group) == most or any(a.shape != b.shape for a, b in zip(group[0][1:], item[1:]))):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
