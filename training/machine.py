"""On what a run or a measurement was made."""

import os
import platform
import time

import cv2
import numpy as np
import torch


def cpu_name():
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def machine():
    """{'device', versions, 'date'}: what figures belong to."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f'{cpu_name()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}'
    )
    return {
        'device': device,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'opencv': cv2.__version__,
        'numpy': np.__version__,
        'date': time.strftime('%Y-%m-%d'),
    }
