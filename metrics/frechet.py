"""Fréchet distance of two sets of pictures by the features of a network.

Of Inception's pool features it is FID (Heusel et al., NeurIPS 2017, sec. "Fréchet Inception
Distance"); of two Gaussians in general, Dowson and Landau (Journal of Multivariate Analysis 1982).
No network comes with the trainer: figures of different networks, or of the same one behind another
resize, are not comparable.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import storage
from errors import BadFile, MetricError
from storage import shown
from storage.tensors import first_line


class Moments:
    """Mean and covariance of feature vectors, added up in float64 batch by batch.

    What is kept is centred (Chan, Golub and LeVeque, COMPSTAT 1982): no digits are lost where the
    mean is large against the spread.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)  # [D]
        # Sum of the outer products of what differs from the mean, [D, D].
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add vectors [n, D] of any float type and device.

        Raises ValueError for another shape, and MetricError for a number that is not finite.
        """
        features = features.detach().to('cpu', torch.float64)
        if features.ndim != 2:
            raise ValueError(f'moments of {tuple(features.shape)}: vectors [n, D] are needed')
        if not features.isfinite().all():
            raise MetricError(
                'a feature is not a finite number: the network does not fit these pictures'
            )
        other = Moments()
        other.count = len(features)
        if other.count:
            other.mean = features.mean(0)
            centred = features - other.mean
            other._scatter = centred.T @ centred
            self.merge(other)

    def merge(self, other: 'Moments') -> None:
        """Add what another one, of another process for instance, has seen.

        Raises ValueError if its vectors are of another length.
        """
        if not other.count:
            return
        if not self.count:
            self.count = other.count
            self.mean = other.mean.clone()
            self._scatter = other._scatter.clone()
            return
        if len(self.mean) != len(other.mean):
            raise ValueError(f'moments of {len(self.mean)} and of {len(other.mean)} dimensions')
        both = self.count + other.count
        apart = other.mean - self.mean
        self.mean = self.mean + apart * (other.count / both)
        between = torch.outer(apart, apart) * (self.count * other.count / both)
        self._scatter = self._scatter + other._scatter + between
        self.count = both

    @property
    def covariance(self) -> Tensor:
        """[D, D] float64, over n - 1. Raises ValueError for fewer than two vectors."""
        if self.count < 2:
            raise ValueError(f'the covariance of {self.count} vectors: two are needed')
        return self._scatter / (self.count - 1)


def distance(a: Moments, b: Moments) -> float:
    """Return |mean difference|^2 + tr(A + B - 2 (A B)^(1/2)), 0 or more; 0 for equal moments.

    It is the square of a distance, as FID is. Raises MetricError for fewer than two vectors, and
    ValueError for vectors of different lengths.
    """
    if min(a.count, b.count) < 2:
        raise MetricError(
            f'a Fréchet distance of {a.count:,} and {b.count:,} images: two or more are needed'
        )
    if len(a.mean) != len(b.mean):
        raise ValueError(f'moments of {len(a.mean)} and of {len(b.mean)} dimensions')
    # With A = F F' and B = G G', the trace of the root of A B is the sum of the singular values of
    # F' G. Roots of eigenvalues of the product would turn rounding errors of 1e-16 into 1e-8 each.
    common = torch.linalg.svdvals(_factor(a.covariance).T @ _factor(b.covariance)).sum()
    traces = a.covariance.trace() + b.covariance.trace()
    squared = (a.mean - b.mean).square().sum() + traces - 2 * common
    return max(squared.item(), 0.0)


def _factor(covariance: Tensor) -> Tensor:
    """F [D, rank] with F F' = the covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    # What is not above the rounding error of the largest one is 0, or less than 0.
    least = values[-1] * len(values) * torch.finfo(values.dtype).eps
    kept = values > least.clamp_min(0)
    return vectors[:, kept] * values[kept].sqrt()


def warning(moments: Moments) -> str | None:
    """Say that there are too few images for as many dimensions; None where there are enough.

    The distance of a sample is too large on average, the more so the fewer images there are (Chong
    and Forsyth, CVPR 2020): only sets of one size may be compared.
    """
    dimensions = len(moments.mean)
    if moments.count > dimensions:
        return None
    return (
        f'the Fréchet distance of {moments.count:,} images in {dimensions:,} dimensions is biased '
        'upwards: compare it with figures of as many images only'
    )


# ---- features ----


def extractor(path: str | Path, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Return a function (pictures [B, 3, H, W] uint8 on the device) -> [B, D] float64 features.

    path: a TorchScript file. It takes [B, 3, H, W] uint8 RGB, 0 to 255, resizes and scales them
        itself, and returns [B, D] or [B, D, 1, 1]. If it has an argument `return_features`, as the
        Inception of the StyleGAN family has, that is set. Such a file is a program: run none that
        you do not trust

    Raises MetricError for another file; the function does for a network that does not take these
    pictures or returns something else.
    """
    named = f'the feature network {shown(path)}'
    try:
        with storage.open_regular(path) as file, warnings.catch_warnings():
            # Newer torch calls the format old; the Inception that FID is computed with has it.
            warnings.simplefilter('ignore', DeprecationWarning)
            net = torch.jit.load(file, map_location=device).eval()
    except (OSError, BadFile) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise MetricError(f'{named} cannot be read ({reason})') from error
    except RuntimeError as error:
        raise MetricError(
            f'{named} is no TorchScript file ({first_line(error)}): save the network with '
            'torch.jit.script or torch.jit.trace'
        ) from error
    names = [argument.name for argument in net.forward.schema.arguments]
    more = {'return_features': True} if 'return_features' in names else {}

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        try:
            found = net(images, **more)
        except RuntimeError as error:
            raise MetricError(
                f'{named} fails on uint8 pictures {list(images.shape)} ({_last_line(error)}): it '
                'must take them as they are, and scale them itself'
            ) from error
        return _checked(found, len(images), named)

    return features


def _checked(found: object, count: int, named: str) -> Tensor:
    if isinstance(found, Tensor) and found.ndim == 4 and found.shape[2:] == (1, 1):
        found = found.flatten(1)
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != count:
        what = list(found.shape) if isinstance(found, Tensor) else f'a {type(found).__name__}'
        raise MetricError(f'{named} returns {what}: [{count}, D], a vector a picture, was expected')
    return found.double()


def _last_line(error: RuntimeError) -> str:
    """The reason in an error of TorchScript, which follows a trace of the program."""
    lines = str(error).strip().splitlines() or ['']
    return storage.printable(lines[-1], 160)
