"""Pictures and masks read together while training: [size, size, 4] uint8, red, green, blue and the class id."""
import numpy as np

from ..files import BadFile, read_bytes, shown
from ..reader import Reader
from . import SWAP, decode, fit


class PairReader(Reader):
    """Reader of masks.pairs.Pair: a pair of which either file turns out bad is replaced by the next good one, in every pipe the same."""

    def image(self, index):
        """([size, size, 4] uint8, index used)"""
        while True:
            rgb, used = super().image(index)
            try:
                return np.dstack([rgb, self.ids(used)]), used
            except (OSError, BadFile) as e:      # changed on disk since it was judged
                self._bad[used] = self._of_mask(used, e)

    def ids(self, index):
        """[size, size] uint8, left and right put right where the pair says so. Raises OSError, BadFile."""
        pair = self.images[index]
        mask = fit(decode(read_bytes(*pair.mask.where)), self.size)
        return SWAP[mask] if pair.swap else mask

    def _judge(self, index, decodes=True):
        """Bytes of the picture, if its mask is good too."""
        new = index not in self._good
        data = super()._judge(index, decodes)
        if new and data is not None:
            try:
                self.ids(index)
            except (OSError, BadFile) as e:
                self._bad[index] = self._of_mask(index, e)
                return None
        return data

    def _of_mask(self, index, error):
        return f'its mask {shown(self.images[index].mask.path)}: {error}'
