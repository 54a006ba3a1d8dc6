"""The steps of a pipe, planned many batches at a time and, for a GPU, ahead of the training.

A plan is a function of sample numbers alone, and most of what it takes for a small batch is the
calls. So many batches are planned in one pass and then cut. For a GPU a thread makes the next pass
while the steps of the last one are trained on; on a CPU, whose cores the training wants, a pass is
made when a step of it is asked for.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from sources import order

from .loader import Options
from .plan import BatchPlan, Step

# Batches of a pass, and its samples: of these many the calls no longer matter.
TOGETHER = 16
SAMPLES = 2048


def planned(plan: BatchPlan, batches: Sequence[np.ndarray], records: bool = False) -> list[Step]:
    """Plan batches in one pass. Each is, bit for bit, what `plan` makes of it alone.

    batches: [B] int64 sample numbers of each
    records: make what the kernels are given of a batch, too
    """
    step = plan(np.concatenate(batches))
    if records:
        step = step._replace(records=plan.records(step))
    ends = np.cumsum([len(samples) for samples in batches]).tolist()
    return [_cut(step, slice(a, b)) for a, b in zip([0, *ends], ends, strict=False)]


def _cut(values: Any, part: slice) -> Any:
    """Some samples of an array, or of all arrays in nested tuples."""
    if isinstance(values, np.ndarray):
        return values[part]
    if values is None:
        return None
    cut = [_cut(value, part) for value in values]
    return type(values)(*cut) if hasattr(values, '_fields') else tuple(cut)


class Steps:
    """Endless iterator of a rank's steps; close() ends its thread.

    What goes wrong in a pass is raised where a step of it is asked for.
    """

    def __init__(self, plan: BatchPlan, options: Options) -> None:
        """Nothing is planned before the first step is asked for."""
        self._plan = plan
        self._samples = order.shard(options.start, plan.batch, options.rank, options.world)
        self._together = max(TOGETHER, SAMPLES // plan.batch)
        self._steps: deque[Step] = deque()
        self._gpu = options.device.type == 'cuda'

        # The pass after the one that steps are taken from.
        self._thread = ThreadPoolExecutor(1, 'plan')
        self._coming: Future[list[Step]] | None = None

    def __iter__(self) -> 'Steps':
        """Return the steps themselves."""
        return self

    def __next__(self) -> Step:
        """Return the next step."""
        if not self._steps:
            self._steps.extend(self._coming.result() if self._coming else self._pass())
            if self._gpu:
                self._coming = self._thread.submit(self._pass)
        return self._steps.popleft()

    def _pass(self) -> list[Step]:
        batches = list(islice(self._samples, self._together))
        return planned(self._plan, batches, records=self._gpu)

    def close(self) -> None:
        """End the thread, which is at most one pass from its end."""
        self._thread.shutdown(cancel_futures=True)
