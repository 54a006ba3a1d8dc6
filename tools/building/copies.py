"""Small copies of the faces of a shard, of which those for the report are chosen in the end."""

import numpy as np

from . import sheets
from .accounts import Face, Sheet
from .sheets import Limits

MANY = 500  # copies, of 27 KB each, that are worth choosing from


class Copies:
    """Takes every face of a shard, and keeps those that the report may show."""

    def __init__(self, limits: Limits) -> None:
        """limits: thresholds by the names of their flags"""
        self._limits = limits
        self._faces: list[Face] = []
        self._copies: dict[str, np.ndarray] = {}

    def add(self, face: Face, copy: np.ndarray) -> None:
        """Take a face and its copy, as sheets.small makes it."""
        self._faces.append(face)
        self._copies[face.key] = copy
        if len(self._faces) > MANY:
            # What is at no end of these is at no end of all.
            strips = sheets.chosen(self._faces, self._limits).values()
            kept = {chosen.key: chosen for strip in strips for _, chosen in strip}
            self._faces = list(kept.values())
            self._copies = {key: self._copies[key] for key in kept}

    def sheet(self) -> Sheet:
        """Return the copies that are chosen."""
        return sheets.ends(self._faces, self._limits, self._copies.__getitem__)
