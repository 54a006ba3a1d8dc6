"""Restoring, and judging it: the challenge's PSNR and SSIM of rounded 8-bit images, no crop."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models
from metrics.psnr import psnr, to_uint8
from metrics.ssim import ssim
from storage import counted
from training.world import World

from .batches import SHOWN, batches, collected
from .players import Autocast


class RestoreScores(NamedTuple):
    """Figures of every image of a validation set."""

    psnr: np.ndarray  # [N] dB of the restored images
    ssim: np.ndarray  # [N]
    baseline: (
        np.ndarray
    )  # [N] dB of bicubic enlargement of the inputs; of the inputs themselves where the size stays
    lpips: np.ndarray  # [N], NaN where it was not asked for
    pass0: np.ndarray  # [N] dB of the first of two passes, NaN of a network with one
    shown: list[
        tuple[Tensor, ...]
    ]  # (input, bicubic, ours, truth) uint8 [3, h, w] of the first few
    baseline_name: str  # 'bicubic' or 'input'

    def value(self, part: slice = slice(None)) -> float:
        """Mean PSNR over a part of the images."""
        return float(self.psnr[part].mean())

    def row(self) -> dict[str, float]:
        """{name: mean} of everything that is known; gain: of the second pass over the first, dB."""
        columns = {
            'psnr': self.psnr,
            'ssim': self.ssim,
            self.baseline_name: self.baseline,
            'lpips': self.lpips,
            'pass0': self.pass0,
        }
        row = {k: float(v.mean()) for k, v in columns.items() if not np.isnan(v).any()}
        if 'pass0' in row:
            row['gain'] = row['psnr'] - row['pass0']
        return row

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) of pictures.strip."""
        if self.baseline_name == 'input':
            rows = [(lq, *rest) for lq, _, *rest in self.shown]
            figures = [(b, o, None) for b, o in zip(self.baseline, self.psnr, strict=True)]
            return rows, figures, ('input', 'ours', 'truth')
        labels = [(None, b, o, None) for b, o in zip(self.baseline, self.psnr, strict=True)]
        return self.shown, labels, ('input', 'bicubic', 'ours', 'truth')

    def sentence(self) -> str:
        """The means in words."""
        gain = self.psnr - self.baseline
        text = (
            f'PSNR {self.psnr.mean():.3f} dB, SSIM {self.ssim.mean():.4f}, '
            f'{self.baseline_name} {self.baseline.mean():.3f} dB '
            f'(gain {gain.mean():+.3f}; worst image {gain.min():+.3f}), '
            f'{counted(len(self.psnr), "pair")}'
        )
        if np.isnan(self.pass0).any():
            return text
        second = (self.psnr - self.pass0).mean()
        return f'{text}; first pass {self.pass0.mean():.3f} dB, the second gains {second:+.3f}'


@torch.no_grad()
def validate(
    net: nn.Module,
    data: Sequence[Any],
    device: torch.device | str,
    world: World | None = None,
    *,
    batch: int = 8,
    autocast: Autocast,
    show: int = SHOWN,
    threads: int = 1,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> RestoreScores:
    """Score `net` on a validation set: items (name, LQ uint8, GT uint8), [3, h, w] and [3, H, W].

    world: processes that share the set; all get the scores, each shows its own pictures
    show: pictures to keep; lpips: metrics.perceptual.lpips, or None
    """
    rows: list[Tensor] = []
    shown: list[tuple[Tensor, ...]] = []
    for lq, gt in batches(data, device, world, batch, threads):
        with autocast():
            outputs = passes(net, lq)
        ours, cubic = outputs[-1], bicubic(lq, gt.shape[-2:])

        # One column an image; what is not known is NaN.
        unknown = torch.full((len(lq),), torch.nan, dtype=torch.float64, device=lq.device)
        columns = (
            psnr(ours, gt),
            ssim(ours, gt),
            psnr(cubic, gt),
            lpips(ours, gt) if lpips else unknown,
            psnr(outputs[0], gt) if len(outputs) > 1 else unknown,
        )
        rows.append(torch.stack([column.to(unknown) for column in columns]).cpu())
        for i in range(min(len(lq), show - len(shown))):
            shown.append(tuple(t[i].cpu() for t in (lq, cubic, ours, gt)))
    mine = torch.cat(rows, 1).T.tolist() if rows else []
    quality, structure, enlarged, distance, pass0 = np.array(collected(mine, len(data), world)).T
    return RestoreScores(quality, structure, enlarged, distance, pass0, shown, baseline(net))


def restore(net: nn.Module, lq: Tensor, tta: bool = False) -> Tensor:
    """lq [B, 3, h, w] uint8 on the device -> [B, 3, H, W] uint8. tta: mean over the image and its
    mirror image.
    """
    x = _unit(lq)
    y = net(x).float()
    if tta:
        y = (y + net(x.flip(3)).float().flip(3)) / 2
    return to_uint8(y)


def baseline(net: nn.Module) -> str:
    """Name of what a restorer is compared with."""
    return 'input' if models.scale(net) == 1 else 'bicubic'


def passes(net: nn.Module, lq: Tensor) -> list[Tensor]:
    """As `restore`, but of every pass -> [[B, 3, H, W] uint8]; the last one counts."""
    x = _unit(lq)
    outputs = net.passes(x) if isinstance(net, models.Guided) else [net(x)]
    return [to_uint8(y.float()) for y in outputs]


def _unit(lq: Tensor) -> Tensor:
    return (lq.float() / 255).contiguous(memory_format=torch.channels_last)


def bicubic(lq: Tensor, size: Sequence[int]) -> Tensor:
    """lq [B, 3, h, w] uint8 -> [B, 3, *size] uint8, a = -0.75 as OpenCV's; of the same size that is
    lq.
    """
    return to_uint8(F.interpolate(lq.float() / 255, size=tuple(size), mode='bicubic'))
