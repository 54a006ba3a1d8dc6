"""Loss of a network that predicts heatmaps (Tompson et al., NeurIPS 2014)."""

from torch import Tensor

from .shapes import check_equal


def squared(output: Tensor, target: Tensor) -> Tensor:
    """Squared error relative to the target's energy, over the batch -> scalar float32.

    The sum of squared differences over the sum of squares of the target, both [B, K, H, W]: 1 for
    an empty prediction, whatever the Gaussians' width and number. Maps of landmarks that are not
    visible are 0 and count in the numerator. ValueError for different shapes.
    """
    check_equal(output, target)
    # At least 1, so that a batch without any landmark divides by no zero.
    target = target.float()
    return (output.float() - target).square().sum() / target.square().sum().clamp_min(1)
