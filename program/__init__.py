"""How every program begins and ends: its surroundings, its streams, its numbers, its exit status.

A program imports this before anything else, because libraries look at the environment when they
are imported, and wraps its main in `entry`.
"""

import sys

from . import surroundings
from .entry import REFUSALS, STOPPED, entry
from .ranges import Formatter, Number, Or, Several, Whole

surroundings.refuse_mixture(sys.argv[0])
surroundings.mend()

__all__ = ['REFUSALS', 'STOPPED', 'Formatter', 'Number', 'Or', 'Several', 'Whole', 'entry']
