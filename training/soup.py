"""The best averages of a run, and the greedy model soup made of them (Wortsman et al., ICML 2022).

run_dir/best/000123456_27.1234.safetensors    an average after 123,456 images, and its score
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

import storage
from errors import BadFile
from storage import tensors

Weights = dict[str, Tensor]


class Candidate(NamedTuple):
    """An average that is kept; candidates sort by their score."""

    score: float  # higher is better
    nimg: int  # images after which it was taken
    path: Path


class Soup(NamedTuple):
    """The mean of some candidates."""

    weights: Weights
    parts: list[int]  # nimg of its candidates, the best first
    score: float


def save_candidate(
    run_dir: str | os.PathLike[str], nimg: int, weights: Weights, score: float, limit: int
) -> None:
    """Save a state_dict in run_dir/best if its score is among the `limit` highest so far."""
    folder = Path(run_dir, 'best')
    # The same moment may be there already: the run was killed after it and has come here again.
    for duplicate in folder.glob(f'{nimg:09d}_*'):
        if not duplicate.is_dir():  # which is none of ours
            duplicate.unlink()

    ranked = sorted([*((c.score, c.nimg) for c in candidates(run_dir)), (score, nimg)])
    if (score, nimg) not in ranked[-limit:]:
        return
    # Saved before another is deleted: a kill in between leaves one too many until the next time.
    data = safetensors.torch.save({name: w.contiguous() for name, w in weights.items()})
    storage.write(folder / f'{nimg:09d}_{score:.4f}.safetensors', data, sync=True)
    for candidate in sorted(candidates(run_dir))[:-limit]:
        candidate.path.unlink()


def between(a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float) -> Weights:
    """(1 - alpha) a + alpha b in float32 (ESRGAN, 2018, sec. 3.4); exactly a at 0 and b at 1."""
    return {k: torch.lerp(a[k].float(), b[k].float(), alpha) for k in a}


def candidates(run_dir: str | os.PathLike[str]) -> list[Candidate]:
    """Return the averages that are kept, in no particular order."""
    kept = []
    # A score may be infinite, where a picture is restored exactly; other files are not ours.
    for path in Path(run_dir, 'best').glob('*.safetensors'):
        match = re.fullmatch(r'(\d+)_(-?\d+(?:\.\d+)?|inf)\.safetensors', path.name)
        if match and not path.is_dir():
            kept.append(Candidate(float(match[2]), int(match[1]), path))
    return kept


def forget_after(run_dir: str | os.PathLike[str], nimg: int) -> None:
    """Delete the averages that a run resuming at `nimg` will make again."""
    for candidate in candidates(run_dir):
        if candidate.nimg > nimg:
            candidate.path.unlink()


def greedy_soup(
    run_dir: str | os.PathLike[str], like: Weights, score: Callable[[Weights], float]
) -> Soup | None:
    """Average the best candidate with each next one that raises the score of the mean.

    like: state_dict of the network that they are of
    Returns None if there is no candidate. One that is damaged is left out, of which it warns.
    """
    soup: Soup | None = None
    for candidate in sorted(candidates(run_dir), reverse=True):
        weights = _read(candidate.path, like)
        if weights is None:
            continue
        parts = [candidate.nimg]
        if soup is not None:
            # Every part weighs the same: the mean of n, moved by 1 / (n + 1) towards the next one.
            weights = _mixed(soup.weights, weights, 1 / (len(soup.parts) + 1))
            parts = [*soup.parts, *parts]
        value = score(weights)
        if soup is None or value > soup.score:
            soup = Soup(weights, parts, value)
    return soup


def _read(path: Path, like: Weights) -> Weights | None:
    """The weights in a file of best/, None if it is damaged or of another network."""
    try:
        weights = tensors.read(path)
        if {k: w.shape for k, w in weights.items()} != {k: w.shape for k, w in like.items()}:
            raise BadFile('of another network')
    except (OSError, BadFile) as error:
        warnings.warn(f'{storage.shown(path)}: {error}; it is left out', stacklevel=3)
        return None
    return weights


def _mixed(weights: Weights, addition: Weights, share: float) -> Weights:
    """Blend two sets of weights in float32; `share` is that of `addition`."""
    return {k: torch.lerp(w.float(), addition[k].float(), share) for k, w in weights.items()}
