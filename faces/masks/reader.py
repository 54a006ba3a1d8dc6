"""Pictures and masks read together while training: [size, size, 4] uint8, red, green, blue and the class id."""

from sources import reader
from sources.files import read_bytes, shown

from . import SWAP, decode, fit


class MaskReader(reader.PairedReader):
    """Reader of masks.pairs.Pair."""

    def paired(self, index):
        return self.ids(index)[..., None]

    def ids(self, index):
        """[size, size] uint8, left and right put right where the pair says so. Raises OSError, BadFile."""
        pair = self.images[index]
        mask = fit(decode(read_bytes(*pair.mask.where)), self.size)
        return SWAP[mask] if pair.swap else mask

    def reason(self, index, error):
        return f'its mask {shown(self.images[index].mask.path)}: {error}'
