"""Face restoration: a network, and for GANs a discriminator; what they are trained on; and the challenge's validation (PSNR and SSIM of rounded 8-bit images, no crop)."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import models
from losses import adversarial, features, pixel, priors
from metrics.psnr import psnr, to_uint8
from metrics.ssim import ssim

from .players import Metric, ahead, frozen, grouped

METRIC = Metric('psnr', 'PSNR', 'dB', 0.2)
NETWORKS = models.NETWORKS | models.GUIDED | models.RENOVATORS

LOSSES = {
    'l1': pixel.l1,
    'charbonnier': pixel.charbonnier,
    'smooth_l1': pixel.smooth_l1,
    'mse': pixel.mse,
    'psnr': pixel.psnr,
}
ENTROPY = 1e-3  # weight of the bonus for priors that count alike, beside a multi-prior loss
FEATURES = {
    'esrgan': features.ESRGAN,
    'realesrgan': features.REAL_ESRGAN,
    'pix2pixhd': features.PIX2PIXHD,
}  # weights by layer of VGG19


class Criterion:
    """What the networks of a run are trained on: a pixel loss, features that should agree (Johnson et al., ECCV 2016), a discriminator (Goodfellow et al., 2014).

    c: options of the run: loss, pixel_weight, last_loss and last_share of the run that it takes instead; perceptual_weight and features; gan, gan_weight, and gan_from,
       the images that the discriminator sees before the generator listens to it; matching_weight of its feature maps; r1; multi_prior_weight, of what models.Attended has
    extract: module that gives feature maps of [B, 3, H, W] in [0, 1], or None; weights: of each of its maps
    """

    def __init__(self, c, extract=None, weights=()):
        self.c, self.extract, self.weights = c, extract, weights
        # One batch of real and fake pictures is one estimate of the spectral norms for both; the other discriminators are trained as published, in two.
        self._together = c['discriminator'] == 'patchgan'
        self._paired = self._together and c['discriminator_net'].get('channels', 6) == 6

    def net(self, output, batch, discriminator, nimg, share):
        """{name: weighted scalar}, which the network makes small. discriminator: a module, or None; nimg, share: images seen, share of the run done.

        output: [B, 3, H, W], or a list of them, one of every pass, or models.Attended with such a list: all are to be like the target; a discriminator sees the last, and
                the multi-prior loss, too, since only it was guided
        """
        c = self.c
        kind = c['last_loss'] if c['last_loss'] and share >= 1 - c['last_share'] else c['loss']
        passes = _passes(output)
        names = [f'_pass{i}' for i in range(len(passes))] if len(passes) > 1 else ['']
        found = (
            {
                'pixel' + name: c['pixel_weight'] * LOSSES[kind](y, batch.target)
                for name, y in zip(names, passes)
            }
            if c['pixel_weight']
            else {}
        )
        if self.extract is not None:
            found |= {
                'perceptual' + name: c['perceptual_weight']
                * features.perceptual(self.extract, y, batch.target, self.weights)
                for name, y in zip(names, passes)
            }
        if isinstance(output, models.Attended):
            found['multi_prior'] = c['multi_prior_weight'] * priors.multi_prior(
                passes[-1], batch.target, output.regions, output.weights
            )
            if output.weights is not None:
                found['entropy'] = -ENTROPY * priors.entropy(output.weights)
        if discriminator is not None and nimg >= c['gan_from']:
            with frozen(discriminator):
                found |= self._adversarial(discriminator, passes[-1], batch)
        return found

    def _adversarial(self, discriminator, output, batch):
        c = self.c
        if c['gan'] == 'ragan' or c['matching_weight']:
            real, fake = self._judged(
                discriminator, batch.plain, output, batch.input
            )  # the real ones need no gradient, and have none
        else:
            real, fake = None, discriminator(self._beside(batch.input, output))
        found = {'gan': c['gan_weight'] * adversarial.g_loss(c['gan'], fake, real)}
        if c['matching_weight']:
            found['matching'] = c['matching_weight'] * features.matching(real, fake)
        return found

    def discriminator(self, forward, output, batch):
        """({name: scalar}, which the discriminator makes small; share of its logits that are right)"""
        images = batch.plain.requires_grad_(bool(self.c['r1']))
        real, fake = self._judged(forward, images, _passes(output)[-1].detach(), batch.input)
        found = {'d': adversarial.d_loss(self.c['gan'], real, fake)}
        if self.c['r1']:
            found['r1'] = self.c['r1'] * adversarial.r1(images, real)
        return found, adversarial.accuracy(real, fake, self.c['gan'])

    def _judged(self, forward, real, fake, lq):
        """What a discriminator says of real pictures and of fake ones made of lq."""
        if not self._together:
            return forward(real), forward(fake)
        both = forward(torch.cat([self._beside(lq, real), self._beside(lq, fake)]))
        return [[x[: len(real)] for x in scale] for scale in both], [
            [x[len(real) :] for x in scale] for scale in both
        ]

    def _beside(self, lq, image):
        """What is judged: a picture, or the degraded one and it, [B, 6, H, W] (pix2pixHD, Wang et al., CVPR 2018)."""
        if not self._paired:
            return image
        if lq.shape != image.shape:
            lq = F.interpolate(lq, image.shape[-2:], mode='bicubic').clamp(0, 1)
        return torch.cat([lq, image.to(lq.dtype)], 1)


def _passes(output):
    output = output.passes if isinstance(output, models.Attended) else output
    return output if isinstance(output, list) else [output]


class Scores(NamedTuple):
    psnr: np.ndarray  # [N] dB of the restored images
    ssim: np.ndarray  # [N]
    baseline: (
        np.ndarray
    )  # [N] dB of bicubic enlargement of the same inputs; where the size stays that is the inputs
    lpips: np.ndarray  # [N], NaN where it was not asked for
    pass0: np.ndarray  # [N] dB of the first of two passes, NaN of a network with one
    shown: list  # (input, bicubic, ours, truth) uint8 [3, h, w] of the first few
    named: str  # the baseline: 'bicubic' or 'input'

    def value(self, part=slice(None)):
        """What a run is judged by, over a part of the images."""
        return float(self.psnr[part].mean())

    def row(self):
        """{name: mean} of everything that is known; gain: of the second pass over the first, dB."""
        found = {
            'psnr': self.psnr,
            'ssim': self.ssim,
            self.named: self.baseline,
            'lpips': self.lpips,
            'pass0': self.pass0,
        }
        found = {k: float(v.mean()) for k, v in found.items() if not np.isnan(v).any()}
        return found | ({'gain': found['psnr'] - found['pass0']} if 'pass0' in found else {})

    def pictures(self):
        """(rows, figures, names) of pictures.strip."""
        if self.named == 'input':
            return (
                [(lq, *rest) for lq, _, *rest in self.shown],
                [(b, o, None) for b, o in zip(self.baseline, self.psnr)],
                ('input', 'ours', 'truth'),
            )
        return (
            self.shown,
            [(None, b, o, None) for b, o in zip(self.baseline, self.psnr)],
            ('input', 'bicubic', 'ours', 'truth'),
        )

    def sentence(self):
        gain = self.psnr - self.baseline
        return (
            f'PSNR {self.psnr.mean():.3f} dB, SSIM {self.ssim.mean():.4f}, {self.named} {self.baseline.mean():.3f} dB (gain {gain.mean():+.3f}; worst image {gain.min():+.3f}), '
            f'{len(self.psnr)} pairs'
            + (
                ''
                if np.isnan(self.pass0).any()
                else f'; first pass {self.pass0.mean():.3f} dB, the second gains {(self.psnr - self.pass0).mean():+.3f}'
            )
        )


def restore(net, lq, tta=False):
    """lq [B, 3, h, w] uint8 on the device -> [B, 3, H, W] uint8. tta: mean over the image and its mirror image."""
    x = _unit(lq)
    y = net(x).float()
    if tta:
        y = (y + net(x.flip(3)).float().flip(3)) / 2
    return to_uint8(y)


def baseline(net):
    """Name of what a restorer is compared with."""
    return 'input' if models.scale(net) == 1 else 'bicubic'


def passes(net, lq):
    """The same of every pass of the network, the last one what counts -> [[B, 3, H, W] uint8]."""
    x = _unit(lq)
    return [
        to_uint8(y.float()) for y in (net.passes(x) if isinstance(net, models.Guided) else [net(x)])
    ]


def _unit(lq):
    return (lq.float() / 255).contiguous(memory_format=torch.channels_last)


def bicubic(lq, size):
    """lq [B, 3, h, w] uint8 -> [B, 3, *size] uint8, a = -0.75 as OpenCV's; of the same size that is lq."""
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
    with ThreadPoolExecutor(threads) as pool:  # reads ahead of the network
        for items in grouped(ahead(pool, lambda i: data[mine[i]], len(mine), 2 * batch), batch):
            lq, gt = (torch.stack(x).to(device) for x in list(zip(*items))[1:])
            with autocast():
                found = passes(net, lq)
            ours, unknown = (
                found[-1],
                torch.full((len(lq),), torch.nan, dtype=torch.float64, device=lq.device),
            )
            cubic = bicubic(lq, gt.shape[-2:])
            rows.append(
                torch.stack(
                    [
                        m.to(unknown)
                        for m in (
                            psnr(ours, gt),
                            ssim(ours, gt),
                            psnr(cubic, gt),
                            lpips(ours, gt) if lpips else unknown,
                            psnr(found[0], gt) if len(found) > 1 else unknown,
                        )
                    ]
                ).cpu()
            )
            for i in range(min(len(lq), show - len(shown))):
                shown.append(tuple(t[i].cpu() for t in (lq, cubic, ours, gt)))
    found = torch.cat(rows, 1).T.tolist() if rows else []
    if size > 1:
        found = [row for _, row in sorted(world.gather(list(zip(mine, found))))]
    return Scores(*np.array(found).T, shown, baseline(net))
