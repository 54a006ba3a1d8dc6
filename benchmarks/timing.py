"""Timing shared by the benchmarks: rounds, medians, and a line that says on what and with what they ran."""

import importlib.util
import json
import statistics
import time

from training.machine import machine


def rounds(contenders, count, *, progress=print):
    """contenders: {name: callable that does the whole work once}. Runs all of them `count` times in turn, so that a slow moment of the machine hits everyone.
    Returns {name: [seconds of each round]}; a first, untimed call warms each up."""
    for run in contenders.values():
        run()
    seconds = {name: [] for name in contenders}
    for i in range(count):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        progress(
            f'  round {i + 1} of {count}: '
            + ', '.join(f'{n} {s[-1]:.2f} s' for n, s in seconds.items())
        )
    return seconds


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the range over the median, in percent."""
    return 50 * (max(values) - min(values)) / median(values)


def header():
    m = machine()
    return (
        m['device']
        + '; '
        + ', '.join(f'{k} {v}' for k, v in m.items() if k not in ('device', 'date'))
        + f'; {m["date"]}'
    )


def write(path, **figures):
    """Figures with what they belong to, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine(), **figures}, indent=2) + '\n')


def installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its parent
        return False
