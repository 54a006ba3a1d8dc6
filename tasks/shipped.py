"""What comes with the project in weights/, under the names of its files without suffix."""

from pathlib import Path

from config.schema import Config, replace_options

FOLDER = Path(__file__).resolve().parents[1] / 'weights'
USUAL = 'faces-psnr'  # what restores a photograph where no network is named
NIQE = 'niqe-faces'  # NIQE's model of pristine faces
SHARP = 'faces-sharp'  # trained on from it, against a discriminator
PARSER = 'faces-parser'  # names the parts of a face


def names() -> list[str]:
    """Names of all that restores."""
    known = (file.stem for file in FOLDER.glob('faces-*.safetensors'))
    return sorted(name for name in known if name != PARSER)


def resolved(name: str) -> str:
    """Path that a flag means: a name of these files, unless one of the user has it."""
    file = FOLDER / f'{name}.safetensors'
    # With a folder in it, it is a path.
    return str(file) if file.exists() and not Path(name).exists() else name


def located(config: Config) -> Config:
    """The options with the paths of what comes along in place of its names, where a run keeps
    them: it may be resumed from another folder.
    """
    start, parser, priors = config.network.start, config.loss.parser, config.priors.prior
    return replace_options(
        config,
        start=start and resolved(start),
        parser=parser and resolved(parser),
        prior=priors and [_prior(prior) for prior in priors],
    )


def _prior(text: str) -> str:
    """PATH or NAME=PATH."""
    name, equals, path = text.rpartition('=')
    return name + equals + resolved(path)
