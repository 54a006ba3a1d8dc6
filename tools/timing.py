"""Timing shared by the benchmarks: rounds, medians, and on what and with what they ran."""

import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from training.machine import machine


def rounds(
    contenders: Mapping[str, Callable[[], object]],
    count: int,
    *,
    progress: Callable[[str], None] = print,
) -> dict[str, list[float]]:
    """Seconds of each round of each contender, after an untimed call that warms it up.

    contenders: {name: callable that does the whole work once}
    """
    for run in contenders.values():
        run()

    # In turn, so that a slow moment of the machine hits everyone.
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(count):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        latest = ', '.join(f'{name} {s[-1]:.2f} s' for name, s in seconds.items())
        progress(f'  round {i + 1} of {count}: {latest}')
    return seconds


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: list[float]) -> float:
    """Half the range over the median, in percent."""
    return 50 * (max(values) - min(values)) / median(values)


def header() -> str:
    """Device, versions and date in a line."""
    m = machine()
    versions = ', '.join(f'{k} {v}' for k, v in m.items() if k not in ('device', 'date'))
    return f'{m["device"]}; {versions}; {m["date"]}'


def write(path: Path, **figures: Any) -> None:
    """Figures with what they belong to, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine(), **figures}, indent=2) + '\n')


def installed(module: str) -> bool:
    """Whether a module could be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
