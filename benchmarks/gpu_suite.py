"""Everything there is to measure on a GPU, in one command.

python benchmarks/gpu_suite.py --data FACES --minutes 9
python benchmarks/gpu_suite.py --only tests,degrade

GPU tests, degradation, PNG decoding, pipes, training steps, a short training. Each part leaves its
figures in --work, and the same command again goes on with the parts that are missing, so that it
fits into short leases. The summary goes to benchmarks/results/DEVICE.json. Exit code: 0 if every
part passed, 1 if one failed, 3 without a GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.degrade_gpu import PARITY_NAME
from errors import reported
from tools import arguments, timing

ROOT = Path(__file__).resolve().parents[1]
FIGURES = '{json}'  # in a command: the file that the part leaves its figures in

# Targets of this project for one H200.
DEGRADE = 20_000  # img/s
AGAINST_TORCH = 10  # times the images per second of batched torch
TRAIN = 600  # img/s
MEMORY_GB = 6  # of the smallest card
DECODE = 10_000  # img/s

GPU_TESTS = ('test_gpu', 'test_golden', 'test_cuda', 'test_png', 'test_jph')


# ---- the parts ----


def parts(data: str | None, work: Path) -> dict[str, list[str]]:
    """The command of each part. data: HQ faces; work: where a training goes"""
    faces = f'--data {data}' if data else ''
    step = f'benchmarks/train_step.py {faces} --json {FIGURES}'
    commands = {
        'degrade': f'benchmarks/degrade_throughput.py {faces} --recipes ai6126_2024,ai6126_2022'
        f' --rounds 3 --batches 64 --json {FIGURES}',
        'decode': f'benchmarks/decode_throughput.py {faces} --json {FIGURES}',
        'pipes': f'benchmarks/pipe_throughput.py {faces} --batch 32 --json {FIGURES}',
        'step': f'{step} --presets srresnet16,unet --batch 32',
        'small': f'{step} --presets srresnet20 --batch 8 --memory {MEMORY_GB}',
        'train': f'train.py {faces} --preset unet --batch 16 --minutes 2 --ticks 4'
        f' --out {work / "run"}',
    }
