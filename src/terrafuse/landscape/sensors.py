"""Simulation of the three sensors: optical with clouds, SAR with speckle, a surface model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrafuse.landscape.cover import Cover
from terrafuse.landscape.ground import Ground
from terrafuse.landscape.noise import Float, blur, fractal, smoothstep
from terrafuse.landscape.surfaces import PALETTES, PIXEL_M, SURFACES

LOOKS = 4
SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG = 152.0, 46.0
RADAR_AZIMUTH_DEG, RADAR_INCIDENCE_DEG = 282.0, 38.0
CLOUD = np.array([0.52, 0.52, 0.53, 0.58], np.float32)[:, None, None]
HAZE = np.array([0.012, 0.007, 0.004, 0.001], np.float32)[:, None, None]


@dataclass(frozen=True)
class Sky:
    """Clouds over a place; arrays (H, W) from 0 to 1.

    Args:
        cloud: Opacity.
        shadow: Darkness of the clouds' shadow on the ground.
    """

    cloud: Float
    shadow: Float


def make_sky(rng: np.random.Generator, size: int, share: float) -> Sky:
    """Make broken clouds over `share` of the place, with the shadows they cast."""
    shape = (size, size)
    if share <= 0:
        return Sky(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    # Fleecy clouds, confined to one part of the sky.
    field = fractal(rng, shape, hurst=0.5, wavelength_px=size / 4)
    field += 1.6 * fractal(rng, shape, hurst=0.9, wavelength_px=size)
    low, mid, high = np.quantile(field, (1 - 1.35 * share, 1 - 0.8 * share, 1 - 0.45 * share))
    cloud = 0.55 * smoothstep(field, low, mid) + 0.45 * smoothstep(field, mid, high)
    away = 0.035 * size / np.hypot(1, 1)
    azimuth = np.deg2rad(SUN_AZIMUTH_DEG + 180)
    shift = (round(-1.4 * away * np.cos(azimuth)), round(1.4 * away * np.sin(azimuth)))
    shadow = np.roll(cloud, shift, (0, 1))
    return Sky(blur(cloud, 0.8), blur(shadow, 1.2) * (1 - cloud))


def see_optical(
    rng: np.random.Generator, ground: Ground, cover: Cover, sky: Sky, *, blank_clouds: bool
) -> NDArray[np.uint16]:
    """Simulate reflectance × 10000 (4, H, W); 0 where thick clouds are blanked."""
    colours = np.zeros((4, *cover.surface.shape), np.float32)
    for index, surface in enumerate(SURFACES):
        mask = cover.surface == index
        colours[:, mask] = _mix(surface.palette, cover.tint[mask])
    colours *= cover.shade * (1 + 0.06 * cover.texture)
    light = _light(ground.height + cover.raised, SUN_AZIMUTH_DEG, 90 - SUN_ELEVATION_DEG)
    light *= 1 - 0.62 * sky.shadow
    # A shaded slope still receives skylight, which is bluer than sunlight.
    diffuse = np.array([0.24, 0.19, 0.15, 0.09], np.float32)[:, None, None]
    image = blur(colours * (diffuse + (1 - diffuse) * light), 0.65)
    billow = 1 + 0.09 * fractal(rng, sky.cloud.shape, hurst=0.5, wavelength_px=24)
    image = (image * (1 - sky.cloud) + CLOUD * billow * sky.cloud + HAZE).astype(np.float32)
    image += rng.standard_normal(image.shape, dtype=np.float32) * 0.0022
    digital = np.clip(np.round(image * 10_000), 1, 10_000).astype(np.uint16)
    if blank_clouds:
        digital[:, sky.cloud > 0.72] = 0
    return digital


def see_radar(rng: np.random.Generator, ground: Ground, cover: Cover) -> Float:
    """Simulate VV and VH in dB (2, H // 2, W // 2): pixels of twice the size, few looks."""
    means = np.array([(s.vv_db, s.vh_db) for s in SURFACES], np.float32)
    spread = np.array([s.spread_db for s in SURFACES], np.float32)
    db = np.moveaxis(means[cover.surface], -1, 0) + spread[cover.surface] * cover.level
    db += 0.8 * fractal(rng, cover.surface.shape, hurst=0.5, wavelength_px=30)
    facing = _light(ground.height, RADAR_AZIMUTH_DEG, RADAR_INCIDENCE_DEG)
    power = 10 ** (db / 10) * np.clip(facing, 0.3, 2.2) ** 1.5
    rows, cols = (n // 2 for n in cover.surface.shape)
    coarse = power[:, : 2 * rows, : 2 * cols].reshape(2, rows, 2, cols, 2).mean(axis=(2, 4))
    speckle = rng.gamma(LOOKS, 1 / LOOKS, coarse.shape).astype(np.float32)
    return np.asarray(10 * np.log10(np.maximum(coarse * speckle, 1e-5)), np.float32)


def see_surface(rng: np.random.Generator, ground: Ground, cover: Cover) -> Float:
    """Simulate the surface height in metres (1, H, W): terrain with roofs and tree crowns."""
    surface = blur(ground.height, 0.6) + blur(cover.raised, 0.45)
    noise = 0.25 * rng.standard_normal(surface.shape, dtype=np.float32)
    return np.asarray(np.where(ground.water, ground.height, surface + noise), np.float32)[None]


def _mix(palette: str, position: Float) -> Float:
    rows = np.array(PALETTES[palette], np.float32)  # type: ignore[index]
    place = position * (len(rows) - 1)
    below = np.minimum(place.astype(int), max(len(rows) - 2, 0))
    above = np.minimum(below + 1, len(rows) - 1)
    part = (place - below)[:, None]
    return np.asarray((rows[below] * (1 - part) + rows[above] * part).T)


def _light(height: Float, azimuth_deg: float, zenith_deg: float) -> Float:
    """Return the cosine of the incidence angle on the slope, relative to level ground (H, W)."""
    d_row, d_col = np.gradient(blur(height, 0.7) / PIXEL_M)
    azimuth, zenith = np.deg2rad(azimuth_deg), np.deg2rad(zenith_deg)
    # Rows run south and columns east; a slope lit from the azimuth faces it.
    toward = d_row * np.cos(azimuth) - d_col * np.sin(azimuth)
    cosine = (np.cos(zenith) + np.sin(zenith) * toward) / np.sqrt(1 + d_row**2 + d_col**2)
    return np.asarray(np.maximum(cosine, 0) / np.cos(zenith), np.float32)
