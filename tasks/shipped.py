"""What comes with the project in weights/, under the names of its files without suffix."""

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / 'weights'
USUAL = 'faces-psnr'  # what restores a photograph where no network is named
NIQE = 'niqe-faces'  # NIQE's model of pristine faces
SHARP = 'faces-sharp'  # trained on from it, against a discriminator


def names() -> list[str]:
    """Names of all that restores."""
    return sorted(file.stem for file in FOLDER.glob('faces-*.safetensors'))


def resolved(name: str) -> str:
    """Path that a flag means: a name of these files, unless one of the user has it."""
    file = FOLDER / f'{name}.safetensors'
    # With a folder in it, it is a path.
    return str(file) if file.exists() and not Path(name).exists() else name
