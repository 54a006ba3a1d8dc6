"""Face parsing: which part of a face each pixel belongs to; its losses, and the challenge's validation (mIoU of the data set over 19 classes; AI6126, project 1)."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

import models
from faces import masks
from losses import segmentation
from metrics.miou import Confusion

from .players import Metric, ahead, grouped

METRIC = Metric('miou', 'mIoU', '%', 2.0)
NETWORKS = models.PARSERS
LOSSES = {
    'ce': (1, 0, 0),
    'lovasz': (1, 2, 0),
    'mixed': (0.5, 0.3, 1),
    'ohem': None,
}  # weights of cross entropy, Lovász-softmax and Dice
LOVASZ_EVERY = 4  # it sorts: of all pixels it would cost more than the network
AUX = 0.4  # weight of the losses at every auxiliary head (PSPNet, Zhao et al., CVPR 2017)
SWAP = torch.from_numpy(masks.SWAP[: len(masks.CLASSES)].astype(np.int64))


class Criterion:
    """What a parser is trained on. c: options of the run, with loss"""

    def __init__(self, c, extract=None, weights=()):
        self.c = c

    def net(self, output, batch, discriminator, nimg, share):
        """{name: weighted scalar} of logits [B, C, H, W], or of a tuple of them, behind the first the auxiliary ones [B, C, H / 4, W / 4]."""
        first, *others = output if isinstance(output, tuple) else (output,)
        found = self._losses(first, batch.target, LOVASZ_EVERY)
        for logits in others:
            for name, value in self._losses(logits, batch.target[:, 2::4, 2::4]).items():
                found[name] = found[name] + AUX * value
        return found

    def _losses(self, logits, target, every=1):
        if self.c['loss'] == 'ohem':
            return {'ohem': segmentation.ohem(logits, target)}
        ce, lovasz, dice = LOSSES[self.c['loss']]
        found = {'ce': ce * segmentation.cross_entropy(logits, target, segmentation.MILD)}
        if lovasz:
            found['lovasz'] = lovasz * segmentation.lovasz_softmax(logits, target, every)
        if dice:
            found['dice'] = dice * segmentation.dice(logits, target)
        return found


class Scores(NamedTuple):
    counts: np.ndarray  # [N, C, C] int64 pixels of each image by (true, predicted) class
    shown: list  # (input, ours, truth) uint8 [3, H, W] of the first few, masks in colour over the picture

    def value(self, part=slice(None)):
        """What a run is judged by, over a part of the images."""
        return self.over(part).miou

    def over(self, part=slice(None)):
        """metrics.miou.Scores of a part of the images."""
        confusion = Confusion(self.counts.shape[1])
        confusion.counts += torch.from_numpy(self.counts[part].sum(0))
        return confusion.compute()

    def row(self):
        """{name: percent} of everything that is known."""
        s = self.over()
        return dict(miou=s.miou, f1=s.f1, accuracy=s.accuracy) | {
            f'iou/{name}': v for name, v in zip(masks.CLASSES, s.iou) if v == v
        }

    def pictures(self):
        """(rows, figures, names) of pictures.strip."""
        return self.shown, None, ('input', 'ours', 'truth')

    def sentence(self):
        s = self.over()
        classes = ', '.join(f'{name} {v:.1f}' for name, v in zip(masks.CLASSES, s.iou))
        return f'mIoU {s.miou:.2f} %, mean F1 {s.f1:.2f} %, pixel accuracy {s.accuracy:.2f} %, {len(self.counts)} images\nIoU: {classes}'


def parse(net, image, tta=False):
    """image [B, 3, H, W] uint8 on the device -> [B, H, W] uint8 ids. tta: mean probability over the picture and its mirror image, whose sides are exchanged back."""
    x = (image.float() / 255).contiguous(memory_format=torch.channels_last)
    p = net(x).float().softmax(1)
    if tta:
        p = p + net(x.flip(3)).float().softmax(1).flip(3)[:, SWAP.to(p.device)]
    return p.argmax(1).to(torch.uint8)


def overlay(image, ids):
    """image [3, H, W] uint8, ids [H, W] -> [3, H, W] uint8: the standard colours over the picture, half and half; background stays."""
    colours = torch.from_numpy(masks.COLOURS)[ids.long()].permute(2, 0, 1)
    return torch.where(ids > 0, ((image.int() + colours) // 2).to(torch.uint8), image)


@torch.no_grad()
def validate(net, data, device, world=None, *, batch=8, autocast, show=4, threads=1, tta=False):
    """Score `net` on a validation set: items (name, image uint8 [3, H, W], ids uint8 [H, W]). -> Scores; everything else as in restore.validate."""
    counts, shown = [], []
    rank, size = (world.rank, world.size) if world else (0, 1)
    mine, training = range(rank, len(data), size), net.training
    net.eval()
    with ThreadPoolExecutor(threads) as pool:
        for items in grouped(ahead(pool, lambda i: data[mine[i]], len(mine), 2 * batch), batch):
            image, truth = (torch.stack(x).to(device) for x in list(zip(*items))[1:])
            with autocast():
                ours = parse(net, image, tta)
            for one, other in zip(ours, truth):
                confusion = Confusion(len(masks.CLASSES), device)
                confusion.update(one, other)
                counts.append(confusion.counts)
            for i in range(min(len(image), show - len(shown))):
                x, a, b = (t[i].cpu() for t in (image, ours, truth))
                shown.append((x, overlay(x, a), overlay(x, b)))
    net.train(training)
    found = torch.stack(counts).cpu().numpy().tolist() if counts else []
    if size > 1:
        found = [row for _, row in sorted(world.gather(list(zip(mine, found))))]
    return Scores(np.array(found, np.int64), shown)
