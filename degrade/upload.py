"""Small arrays on their way to the device."""

import numpy as np
import torch


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy a small array to the device.

    The way to a GPU leads through pinned memory, so that the copy makes nothing wait.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == 'cuda' else tensor
