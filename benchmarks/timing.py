"""Timing shared by the benchmarks: rounds, medians, and a line that says on what and with what they ran."""
import importlib.util
import json
import os
import platform
import statistics
import time

import cv2
import numpy as np
import torch


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
        progress(f'  round {i + 1} of {count}: ' + ', '.join(f'{n} {s[-1]:.2f} s' for n, s in seconds.items()))
    return seconds


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the range over the median, in percent."""
    return 50 * (max(values) - min(values)) / median(values)


def cpu_name():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def machine():
    """{'device': ..., versions}: what the figures belong to."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'{cpu_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}'
    return {'device': device, 'python': platform.python_version(), 'torch': torch.__version__, 'opencv': cv2.__version__, 'numpy': np.__version__,
            'date': time.strftime('%Y-%m-%d')}


def header():
    m = machine()
    return m['device'] + '; ' + ', '.join(f'{k} {v}' for k, v in m.items() if k not in ('device', 'date')) + f'; {m["date"]}'


def write(path, **figures):
    """Figures with what they belong to, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine(), **figures}, indent=2) + '\n')


def installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:                  # of its parent
        return False
