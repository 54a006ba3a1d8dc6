"""Validation pairs: LQ and GT read from two folders or above each other from one picture, or HQ images degraded the same way every time."""

from pathlib import Path

import numpy as np
import torch

import degrade
from degrade.draw import Draw
from errors import BadFile, DataError
from faces.masks.reader import MaskReader
from sources.files import decode, read_bytes
from sources.reader import Reader, StrictReader

from .batch import Plan
from .parse_plan import degraded

SEED = 2**62 + 1  # apart from every training seed: the same validation set whatever --seed is


class Pairs:
    """[(name, LQ [3, h, w], GT [3, H, W])] uint8 RGB, from manifest.scan_pairs."""

    def __init__(self, pairs):
        self._pairs = pairs

    def __len__(self):
        return len(self._pairs)

    def name(self, i):
        return _stem(self._pairs[i].lq.path)

    def __getitem__(self, i):
        return self.name(i), *(_read(image) for image in self._pairs[i])


class Stacked:
    """The same, of pairs of one size, from manifest.scan_stacked."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def name(self, i):
        return _stem(self._images[i].path)

    def __getitem__(self, i):
        return self.name(i), *_read(self._images[i]).chunk(2, 1)


class Degraded:
    """The same of HQ images and a recipe: image i has the degradation of sample i under a seed of its own, so it never changes."""

    def __init__(self, images, recipe, *, size=512, lq_from_usm=True):
        self._reader = Reader(images, size, say=lambda _: None)
        self._plan = Plan(
            len(images), recipe, batch=1, size=size, seed=SEED, flip=0.0, lq_from_usm=lq_from_usm
        )

    def __len__(self):
        return len(self._reader)

    def name(self, i):
        return _stem(self._reader.images[i].path)

    def __getitem__(self, i):
        image, _ = self._reader.image(i)
        x = torch.from_numpy(image).permute(2, 0, 1)[None]
        batch = self._plan.finish(x, self._plan(np.array([i])))
        return self.name(i), (batch.input[0] * 255).round().to(torch.uint8), x[0]


class Parsed:
    """[(name, picture [3, size, size], ids [size, size])] uint8 of masks.pairs.Pair; with a recipe the picture is degraded as `Degraded` does it, and enlarged again."""

    def __init__(self, pairs, recipe=None, *, size=512):
        self._reader, self._recipe, self._sides = (
            MaskReader(pairs, size, say=lambda _: None),
            recipe,
            (size, size),
        )

    def __len__(self):
        return len(self._reader)

    def name(self, i):
        return _stem(self._reader.images[i].path)

    def __getitem__(self, i):
        pixels, _ = self._reader.image(i)
        pixels = torch.from_numpy(pixels).permute(2, 0, 1)
        return self.name(i), self._seen(pixels[:3], i), pixels[3]

    def _seen(self, image, i):
        """The picture of item i through the recipe."""
        if not self._recipe:
            return image
        params = degrade.sample(self._recipe, Draw(SEED, np.array([i])), self._sides)
        return (255 * degraded(image[None], self._recipe, params)[0]).round().to(torch.uint8)


class Pointed(Parsed):
    """[(name, picture [3, size, size] uint8, [K, 3] float32 x, y, 1)] of manifest.Image and their points [N, K, 2]; everything else as of Parsed."""

    def __init__(self, images, points, recipe=None, *, size=512):
        super().__init__((), recipe, size=size)
        self._reader, self._points = StrictReader(images, size, say=lambda _: None), points

    def __getitem__(self, i):
        image, _ = self._reader.image(i)
        target = np.concatenate([self._points[i], np.ones((len(self._points[i]), 1))], 1)
        return (
            self.name(i),
            self._seen(torch.from_numpy(image).permute(2, 0, 1), i),
            torch.from_numpy(target.astype(np.float32)),
        )


def _stem(path):
    return Path(path).stem


def _read(image):
    try:
        return torch.from_numpy(decode(read_bytes(*image.where))).permute(2, 0, 1)
    except (OSError, BadFile) as e:
        raise DataError(f'{image.path} cannot be read any more: {e}') from e
