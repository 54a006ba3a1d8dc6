"""How others feed a network and train it: torch's DataLoader, WebDataset, a plain loop; for
side_by_side.py.
"""

import itertools
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

import degrade
import tasks
from benchmarks import opencv_chain
from config import presets
from degrade import Recipe
from degrade.draw import Draw
from degrade.op import ChainParams
from tasks.players import autocast

# A function that goes through all images once, and what it yields on the way.
Epoch = Callable[[], Iterator[Any]]
AHEAD = 2  # batches that a worker prepares, as DataLoader does by default


class Files(Dataset[Tensor]):
    """PNG files read by Pillow, as torchvision's folders of images are, and mirrored at random:
    [3, H, W] uint8.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        with Image.open(self.paths[i]) as file:
            pixels = np.asarray(file.convert('RGB'))
        return _mirrored(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))


class Degraded(Dataset[tuple[Tensor, Tensor]]):
    """PNG files and their degraded forms by OpenCV: [3, h, w] and [3, H, W] float32 in [0, 1]."""

    def __init__(self, paths: Sequence[str], recipe: Recipe, size: int) -> None:
        self.paths, self.recipe = paths, recipe
        draw = Draw(0, np.arange(len(paths)), tied=recipe.tied, batch=8)
        self.params: ChainParams = degrade.sample(recipe, draw, (size, size))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        bgr = cv2.imread(self.paths[i])
        assert bgr is not None
        image = np.ascontiguousarray(bgr[..., ::-1])
        # The image is degraded as float32 and goes to the network as it is.
        rng, params = np.random.default_rng(i), degrade.take(self.params, i)
        both = opencv_chain.degrade(image, self.recipe, params, rng), image.astype(np.float32) / 255
        low, high = (torch.from_numpy(x.transpose(2, 0, 1).copy()) for x in both)
        return low, high


def _mirrored(x: Tensor) -> Tensor:
    """[3, H, W], mirrored or not."""
    return x.flip(-1) if torch.rand(()) < 0.5 else x


def start_worker(_: int) -> None:
    """Leave a worker one thread, as everybody's page of advice says."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


@contextmanager
def data_loader(data: Dataset[Any], batch: int, workers: int, pin: bool) -> Iterator[Epoch]:
    """Epochs of torch's DataLoader, whose workers stay."""
    # Fresh processes: a fork of one with threads or a GPU may hang.
    loader: DataLoader[Any] = DataLoader(
        data,
        batch,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=pin,
        drop_last=True,
        multiprocessing_context='spawn',
        worker_init_fn=start_worker,
    )
    yield lambda: iter(loader)


@contextmanager
def web_dataset(
    paths: Sequence[str], folder: Path, batch: int, workers: int, pin: bool
) -> Iterator[Epoch]:
    """Epochs of WebDataset over as many shards as there are workers. Raises ImportError."""
    import webdataset

    # A shard for each worker, or some would have nothing to read.
    workers = min(workers, len(paths))
    shards = [str(folder / f'{i:04}.tar') for i in range(workers)]
    for i, name in enumerate(shards):
        with tarfile.open(name, 'w') as tar:
            for number, path in enumerate(paths[i::workers]):
                tar.add(path, arcname=f'{number:06}.png')
    data = webdataset.WebDataset(shards, shardshuffle=False).decode('torchrgb8').to_tuple('png')
    batches = data.map_tuple(_mirrored).batched(batch)
    loader = webdataset.WebLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=pin,
        multiprocessing_context='spawn',
        worker_init_fn=start_worker,
    )
    yield lambda: (images for (images,) in loader)


def endless(epoch: Epoch) -> Iterator[Any]:
    """One epoch after the other."""
    return itertools.chain.from_iterable(epoch() for _ in itertools.count())


# ---- a plain training loop ----


def plain_step(
    preset: str, device: torch.device, precision: str, **changed: Any
) -> Callable[[Tensor, Tensor], None]:
    """step(low, high) of the network of a preset as it is usually written: NCHW, AdamW with the
    preset's numbers, L1, a clipped gradient, and torch's average of the weights.
    """
    torch.manual_seed(0)
    config = presets.config(preset, precision=precision, **changed)
    net = tasks.network(config).to(device)
    how = config.optimization
    first, second = how.betas or (0.9, 0.99)
    optimizer = torch.optim.AdamW(
        net.parameters(), how.lr, (first, second), weight_decay=how.weight_decay
    )
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    context = autocast(precision, device)

    # As in every tutorial: forward, backward, clip, step, average.
    def step(low: Tensor, high: Tensor) -> None:
        low, high = (x.to(device, non_blocking=True) for x in (low, high))
        with context():
            loss = F.l1_loss(net(low).float(), high)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(net)

    return step
