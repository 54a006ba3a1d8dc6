"""Landmarks of a face as heatmaps: which prior they are for a restorer; the loss, and the validation (share of points that are found, PCK; Yang and Ramanan, TPAMI 2013)."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

import models
from faces import heatmaps, landmarks
from losses import heatmap

from .players import Metric, ahead, grouped

METRIC = Metric('pck', 'PCK', '%', 5.0)
NETWORKS = models.LANDMARKERS
LOSSES = {'mse': heatmap.squared}
NEAR = 0.025  # a point is found if it lies this share of the picture's side from the true one or nearer: a tenth of the distance of aligned eyes
SIDE = heatmaps.SIDE  # errors are told in pixels of faces of this side


def located(target):
    """Target of a batch -> ([B, K, 2] pixels of the picture, [B, K] bool): ids [B, H, W] have the points of their mask, [B, K, 3] float are x, y and whether it is there."""
    if target.is_floating_point():
        return target[..., :2], target[..., 2] > 0
    return landmarks.from_mask(target)


class Criterion:
    """What the network is trained on. c: options of the run, with loss"""

    def __init__(self, c, extract=None, weights=()):
        self.c = c

    def net(self, output, batch, discriminator, nimg, share):
        """{name: scalar} of maps [B, K, h, w]; the batch's pictures are a whole multiple of their size."""
        points, visible = located(batch.target)
        size = output.shape[2:]
        wanted = heatmaps.gaussians(
            heatmaps.reduced(points, batch.input.shape[2] / size[0]), visible, size
        )
        return {self.c['loss']: LOSSES[self.c['loss']](output, wanted)}


class Scores(NamedTuple):
    pck: np.ndarray  # [N] percent of the points that are there and were found
    error: np.ndarray  # [N] mean distance of the points that are there, in pixels of a face of SIDE
    shown: list  # (input, ours, truth) uint8 [3, H, W] of the first few, points in colour over the picture

    def value(self, part=slice(None)):
        """What a run is judged by, over a part of the images."""
        return float(self.pck[part].mean())

    def row(self):
        """{name: mean} of everything that is known."""
        return dict(pck=self.value(), error=float(self.error.mean()))

    def pictures(self):
        """(rows, figures, names) of pictures.strip."""
        return self.shown, [(None, value, None) for value in self.pck], ('input', 'ours', 'truth')

    def sentence(self):
        return f'PCK {self.pck.mean():.2f} % within {NEAR * SIDE:.1f} px of {SIDE}, mean error {self.error.mean():.2f} px, {len(self.pck)} images'


def find(net, image):
    """image [B, 3, H, W] uint8 on the device -> [B, K, 2] float32 (x, y) pixels of the image."""
    maps = net((image.float() / 255).contiguous(memory_format=torch.channels_last))
    points, _ = heatmaps.peaks(maps)
    factor = image.shape[2] / maps.shape[2]
    return (points + 0.5) * factor - 0.5


def dotted(image, points, visible):
    """image [3, H, W] uint8, points [K, 2] -> [3, H, W] uint8 with a green square at each visible point."""
    out, radius = image.clone(), image.shape[1] // 128
    for x, y in points[visible].round().long().tolist():
        out[
            :,
            max(y - radius, 0) : max(y + radius + 1, 0),
            max(x - radius, 0) : max(x + radius + 1, 0),
        ] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    return out


@torch.no_grad()
def validate(net, data, device, world=None, *, batch=8, autocast, show=4, threads=1):
    """Score `net` on a validation set: items (name, image uint8 [3, H, W], target as of `located`). -> Scores; everything else as in restore.validate."""
    rows, shown = [], []
    rank, size = (world.rank, world.size) if world else (0, 1)
    mine, training = range(rank, len(data), size), net.training
    net.eval()
    with ThreadPoolExecutor(threads) as pool:
        for items in grouped(ahead(pool, lambda i: data[mine[i]], len(mine), 2 * batch), batch):
            image, target = (torch.stack(x).to(device) for x in list(zip(*items))[1:])
            points, visible = located(target)
            with autocast():
                ours = find(net, image)
            distance, there = (
                (ours - points).norm(dim=2) / image.shape[2],
                visible.sum(1).clamp_min(1),
            )
            found, error = (
                (x * visible).sum(1) / there for x in ((distance <= NEAR).float(), distance)
            )
            rows += torch.stack([100 * found, SIDE * error], 1).tolist()
            for i in range(min(len(image), show - len(shown))):
                x, a, b, v = (t[i].cpu() for t in (image, ours, points, visible))
                shown.append((x, dotted(x, a, v), dotted(x, b, v)))
    net.train(training)
    if size > 1:
        rows = [row for _, row in sorted(world.gather(list(zip(mine, rows))))]
    return Scores(*np.array(rows).T, shown)
