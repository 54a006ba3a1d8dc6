"""Losses as a run sees them: kept on the device, looked at now and then; and what its figures say in plain words."""

import torch

from errors import RunError

LEVEL = (
    0.55,
    0.95,
)  # shares of right judgements between which discriminator and generator learn from each other


class LossMeter:
    """Loss of every step since the last look. Reading one makes a GPU wait, so they are read together.

    each: images of a step
    most: steps in a row without a finite gradient after which RunError is raised
    note: called with a dict for every step that was left out: {'skipped': loss, 'nimg': images before it, 'samples': [first, last]}
    """

    def __init__(self, each, most, note):
        self._each, self._most, self._note, self._seen, self._row = each, most, note, [], 0
        self.means = {}  # {name: float} smoothed; empty until a finite one was seen
        self._since = {}  # {name: (sum, steps)} since the last take()

    def __len__(self):
        return len(self._seen)

    def add(self, nimg, found, bad):
        """nimg: images after the step; found: {name: scalar on the device}, with 'loss'; bad: scalar there, not 0 where the step was left out."""
        self._seen.append((nimg, found, bad))

    def look(self):
        """Read them -> the means, smoothed with those before."""
        values = iter(
            torch.stack(
                [v.float() for _, found, bad in self._seen for v in (*found.values(), bad)]
            ).tolist()
        )
        sums = {}
        for nimg, found, _ in self._seen:
            found, bad = {name: next(values) for name in found}, next(values)
            self._row = self._row + 1 if bad else 0
            if bad:
                self._note(
                    {
                        'skipped': str(found['loss']),
                        'nimg': nimg - self._each,
                        'samples': [nimg - self._each, nimg - 1],
                    }
                )
            else:
                for name, value in found.items():
                    sums.setdefault(name, []).append(value)
            if self._row == self._most:
                raise RunError(
                    f'{self._most} steps in a row had no finite gradient; the last loss is {found["loss"]} at image {nimg:,} (samples {nimg - self._each:,} to {nimg - 1:,}). '
                    'Checkpoints are kept; start afresh with a lower --lr or --precision fp32, and another --out'
                )
        self._seen = []
        for name, seen in sums.items():
            mean = sum(seen) / len(seen)
            self.means[name] = (self.means.get(name, mean) + mean) / 2
            before = self._since.get(name, (0.0, 0))
            self._since[name] = before[0] + sum(seen), before[1] + len(seen)
        return self.means

    def take(self):
        """Means of all finite steps that were looked at since the last take -> {name: float}; {} if there were none."""
        taken, self._since = (
            {name: total / steps for name, (total, steps) in self._since.items()},
            {},
        )
        return taken


def hints(rows, wait, skipped, metric):
    """What a user should know -> {topic: sentence}.

    rows: of the log; wait: share of the time that the network waited for data; skipped: steps left out; metric: what the run is judged by, with key, unit and fall
    """
    said, quality, loss = (
        {},
        [r[metric.key] for r in rows if metric.key in r],
        [r['loss'] for r in rows if 'loss' in r],
    )
    if any(
        'd_accuracy' in r for r in rows
    ):  # two players: what one gains the other loses, and faces get sharper at a cost in what is measured
        quality = loss = []
    if wait > 0.05:
        said['data'] = (
            f'the network waits for data {wait:.0%} of the time: a --cache that holds the images, more --threads or a cheaper --recipe help'
        )
    if len(quality) >= 3 and quality[-1] < max(quality) - metric.fall and quality[-1] < quality[-2]:
        said['validation'] = (
            f'validation fell from {max(quality):.2f} to {quality[-1]:.2f} {metric.unit}: too few images for so long a run, or too high a --lr'
        )
    right = [r['d_accuracy'] for r in rows if 'd_accuracy' in r and 'gan' in r][-10:]
    if len(right) == 10 and not LEVEL[0] <= (mean := sum(right) / 10) <= LEVEL[1]:
        said['level'] = f'the discriminator is right on {mean:.0%} of its pictures, ' + (
            'the generator can learn little from it: a lower --discriminator-lr or a higher --gan-weight helps'
            if mean > LEVEL[1]
            else 'the generator fools it: a higher --discriminator-lr or a lower --gan-weight helps'
        )
    means = [sum(loss[i : i + 10]) / 10 for i in range(len(loss) - 9)]
    if (
        means and 0 < 1.3 * min(means) < means[-1]
    ):  # a logarithm may be negative, and says nothing so
        said['rate'] = (
            f'the loss rose from {min(means):.4f} to {means[-1]:.4f}: the learning rate is too high, start afresh with half the --lr'
        )
    if skipped:
        said['skipped'] = (
            f'{skipped} steps had no finite gradient and were left out: a lower --lr or --precision fp32 helps'
        )
    return said
