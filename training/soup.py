"""The best averages of a run, and the greedy model soup made of them (Wortsman et al., ICML 2022).

run_dir/best/000123456_27.1234.safetensors    an average after 123,456 images, and its score
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

import storage

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
        duplicate.unlink()

    ranked = sorted([*((c.score, c.nimg) for c in candidates(run_dir)), (score, nimg)])
    if (score, nimg) not in ranked[-limit:]:
        return
    # Saved before another is deleted: a kill in between leaves one too many until the next time.
    data = safetensors.torch.save({name: w.contiguous() for name, w in weights.items()})
    storage.write(folder / f'{nimg:09d}_{score:.4f}.safetensors', data, sync=True)
    for candidate in sorted(candidates(run_dir))[:-limit]:
        candidate.path.unlink()


def candidates(run_dir: str | os.PathLike[str]) -> list[Candidate]:
    """Return the averages that are kept, in no particular order."""
    kept = []
    # A score may be infinite, where a picture is restored exactly; other files are not ours.
    for path in Path(run_dir, 'best').glob('*.safetensors'):
        match = re.fullmatch(r'(\d+)_(-?[\d.]+|inf)\.safetensors', path.name)
        if match:
            kept.append(Candidate(float(match[2]), int(match[1]), path))
    return kept


def forget_after(run_dir: str | os.PathLike[str], nimg: int) -> None:
    """Delete the averages that a run resuming at `nimg` will make again."""
    for candidate in candidates(run_dir):
        if candidate.nimg > nimg:
            candidate.path.unlink()


def greedy_soup(run_dir: str | os.PathLike[str], score: Callable[[Weights], float]) -> Soup | None:
    """Average the best candidate with each next one that raises the score of the mean.

    Returns None if there is no candidate.
    """
    ranked = sorted(candidates(run_dir), reverse=True)
    if not ranked:
        return None
    best = ranked[0]
    weights = safetensors.torch.load_file(best.path)
    soup = Soup(weights, [best.nimg], score(weights))
    for candidate in ranked[1:]:
        # Every part weighs the same: the mean of n, moved by 1 / (n + 1) towards the next one.
        addition = safetensors.torch.load_file(candidate.path)
        mean = _mixed(soup.weights, addition, 1 / (len(soup.parts) + 1))
        value = score(mean)
        if value > soup.score:
            soup = Soup(mean, [*soup.parts, candidate.nimg], value)
    return soup


def _mixed(weights: Weights, addition: Weights, share: float) -> Weights:
    """Blend two sets of weights in float32; `share` is that of `addition`."""
    return {k: torch.lerp(w.float(), addition[k].float(), share) for k, w in weights.items()}
