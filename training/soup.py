"""The best averages of a run, kept by their score, and the mean of those that improve each other (model soups, Wortsman et al., ICML 2022, greedy)."""

import re
from pathlib import Path

import safetensors.torch
import torch

from . import run


def save_candidate(run_dir, nimg, weights, score, most):
    """Keep `weights` (state_dict) in run_dir/best if their score is among the `most` highest seen; the lowest makes room."""
    folder = Path(run_dir, 'best')
    for old in folder.glob(f'{nimg:09d}_*'):  # of the same moment, before a kill
        old.unlink()
    ranked = sorted([*((s, n) for s, n, _ in candidates(run_dir)), (score, nimg)])
    if (score, nimg) not in ranked[-most:]:
        return
    run.write(
        folder / f'{nimg:09d}_{score:.4f}.safetensors',
        safetensors.torch.save({k: v.contiguous() for k, v in weights.items()}),
        sync=True,
    )
    for _, _, path in sorted(candidates(run_dir))[:-most]:
        path.unlink()


def candidates(run_dir):
    """[(score, nimg, path)] of what is kept, in no order."""
    found = [
        (re.fullmatch(r'(\d+)_(-?[\d.]+|inf)\.safetensors', p.name), p)
        for p in Path(run_dir, 'best').glob('*.safetensors')
    ]
    return [(float(m[2]), int(m[1]), p) for m, p in found if m]


def forget_after(run_dir, nimg):
    """Drop what a run that resumes at `nimg` will make again."""
    for _, n, path in candidates(run_dir):
        if n > nimg:
            path.unlink()


def greedy_soup(run_dir, score):
    """Greedy soup: the best, then each next one whose taking in raises score(weights) -> (weights, [nimg of its parts], their score), None if nothing is kept."""
    ranked = sorted(candidates(run_dir), reverse=True)
    if not ranked:
        return None
    total = safetensors.torch.load_file(ranked[0][2])
    parts, best = [ranked[0][1]], score(total)
    for _, nimg, path in ranked[1:]:
        more = safetensors.torch.load_file(path)
        tried = {
            k: torch.lerp(total[k].float(), more[k].float(), 1 / (len(parts) + 1)) for k in total
        }
        s = score(tried)
        if s > best:
            total, best, parts = tried, s, parts + [nimg]
    return total, parts, best
