"""Description of the machine that a run or a measurement was made on."""

import os
import platform
import time

import cv2
import numpy as np
import torch


def cpu_name() -> str:
    """Return the CPU's model name, as the system gives it."""
    # On Linux, platform.processor() is empty or says no more than the architecture.
    if os.path.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo') as f:
            for line in f:
                if line.startswith('model name'):
                    return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Return {'device', versions, 'date'}: without them, a measured figure means nothing."""
    return {
        'device': _device(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'opencv': cv2.__version__,
        'numpy': np.__version__,
        'date': time.strftime('%Y-%m-%d'),
    }


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    capability = torch.backends.cpu.get_cpu_capability()  # the vector instructions torch uses
    return f'{cpu_name()}, {os.cpu_count()} cores, {capability}'
