"""Search of the module that fuses MFPSNet's priors (Yu et al., TNNLS 2023)."""

from collections.abc import Mapping

from torch import nn

from .decode import Architecture
from .entry import Entry
from .mfpsnet import PRIORS, MFPSNet
from .searched import PAPER
from .supernet import AutoPrior


class SearchFusion(MFPSNet):
    """MFPSNet whose fusion is a supernet; all other modules follow `architectures`.

    width: channels of the supernet; the default is that of its input, 24 and 8 for every prior, as
        published, which takes 540 million weights for three priors. The architecture does not
        depend on it, so widths of 8 or 16 search in a thirtieth or a tenth of the time
    layers, arriving: of the supernet
    """

    part = 'fusion'
    fusion: nn.Sequential

    def __init__(
        self,
        architectures: Mapping[str, Architecture] = PAPER,
        priors: Mapping[str, int] = PRIORS,
        scale: int = 1,
        width: int | None = None,
        layers: int = 6,
        arriving: bool = False,
    ) -> None:
        super().__init__(architectures, priors, scale)
        # A narrower supernet gets 1x1 convolutions around it, to and from the channels outside.
        before = 24 + 8 * len(self.priors)
        width = width or before
        narrow = nn.Conv2d(before, width, 1) if width != before else nn.Identity()
        widen = nn.Conv2d(3 * width, 3 * before, 1) if width != before else nn.Identity()
        supernet = AutoPrior(width, layers, arriving=arriving)
        self.fusion = nn.Sequential(narrow, supernet, widen)

    @property
    def supernet(self) -> AutoPrior:
        """The module that is searched."""
        supernet = self.fusion[1]
        assert isinstance(supernet, AutoPrior)
        return supernet


ENTRY = Entry(name='search_fusion', network=SearchFusion, kind='search')
