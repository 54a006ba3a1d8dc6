"""Weights that come with the project, under the names of their files without suffix."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / 'weights'
USUAL = 'faces-psnr'  # what restores a photograph where no network is named


def names() -> list[str]:
    """Names of all of them."""
    return sorted(file.stem for file in FOLDER.glob('*.safetensors'))


def resolved(weights: str) -> str:
    """Path that --weights means: a name of these, unless a file of the user has it."""
    if weights in names() and not Path(weights).exists():
        return str(FOLDER / f'{weights}.safetensors')
    return weights
