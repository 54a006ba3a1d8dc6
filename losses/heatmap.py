"""Loss of a network that predicts heatmaps (Tompson et al., NeurIPS 2014): squared error, in units of what there is to find."""


def squared(output, target):
    """Sum of squared differences over the sum of squares of the target, both [B, K, H, W], over the batch -> scalar float32: 1 of an empty prediction, whatever the
    gaussians' width and number. Maps of what is not there are 0 and count in the numerator. ValueError for other shapes."""
    if output.shape != target.shape:
        raise ValueError(
            f'loss of {tuple(output.shape)} against {tuple(target.shape)}: the shapes must be equal'
        )
    target = target.float()
    return (output.float() - target).square().sum() / target.square().sum().clamp_min(1)
