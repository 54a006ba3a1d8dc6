"""Search of FRSNet's enlarging module (Yu et al., TNNLS 2023).

Networks that are searched have .part, the searched module's name in an architecture file, and
.supernet, the module that is searched. Everything around the supernet is fixed.
"""

from .entry import Entry
from .frsnet import FRSNet
from .supernet import AutoSR


class SearchSR(FRSNet):
    """FRSNet whose enlarging module is a supernet.

    width, growth, scale: as of FRSNet; layers, arriving: of the supernet
    """

    part = 'sr'
    sr: AutoSR

    def __init__(
        self,
        width: int = 64,
        growth: int = 32,
        scale: int = 1,
        layers: int = 6,
        arriving: bool = False,
    ) -> None:
        # What FRSNet makes is replaced, so that all else is initialised as in FRSNet.
        super().__init__(width=width, growth=growth, scale=scale)
        self.sr = AutoSR(width, layers, arriving=arriving)

    @property
    def supernet(self) -> AutoSR:
        """The module that is searched."""
        return self.sr


ENTRY = Entry(name='search_sr', network=SearchSR, kind='search')
