"""Pictures and masks read together while training: [size, size, 4] uint8, RGB and the class id."""

import numpy as np

from sources import reader
from sources.files import read_bytes
from storage import shown

from . import SWAP, decode, fit
from .pairs import Pair


class MaskReader(reader.PairedReader[Pair]):
    """Reader of pairs of pictures and masks."""

    def paired(self, index: int) -> np.ndarray:
        """[size, size, 1] uint8 ids. Raises OSError, BadFile."""
        return self.ids(index)[..., None]

    def ids(self, index: int) -> np.ndarray:
        """[size, size] uint8 ids, left and right swapped back where the pair says so.

        Raises OSError, BadFile.
        """
        pair = self.images[index]
        mask = fit(decode(read_bytes(*pair.mask.where)), self.size)
        return SWAP[mask] if pair.swap else mask

    def reason(self, index: int, error: Exception) -> str:
        """Describe for a message a pair whose mask raised `error`."""
        return f'its mask {shown(self.images[index].mask.path)}: {error}'
