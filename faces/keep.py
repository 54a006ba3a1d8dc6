"""How much of a face in a photo should stay when the photo is restored.

A network that is given so many pixels of a face restores what they hold, and loses what is finer.
"""

import numpy as np

from . import align, measures, quality

# A face keeps nothing of its own up to WORSE times the pixels that the network is given, all from
# BETTER times on. Chosen, with ERROR, for little loss in PSNR over eleven kinds of photographs, of
# faces of 96 to 512 pixels.
WORSE, BETTER = 0.75, 1.75
ERROR = 6.0  # levels of noise that count as much as the error of a restored face
WHOLE = 0.9  # of a face that is kept: then it is left as it is
# Decibels by which detail differs by direction: 98 of 100 sharp faces have less than the first, and
# what has more than the second has moved.
MOTION = 10.0, 13.0


def share(photo: np.ndarray, matrix: np.ndarray, side: int) -> float:
    """Return how much of a face in a photo [h, w, 3] uint8 should stay: 0 none, 1 all of it.

    A face worth up to WORSE of the pixels that a network is given is its own, one worth BETTER of
    them needs no restoring. Noise counts against the photo as the error of a restored face does
    against the network, which makes this the share of least squares where they are independent. Of
    a face that has moved nothing stays, however fine its detail is across the motion.
    matrix: [2, 3] from the photo to an aligned face of `side` pixels
    """
    # At the photo's own size: enlarged, its noise would look like detail.
    own = min(round(side / align.scale_of(matrix)), align.SIDE)
    if own <= WORSE * side:
        return 0.0
    there = align.scaled(matrix, target=own / side)
    face = align.warped(photo, there, (own, own))
    found = quality.measured(face)
    part = float(np.clip((found.side / side - WORSE) / (BETTER - WORSE), 0, 1))
    if not part:
        return 0.0
    part /= 1 + (found.noise / ERROR) ** 2
    still = (MOTION[1] - measures.blur(face)) / (MOTION[1] - MOTION[0])
    part *= float(np.clip(still, 0, 1))
    return 1.0 if part >= WHOLE else part
