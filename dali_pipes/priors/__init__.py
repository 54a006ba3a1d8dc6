"""Facial priors made without outside weights (MFPSNet, Yu et al., TNNLS 2023): landmarks of masks or files, their heatmaps, dictionaries of facial components."""
