"""What is known about faces.

masks:                 class ids of CelebAMask-HQ, annotations, pictures paired with masks
landmarks, heatmaps:   28 or 68 points, as coordinates or as maps
components, dictionary, prior_file: eyes, nose and mouth, their dictionaries, the file of priors
augment:               random geometry and colour for a picture and its mask
"""
