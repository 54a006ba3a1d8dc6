"""Whether a chain of others does what a recipe says, for the benchmarks that time such chains.

Every operation is looked at on its own, so that one that is left out shows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

import degrade
from degrade import Recipe, Stage, diffjpeg, jpeg, noise
from degrade.op import ChainParams
from errors import FacesError

# A stage, an image [h, w, 3] float32 in [0, 1] and the number of its sample -> what comes out.
RunStage = Callable[[Stage, np.ndarray, int], np.ndarray]

LEVEL = 1 / 255
SHARE = 0.3  # of what an operation changes, that another one of its kind may differ by
# Of these the strength is compared: noise is drawn otherwise, and codecs round otherwise.
STRENGTH: dict[Any, float] = {noise: 0.3, jpeg: 0.4, diffjpeg: 0.4}


def check(
    name: str, recipe: Recipe, params: ChainParams, images: np.ndarray, run: RunStage
) -> None:
    """Refuse to time another degradation. Raises FacesError.

    images: [N, H, W, 3] uint8, of which every operation is given what the reference made of them
    """
    strengths: dict[str, list[np.ndarray]] = {stage.name: [] for stage in recipe.stages}
    for i, image in enumerate(images):
        x = image / 255.0
        for stage, p in zip(recipe.stages, degrade.take(params, i), strict=True):
            expected = stage.op.run_ref(x, p)
            found = run(stage, x.astype(np.float32), i)
            wrong = ''
            if found.shape != expected.shape:
                wrong = f'{found.shape}, not {expected.shape}'
            elif stage.op in STRENGTH:
                strengths[stage.name].append(np.array([_energy(found - x), _energy(expected - x)]))
            else:
                wrong = _wrong(found, expected, x)
            _refuse(name, f'{stage.name} of sample {i}', wrong)
            x = expected

    # Over all samples, as chance and a level that is rounded the other way decide about one.
    for stage in recipe.stages:
        if strengths[stage.name]:
            wrong = _wrong_strength(np.mean(strengths[stage.name], 0), STRENGTH[stage.op])
            _refuse(name, stage.name, wrong)


def _refuse(name: str, where: str, wrong: str) -> None:
    if wrong:
        raise FacesError(f'{name}: another degradation ({where}: {wrong}): not timed')


def _wrong(found: np.ndarray, expected: np.ndarray, x: np.ndarray) -> str:
    """What is wrong with the output of a filter, '' if nothing is."""
    # Filters of one name differ at borders and in rounding, by a part of what they do at most.
    error = np.abs(found - expected).mean()
    if x.shape == expected.shape:
        bound = max(SHARE * np.abs(expected - x).mean(), LEVEL / 2)
    else:
        # OpenCV's area is linear where it enlarges, torch's is not: less than half a pixel away.
        bound = 2 * LEVEL + np.abs(np.diff(expected, axis=1)).mean() / 2
    return '' if error <= bound else f'off by {error / LEVEL:.2f} levels in the mean'


def _energy(change: np.ndarray) -> np.ndarray:
    """Mean squares of a change [h, w, 3], and of its colour, which is none where it is grey."""
    return np.array([np.square(change).mean(), np.square(change[..., 0] - change[..., 1]).mean()])


def _wrong_strength(energies: np.ndarray, share: float) -> str:
    """What is wrong with [found, expected] energies, '' if nothing is."""
    for what, (found, expected) in zip(('strength', 'colour'), np.sqrt(energies).T, strict=True):
        if abs(found - expected) > max(share * expected, LEVEL / 2):
            return f'{what} {found / LEVEL:.2f}, not {expected / LEVEL:.2f} levels'
    return ''


def megapixels(recipe: Recipe, params: ChainParams, size: tuple[int, int]) -> float:
    """What all operations of a recipe are given for one image, in the mean of its samples."""
    now = np.full((len(params[0][0]), 2), size, np.int64)
    total: Any = 0
    for p in params:
        total += now.prod(1).mean()
        now = degrade.size_after(p, now)
    return float(total) / 1e6
