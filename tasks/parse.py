"""Face parsing: which part of a face each pixel belongs to, and the challenge's validation (mIoU
over 19 classes; AI6126, project 1).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losses
import models
import storage
from config.schema import Config
from errors import RunError
from faces import masks
from losses import segmentation
from metrics.miou import Confusion, SegmentationScores
from sources.files import read_bytes
from training.world import World

from . import images, masked
from .batches import SHOWN, batches, collected
from .players import Autocast, Losses, Players, autocast
from .prose import ParserProse
from .task import Applied, Group, Metric

LOVASZ_EVERY = 4  # it sorts: of all pixels it would cost more than the network
AUX = 0.4  # weight of the losses at every auxiliary head (PSPNet, Zhao et al., CVPR 2017)
SWAP = torch.from_numpy(masks.SWAP[: len(masks.CLASSES)].astype(np.int64))


class Parse:
    """Picture in, classes of its pixels out."""

    name = 'parse'
    metric = Metric('miou', 'mIoU', '%', 2.0)
    networks = models.PARSERS
    losses = losses.PARSE
    max_processes: int | None = None
    prose = ParserProse()
    has_report = True

    def complete(self, config: Config) -> Config:
        """Nothing follows from other options."""
        if config.data.landmarks:
            raise RunError(
                f'--landmarks {config.data.landmarks} is for --preset landmarks with --data, a '
                'folder or list of the '
                'faces that it names'
            )
        return config

    def check(self, config: Config) -> None:
        """No options of restorers."""
        masked.check(config, self.networks[config.network.network])

    load = staticmethod(masked.load)
    plan = staticmethod(masked.plan)
    step = staticmethod(masked.step)

    def feed(self, config: Config, images: Any, *, start: int, **where: Any) -> Any:
        """A pipe of pictures and masks."""
        return masked.feed(config, images, {'start': start, **where})

    def network(self, config: Config) -> nn.Module:
        """The parser."""
        return self.networks[config.network.network](**config.network.net)

    def build(self, config: Config, device: torch.device) -> Players:
        """The parser alone."""
        return masked.build(self.network(config), config, device, ParseCriterion(config.loss.loss))

    def validate(
        self,
        net: nn.Module,
        data: Sequence[Any],
        config: Config,
        device: torch.device,
        world: World | None = None,
        show: int = SHOWN,
    ) -> 'ParseScores':
        """Pixels by true and predicted class."""
        return validate(
            net,
            data,
            device,
            world,
            batch=config.optimization.batch,
            autocast=autocast(config.run.precision, device),
            threads=config.run.threads or 1,
            show=show,
        )

    def averages(self, config: Config) -> bool:
        """Always."""
        return True

    def finish(self, config: Config, net: nn.Module) -> list[str]:
        """Nothing but the weights."""
        return []

    def read_truth(self, path: Path) -> Tensor:
        """[H, W] uint8 ids."""
        return torch.from_numpy(masks.decode(read_bytes(path)))

    def check_infer(self, lpips: str | None) -> None:
        """Masks can be written, but LPIPS compares images."""
        if lpips:
            raise RunError(images.needs_truth(lpips))

    def infer(
        self, net: nn.Module, groups: Iterable[Group], folder: Path, how: Applied
    ) -> list[str]:
        """Write masks to `folder` and pictures under them to `folder`-colour; score them where
        there is a ground truth.
        """
        if images.is_picture(folder):
            raise RunError(
                f'--output {folder}: a folder is needed, for masks, and {folder.stem}-colour '
                'beside it'
            )
        confusion = Confusion(len(masks.CLASSES))
        # The pictures for people lie beside the masks for programs.
        colour = folder.with_name(folder.name + '-colour')
        count = 0
        for group in groups:
            pixels = torch.stack([image for _, image, _ in group]).to(how.device)
            with torch.no_grad(), how.autocast():
                predicted = parse(net, pixels, how.tta, how.size).cpu()
            for (name, image, truth), ids in zip(group, predicted, strict=True):
                storage.write(folder / f'{name}.png', masks.png(ids.numpy()))
                storage.write(colour / f'{name}.png', images.png(overlay(image, ids)))
                count += 1
                if truth is not None:
                    _check_size(name, ids, truth)
                    confusion.update(ids, truth)
        lines = [
            f'{storage.counted(count, "mask")} written to {storage.shown(folder)}, '
            f'pictures to {storage.shown(colour)}'
        ]
        if confusion.counts.any():
            s = confusion.compute()
            lines.append(
                f'mIoU: {s.miou:.4f} %, mean F1: {s.f1:.4f} %, pixel accuracy: {s.accuracy:.4f} %'
            )
        return lines


def _check_size(name: str, ids: Tensor, truth: Tensor) -> None:
    if truth.shape != ids.shape:
        raise RunError(
            f'{name}: the mask is {tuple(ids.shape)}, the ground truth {tuple(truth.shape)} '
            '(height, width)'
        )


class ParseCriterion:
    """What a parser is trained on. loss: a name of losses.PARSE"""

    def __init__(self, loss: str) -> None:
        self.loss = loss

    def net(
        self,
        output: Any,
        batch: Any,
        discriminator: nn.Module | None,
        nimg: int,
        progress: float,
    ) -> Losses:
        """{name: weighted scalar} of logits [B, C, H, W], or of a tuple of them, behind the first
        the auxiliary ones [B, C, H / 4, W / 4].
        """
        # Auxiliary heads, only there in training, are judged at a quarter of the size: cheaper, and
        # enough for what they teach.
        first, *auxiliary = output if isinstance(output, tuple) else (output,)
        terms = self._losses(first, batch.target, LOVASZ_EVERY)
        for logits in auxiliary:
            for name, value in self._losses(logits, batch.target[:, 2::4, 2::4]).items():
                terms[name] = terms[name] + AUX * value
        return terms

    def discriminator(self, forward: Any, output: Any, batch: Any) -> tuple[Losses, Tensor]:
        """There is none."""
        raise NotImplementedError

    def _losses(self, logits: Tensor, target: Tensor, every: int = 1) -> Losses:
        # Cross entropy is always there; Lovász and Dice join where they have a weight.
        weights = losses.PARSE[self.loss]
        if weights is None:
            return {'ohem': segmentation.ohem(logits, target)}
        ce, lovasz, dice = weights
        terms = {'ce': ce * segmentation.cross_entropy(logits, target, segmentation.MILD)}
        if lovasz:
            terms['lovasz'] = lovasz * segmentation.lovasz_softmax(logits, target, every)
        if dice:
            terms['dice'] = dice * segmentation.dice(logits, target)
        return terms


class ParseScores(NamedTuple):
    """Pixels of every image of a validation set by their classes."""

    counts: np.ndarray  # [N, C, C] int64 pixels of each image by (true, predicted) class
    shown: list[
        tuple[Tensor, ...]
    ]  # (input, ours, truth) uint8 [3, H, W] of the first few, masks in colour over the picture

    def value(self, part: slice = slice(None)) -> float:
        """mIoU over a part of the images."""
        return self.over(part).miou

    def over(self, part: slice = slice(None)) -> SegmentationScores:
        """All scores of a part of the images."""
        confusion = Confusion(self.counts.shape[1])
        confusion.counts += torch.from_numpy(self.counts[part].sum(0))
        return confusion.compute()

    def row(self) -> dict[str, float]:
        """{name: percent} of everything that is known."""
        s = self.over()
        known = {f'iou/{name}': v for name, v in zip(masks.CLASSES, s.iou, strict=True) if v == v}
        return {'miou': s.miou, 'f1': s.f1, 'accuracy': s.accuracy} | known

    def pictures(self) -> tuple[Any, Any, tuple[str, ...]]:
        """(rows, figures, names) of pictures.strip."""
        return self.shown, None, ('input', 'ours', 'truth')

    def sentence(self) -> str:
        """The scores in words, class by class."""
        s = self.over()
        classes = ', '.join(f'{name} {v:.1f}' for name, v in zip(masks.CLASSES, s.iou, strict=True))
        return (
            f'mIoU {s.miou:.2f} %, mean F1 {s.f1:.2f} %, pixel accuracy {s.accuracy:.2f} %, '
            f'{len(self.counts)} images\nIoU: {classes}'
        )


def parse(net: nn.Module, image: Tensor, tta: bool = False, size: int | None = None) -> Tensor:
    """image [B, 3, H, W] uint8 on the device -> [B, H, W] uint8 ids.

    tta: mean probability over the picture and its mirror image, whose left and right are swapped
        back
    size: of the faces that the network was trained on: it is shown others so large, by their
        shorter side, and what it says is brought to their own size; None: as they are
    """
    sides = image.shape[2:]
    x = image.float() / 255
    if size and min(sides) != size:
        shown = [max(round(side * size / min(sides)), 1) for side in sides]
        x = F.interpolate(x, shown, mode='bilinear', antialias=True).clamp(0, 1)
    x = x.contiguous(memory_format=torch.channels_last)

    # Enlarged before the softmax, edges stay sharper than between labels.
    def probabilities(x: Tensor) -> Tensor:
        logits = net(x).float()
        if logits.shape[2:] != sides:
            logits = F.interpolate(logits, sides, mode='bilinear')
        return logits.softmax(1)

    p = probabilities(x)
    if tta:
        # In the mirror a left eye is a right one: the channels are swapped with the pixels.
        mirrored = probabilities(x.flip(3)).flip(3)
        p = p + mirrored[:, SWAP.to(p.device)]
    return p.argmax(1).to(torch.uint8)


def overlay(image: Tensor, ids: Tensor) -> Tensor:
    """image [3, H, W] uint8, ids [H, W] -> [3, H, W] uint8: the standard colours over the picture,
    half and half; background stays.
    """
    colours = torch.from_numpy(masks.COLOURS)[ids.long()].permute(2, 0, 1)
    return torch.where(ids > 0, ((image.int() + colours) // 2).to(torch.uint8), image)


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
    tta: bool = False,
) -> ParseScores:
    """Score `net` on a validation set: items (name, image uint8 [3, H, W], ids uint8 [H, W]); else
    as restore.validate.
    """
    # A confusion matrix per image: halves of the set can be judged without another pass.
    counts: list[Tensor] = []
    shown: list[tuple[Tensor, ...]] = []
    training = net.training
    net.eval()
    for image, truth in batches(data, device, world, batch, threads):
        with autocast():
            ours = parse(net, image, tta)
        for predicted, wanted in zip(ours, truth, strict=True):
            confusion = Confusion(len(masks.CLASSES), device)
            confusion.update(predicted, wanted)
            counts.append(confusion.counts)
        for i in range(min(len(image), show - len(shown))):
            x, a, b = (t[i].cpu() for t in (image, ours, truth))
            shown.append((x, overlay(x, a), overlay(x, b)))
    net.train(training)
    mine = torch.stack(counts).cpu().numpy().tolist() if counts else []
    return ParseScores(np.array(collected(mine, len(data), world), np.int64), shown)
