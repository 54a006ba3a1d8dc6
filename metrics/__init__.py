"""Metrics: how good restored pictures and predicted masks are.

With the truth: `psnr`, `ssim`, `ms_ssim`, `sharpness`; `perceptual`, LPIPS on a backbone that the
user names; `identity`, by a face network that the user names; `lmd`, by landmarks; `miou` of masks.
Without it: `niqe`, by a model of pristine faces. Of sets: `frechet`, FID by a network that the user
names. Of other people's making: `pyiqa_metrics`, by name; and `ntire`, a challenge's total score.
`pairs` is the check that those of two pictures share; `comparison` says how sure a mean is, and a
difference.

Nothing is fetched silently. What needs weights is given them by the user, and says by which they
are: figures by different weights are not comparable.
"""
