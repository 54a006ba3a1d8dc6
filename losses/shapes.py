"""The check that losses of two equal shapes share."""

from torch import Tensor


def check_equal(output: Tensor, target: Tensor) -> None:
    """Raise ValueError for different shapes: broadcasting would average over unrelated pairs."""
    if output.shape != target.shape:
        raise ValueError(
            f'loss of {tuple(output.shape)} against {tuple(target.shape)}: the shapes must be equal'
        )
