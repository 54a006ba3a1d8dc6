"""Lossless copies that decode fast: a tar of JPH files for each input shard."""

from dataclasses import dataclass

import numpy as np

from errors import BadFile, DataError
from sources import files
from tools.prepare_htj2k import verified

from .accounts import Face
from .shard_task import Made


@dataclass(frozen=True)
class Htj2k:
    """Job: copies as `prepare.py htj2k` makes them, each read back by two decoders."""

    kind = 'htj2k'
    folders = ('',)

    def made(self, name: str, data: bytes, shard: int, number: int) -> list[Made]:
        """See Job."""
        key = f'{shard:06}-{number:06}'
        copy = htj2k(files.decode_sound(data), name)
        return [Made(Face(key, name), {'': {f'{key}.jph': copy}})]

    def copies(self) -> None:
        """See Job: nothing is judged."""


def htj2k(rgb: np.ndarray, name: str) -> bytes:
    """Encode [H, W, 3] uint8 RGB. Raises BadFile for one that does not come back as it was."""
    try:
        return verified(rgb, name)
    except DataError as error:
        raise BadFile(str(error)) from error
