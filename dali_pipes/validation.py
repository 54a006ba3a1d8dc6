"""Validation sets: pairs from files, or images degraded the same way every time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import degrade
from degrade.draw import Draw
from errors import BadFile, DataError
from faces.masks.pairs import Pair as MaskPair
from faces.masks.reader import MaskReader
from sources.files import decode, read_bytes
from sources.manifest import Image, Pair
from sources.manifest import Stacked as StackedImage
from sources.reader import Reader, StrictReader

from .parse_plan import degraded
from .plan import Plan

SEED = 2**62 + 1  # unlike every training seed: the same validation set whatever --seed is

Item = tuple[str, torch.Tensor, torch.Tensor]


class ValidationSet(Protocol):
    """Inputs and ground truths by number, the same each time."""

    @property
    def images(self) -> Sequence[Any]:
        """Return the images or pairs that they are made of."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def name(self, i: int) -> str:
        """Return the name of an item: its file's, without suffix."""
        ...

    def __getitem__(self, i: int) -> Item:
        """Return (name, input, ground truth)."""
        ...


# ---- restoration: LQ [3, h, w] and GT [3, H, W], uint8 RGB ----


class Pairs:
    """The ValidationSet of pairs from two folders, as lq_gt.scan_pairs finds them."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Nothing is read yet."""
        self.images = pairs

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def name(self, i: int) -> str:
        """Return the name of the LQ."""
        return _stem(self.images[i].lq)

    def __getitem__(self, i: int) -> Item:
        """Read a pair. Raises DataError."""
        pair = self.images[i]
        return self.name(i), _read(pair.lq), _read(pair.gt)


class Stacked:
    """The ValidationSet of pairs stacked in one picture, as lq_gt.scan_stacked finds them."""

    def __init__(self, images: Sequence[StackedImage]) -> None:
        """Nothing is read yet."""
        self.images = images

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def name(self, i: int) -> str:
        """Return the name of the picture."""
        return _stem(self.images[i])

    def __getitem__(self, i: int) -> Item:
        """Read a picture and cut it in two. Raises DataError."""
        lq, gt = _read(self.images[i]).chunk(2, 1)
        return self.name(i), lq, gt


class Degraded:
    """The ValidationSet of HQ images and a recipe.

    Image i has the degradation of sample i under a seed of its own, so that it never changes.
    size: side of the GT in pixels
    lq_from_usm: degrade the sharpened image where the recipe says so
    """

    def __init__(
        self,
        images: Sequence[Image],
        recipe: degrade.Recipe,
        *,
        size: int = 512,
        lq_from_usm: bool = True,
    ) -> None:
        """Nothing is read yet."""
        self.images = images
        self._reader = Reader(images, size, say=lambda _: None)
        self._plan = Plan(
            len(images), recipe, batch=1, size=size, seed=SEED, flip=0.0, lq_from_usm=lq_from_usm
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._reader)

    def name(self, i: int) -> str:
        """Return the name of the image."""
        return _stem(self._reader.images[i])

    def __getitem__(self, i: int) -> Item:
        """Read an image and degrade it. Raises DataError where no image is left."""
        # A batch of one, whose sample number is i: the plan gives it a degradation, while its image
        # is not taken from the order but image i.
        image, _ = self._reader.image(i)
        x = torch.from_numpy(image).permute(2, 0, 1)[None]
        batch = self._plan.finish(x, self._plan(np.array([i])))
        return self.name(i), (batch.input[0] * 255).round().to(torch.uint8), x[0]


# ---- parsing and landmarks ----


class Parsed:
    """The ValidationSet of pictures [3, size, size] and class ids [size, size], both uint8.

    With a recipe the picture is degraded as Degraded does it, and enlarged again.
    """

    def __init__(
        self, pairs: Sequence[MaskPair], recipe: degrade.Recipe | None = None, *, size: int = 512
    ) -> None:
        """Nothing is read yet."""
        self.images: Sequence[Any] = pairs
        self._reader: Reader = MaskReader(pairs, size, say=lambda _: None)
        self._recipe = recipe
        self._sides = (size, size)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._reader)

    def name(self, i: int) -> str:
        """Return the name of the picture."""
        return _stem(self._reader.images[i])

    def __getitem__(self, i: int) -> Item:
        """Read a pair. Raises DataError where none is left."""
        # Decoded images hold red, green, blue and the class id.
        decoded, _ = self._reader.image(i)
        x = torch.from_numpy(decoded).permute(2, 0, 1)
        return self.name(i), self._observed(x[:3], i), x[3]

    def _observed(self, image: torch.Tensor, i: int) -> torch.Tensor:
        """Return the picture of item i as the network observes it: through the recipe."""
        if not self._recipe:
            return image
        params = degrade.sample(self._recipe, Draw(SEED, np.array([i])), self._sides)
        return (255 * degraded(image[None], self._recipe, params)[0]).round().to(torch.uint8)


class Pointed(Parsed):
    """The ValidationSet of pictures [3, size, size] uint8 and landmarks [K, 3] float32 (x, y, 1).

    points: [N, K, 2] of the images, in pixels of `size`; everything else as in Parsed
    """

    def __init__(
        self,
        images: Sequence[Image],
        points: np.ndarray,
        recipe: degrade.Recipe | None = None,
        *,
        size: int = 512,
    ) -> None:
        """Nothing is read yet."""
        super().__init__((), recipe, size=size)
        self.images = images
        self._reader = StrictReader(images, size, say=lambda _: None)
        self._points = points

    def __getitem__(self, i: int) -> Item:
        """Read a picture. Raises DataError if it is bad."""
        decoded, _ = self._reader.image(i)
        image = torch.from_numpy(decoded).permute(2, 0, 1)

        # Nothing is moved here, so that every point counts as inside the picture.
        points = self._points[i]
        target = np.concatenate([points, np.ones((len(points), 1))], 1)
        return self.name(i), self._observed(image, i), torch.from_numpy(target.astype(np.float32))


# ---- files ----


def _stem(image: Image | Pair | MaskPair) -> str:
    return Path(image.path).stem


def _read(image: Image) -> torch.Tensor:
    """[3, H, W] uint8 RGB of a file that was good when it was scanned. Raises DataError."""
    try:
        return torch.from_numpy(decode(read_bytes(*image.where))).permute(2, 0, 1)
    except (OSError, BadFile) as e:
        raise DataError(f'{image.path} cannot be read any more: {e}') from e
