"""Surfaces of the synthetic ground, with their colours, backscatter and heights.

Palettes are shared on purpose: all surfaces of a palette draw their colours from the same
distribution, so that the optical image cannot separate them. Backscatter is shared likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from terrafuse.classes import ClassScheme

PIXEL_M = 10.0  # of the optical image, the surface model and the labels
Palette = Literal["green", "brown", "lush", "yellow", "wood", "water", "road"]

#: Reflectance of blue, green, red, near infrared; a pixel mixes two neighbouring rows.
PALETTES: dict[Palette, tuple[tuple[float, float, float, float], ...]] = {
    "green": (
        (0.030, 0.072, 0.036, 0.40),
        (0.034, 0.084, 0.042, 0.46),
        (0.042, 0.096, 0.056, 0.43),
        (0.038, 0.080, 0.052, 0.34),
        (0.048, 0.102, 0.076, 0.38),
    ),
    "brown": (
        (0.062, 0.080, 0.108, 0.17),
        (0.078, 0.102, 0.142, 0.21),
        (0.094, 0.136, 0.186, 0.26),
        (0.098, 0.160, 0.204, 0.30),
        (0.112, 0.160, 0.196, 0.27),
        (0.096, 0.114, 0.150, 0.20),
    ),
    "lush": (
        (0.022, 0.058, 0.022, 0.53),
        (0.025, 0.064, 0.024, 0.57),
        (0.028, 0.070, 0.027, 0.60),
    ),
    "yellow": (
        (0.046, 0.150, 0.136, 0.40),
        (0.052, 0.172, 0.160, 0.44),
        (0.060, 0.190, 0.184, 0.42),
    ),
    "wood": (
        (0.018, 0.034, 0.020, 0.24),
        (0.021, 0.042, 0.023, 0.29),
        (0.025, 0.052, 0.028, 0.33),
    ),
    "water": (
        (0.042, 0.038, 0.020, 0.010),
        (0.050, 0.054, 0.032, 0.016),
    ),
    "road": ((0.105, 0.116, 0.128, 0.165),),
}


@dataclass(frozen=True)
class Surface:
    """One type of surface.

    Args:
        class_name: Class it belongs to; None = unlabelled.
        vv_db: Mean VV backscatter.
        vh_db: Mean VH backscatter.
        spread_db: Standard deviation of the mean between objects.
        height_m: Range of the height above the ground.
    """

    name: str
    class_name: str | None
    palette: Palette
    vv_db: float
    vh_db: float
    spread_db: float = 0.7
    height_m: tuple[float, float] = (0.0, 0.0)


SURFACES = (
    Surface("open water", "water", "water", -20.5, -28.0, 0.6),
    Surface("flooded reed", "wetland", "green", -4.5, -17.0, 0.8),
    Surface("seedbed", "arable", "brown", -15.5, -23.0),
    Surface("crop in leaf", "arable", "green", -9.0, -15.0),
    Surface("short sward", "grassland", "green", -15.5, -23.0),
    Surface("dry tussocks", "grassland", "brown", -9.0, -15.0),
    Surface("high wood", "forest", "wood", -8.5, -13.5, 0.6, (12.0, 22.0)),
    Surface("thicket", "forest", "green", -9.0, -15.0, 0.7, (5.0, 8.0)),
    # Walls facing the radar give double bounce, others hardly any: from like tussocks to like reed.
    Surface("roof", "buildings", "brown", -6.5, -15.5, 2.2, (6.0, 16.0)),
    Surface("road", None, "road", -16.5, -25.0),
    # On request only: colour or backscatter alone says nothing, the pair everything.
    Surface("wheat in shoot", "wheat", "lush", -9.0, -15.0),
    Surface("ripe wheat", "wheat", "yellow", -15.5, -23.0),
    Surface("rape rosettes", "rape", "lush", -15.5, -23.0),
    Surface("rape in flower", "rape", "yellow", -9.0, -15.0),
)
VOID = 255
CLASS_COLORS = {
    "water": "#3b7dd8",
    "wetland": "#2fb5b0",
    "arable": "#e3b34c",
    "grassland": "#a5cf63",
    "forest": "#1f7a3d",
    "buildings": "#b5384b",
}
SYNERGY_COLORS = {"wheat": "#c98a2b", "rape": "#f2e64b"}


def index_of(name: str) -> int:
    """Return the position of a surface in `SURFACES`."""
    return [surface.name for surface in SURFACES].index(name)


def class_scheme(*, synergy: bool = False) -> ClassScheme:
    """Return the six classes with their colours; codes are the indices, 255 is void.

    Args:
        synergy: Add wheat and rape, which come last.
    """
    colors = CLASS_COLORS | (SYNERGY_COLORS if synergy else {})
    return ClassScheme(names=tuple(colors), colors=tuple(colors.values()), void=(VOID,))


def class_codes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return the label code per surface, uint8; 255 for unlabelled ones."""
    names = [*CLASS_COLORS, *SYNERGY_COLORS]
    codes = [VOID if s.class_name is None else names.index(s.class_name) for s in SURFACES]
    return np.array(codes, np.uint8)
