"""Numbers of the mask's classes, those of CelebAMask-HQ; left and right are the person's own."""

(
    BACKGROUND,
    SKIN,
    NOSE,
    GLASSES,
    LEFT_EYE,
    RIGHT_EYE,
    LEFT_BROW,
    RIGHT_BROW,
    LEFT_EAR,
    RIGHT_EAR,
    MOUTH,
    UPPER_LIP,
    LOWER_LIP,
    HAIR,
    HAT,
    EARRING,
    NECKLACE,
    NECK,
    CLOTH,
) = range(19)
