"""Learned measures by the package pyiqa, each by its name: MUSIQ, CLIPIQA, MANIQA, TOPIQ, ...

The package is an extra (pip install -e .[pyiqa]); its licence, PolyForm Noncommercial, forbids
commercial use. It fetches weights when a measure is made. Here they come from a folder that the
user names, and nothing is fetched unless the user says so. It also unpickles them: a folder of
weights that you do not trust can run anything.
"""

import contextlib
import difflib
import io
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from errors import MetricError
from storage import printable, shown, some
from storage.tensors import first_line

INSTALL = 'pip install -e .[pyiqa]'
DOWNLOAD = '--pyiqa-download'
# Of two sets of pictures, or of a picture and a text: none has a figure of one picture.
NOT_OF_A_PICTURE = ('fid', 'sfid', 'fid_dinov2', 'inception_score', 'clipscore')
SEED = 0  # of random crops, which some measures take
INCEPTION_SIDE = 299  # pixels that Inception takes


class _Created(Protocol):
    """What pyiqa.create_metric returns."""

    lower_better: bool
    metric_mode: str
    net: Any

    def __call__(self, target: Tensor, ref: Tensor | None = None) -> Any: ...


class PyiqaMetric(NamedTuple):
    """A measure of pyiqa's."""

    name: str
    higher: bool  # whether higher is better
    needs_truth: bool
    created: _Created

    @torch.no_grad()
    def __call__(self, output: Tensor, truth: Tensor | None = None) -> Tensor:
        """[B, 3, H, W] uint8 on the measure's device -> [B] float64.

        Each picture by itself, with random numbers of its own: its figure does not depend on the
        others. Raises MetricError where the package fails, ValueError without a truth if one is
        needed.
        """
        if self.needs_truth and truth is None:
            raise ValueError(f'{self.name} compares with a truth')
        figures = []
        for i in range(len(output)):
            pair = [output[i : i + 1]]
            if truth is not None and self.needs_truth:
                pair.append(truth[i : i + 1])
            with _seeded():
                figures.append(self._figure([x.float() / 255 for x in pair]))
        return torch.tensor(figures, dtype=torch.float64, device=output.device)

    def _figure(self, pair: list[Tensor]) -> float:
        try:
            found = self.created(*pair)
            return float(found)
        except Exception as error:
            # Whatever a hundred networks of others raise: of sizes, of memory, of devices, ...
            size = 'x'.join(map(str, pair[0].shape[:1:-1]))
            raise MetricError(
                f"pyiqa's {self.name} fails on a picture of {size} "
                f'({type(error).__name__}: {first_line(error)})'
            ) from error


def named(
    names: Sequence[str], folder: Path, device: torch.device | str, download: bool = False
) -> dict[str, PyiqaMetric]:
    """Make the measures of these names.

    folder: weights. pyiqa's own lie in FOLDER/pyiqa, torchvision's in FOLDER/checkpoints, CLIP's in
        FOLDER/clip, those of Hugging Face in FOLDER/huggingface: torch's hub folder, as pyiqa fills
        it, will do but for the last
    download: fetch what is missing; otherwise the network is not asked

    Raises MetricError without the package, for a name that it does not have, and for weights that
    are missing or cannot be read.
    """
    package = _package(folder, download)
    known = package.list_models()
    for name in names:
        if name in NOT_OF_A_PICTURE:
            raise MetricError(f"pyiqa's {name} has no figure of one picture: leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, 5, 0.4)
            hint = f'near it are {", ".join(near)}' if near else f'there are {some(known, 12)}'
            raise MetricError(f'pyiqa has no measure {printable(name, 60)}: {hint}')
    made = {}
    for name in names:
        created = _created(package, name, folder, device, download)
        needs_truth = created.metric_mode == 'FR'
        made[name] = PyiqaMetric(name, not created.lower_better, needs_truth, created)
    return made


def inception(
    folder: Path, device: torch.device | str, download: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return a function ([B, 3, H, W] uint8 on the device) -> [B, 2048] float64: FID's features.

    Pool features of pyiqa's Inception behind an antialiased resize in float (Parmar, Zhang and Zhu,
    On Aliased Resizing and Surprising Subtleties in GAN Evaluation, CVPR 2022): of "clean" FID, not
    of the older one, whose figures differ; equal to those of pyiqa 0.1.16 for files. Arguments and
    errors as of `named`.
    """
    created = _created(_package(folder, download), 'fid', folder, device, download)
    net = created.net.model

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        pixels = torch.stack([_resized(image) for image in images.cpu()]).to(images.device)
        # Neither resized nor scaled again.
        pooled: Tensor = net((pixels - 128) / 128, False, False)[0]
        return pooled.flatten(1).double()

    return features


def _resized(image: Tensor) -> Tensor:
    """[3, H, W] uint8 -> [3, 299, 299] float32, 0 to 255: Pillow's bicubic filter in float."""
    side = INCEPTION_SIDE, INCEPTION_SIDE
    planes = [
        np.asarray(Image.fromarray(plane).resize(side, Image.Resampling.BICUBIC))
        for plane in image.float().numpy()
    ]
    return torch.from_numpy(np.stack(planes)).clamp(0, 255)


# ---- the package, and what it fetches ----


def _package(folder: Path, download: bool) -> ModuleType:
    """Import pyiqa so that it, and what it imports, keep their weights in the folder."""
    folder = folder.absolute()
    torch.hub.set_dir(str(folder))
    # Read by Hugging Face's library when it is imported. Offline it says at once what is missing.
    os.environ['HF_HOME'] = str(folder / 'huggingface')
    os.environ['HF_HUB_OFFLINE'] = '0' if download else '1'
    try:
        import pyiqa
        from pyiqa.utils import download_util
    except (ImportError, RuntimeError) as error:
        # A torchvision built for another torch raises RuntimeError.
        raise MetricError(
            f"measures of pyiqa's need the package ({first_line(error)}): {INSTALL}"
        ) from error
    # Where it looked up the folder when it was imported.
    download_util.DEFAULT_CACHE_DIR = str(folder / 'pyiqa')
    return pyiqa


def _created(
    package: ModuleType, name: str, folder: Path, device: torch.device | str, download: bool
) -> _Created:
    said = io.StringIO()
    refused: list[str] = []
    network = contextlib.nullcontext() if download else _without_network(refused)
    try:
        # What it prints of files and addresses is kept for the message.
        with network, contextlib.redirect_stdout(said), warnings.catch_warnings():
            # Of torchvision, which it calls in an old way.
            warnings.simplefilter('ignore')
            created: _Created = package.create_metric(name, device=torch.device(device))
    except Exception as error:
        # A hundred networks of others, and damaged weights, raise errors of every kind.
        reason = f'{type(error).__name__}: {first_line(error)}'
        absent = bool(refused) or isinstance(error, OSError)
        raise MetricError(
            _missing(name, folder, said.getvalue(), reason)
            if absent and not download
            else f"pyiqa's {name} cannot be made with the weights in {shown(folder)} ({reason})"
            + (f'; for packages that it lacks: {INSTALL}' if _lacks(error) else '')
        ) from error
    return created


def _lacks(error: Exception) -> bool:
    # Where one is missing, pyiqa may leave a network out without a word: KeyError.
    return isinstance(error, (ImportError, KeyError))


def _missing(name: str, folder: Path, said: str, reason: str) -> str:
    return (
        f"the weights of pyiqa's {name} are not all in {shown(folder)}{_wanted(said)}: put them "
        f'there, or say {DOWNLOAD} to have pyiqa fetch them ({reason})'
    )


def _wanted(said: str) -> str:
    """Which file is missing, where pyiqa or torch said it."""
    found = re.search(r'Downloading: "(https?://[^"]{1,300})" to (\S+)', said)
    return f' ({found[1]}, as {shown(found[2])})' if found else ''


@contextlib.contextmanager
def _without_network(refused: list[str]) -> Iterator[None]:
    """Refuse whoever asks for an address, as every library does before it connects.

    refused: takes the names that were asked for
    """

    def refuse(host: object, *_: object, **__: object) -> None:
        refused.append(str(host))
        raise OSError(f'{printable(str(host), 80)} is not asked')

    with mock.patch.object(socket, 'getaddrinfo', refuse):
        yield


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """The same random numbers in torch and numpy; afterwards they go on as if nothing had been."""
    state = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            np.random.set_state(state)
