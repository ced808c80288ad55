"""Land cover of the synthetic ground: wetland, forest, fields, roads, settlements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from terrafuse.landscape.ground import Ground, make_route_graph
from terrafuse.landscape.mosaic import Quilt, make_quilt
from terrafuse.landscape.noise import (
    Bool,
    Byte,
    Float,
    Int,
    draw,
    fractal,
    hash_unit,
    smooth_line,
    smoothstep,
)
from terrafuse.landscape.surfaces import SURFACES, index_of

SHARE_WETLAND = 0.075
SHARE_FOREST = 0.21
SHARE_THICKET = 0.035
SHARE_SYNERGY = 0.7  # of the parcels


@dataclass(frozen=True)
class Cover:
    """Land cover; arrays (H, W).

    Args:
        surface: Index into `SURFACES`, uint8.
        tint: Position in the surface's palette, 0 to 1.
        shade: Brightness factor of the object (parcel, roof, stand).
        level: Offset of the object's backscatter from its surface's mean, in standard deviations.
        raised: Height above the ground in metres.
        texture: Furrows and mowing lines, about -1 to 1.
    """

    surface: Byte
    tint: Float
    shade: Float
    level: Float
    raised: Float
    texture: Float


def make_cover(rng: np.random.Generator, ground: Ground, *, synergy: bool = False) -> Cover:
    """Cover the ground, first with what nature decides, then with what people build.

    Args:
        synergy: Grow wheat and rape on most fields; everything else is unchanged.
    """
    size = ground.height.shape[0]
    salt = int(rng.integers(1 << 31))
    fields = make_quilt(rng, size, block_px=56, width_px=(7, 15), length_px=(16, 44), warp_px=2.5)
    surface = _choose_crops(fields, ground, salt, synergy)
    objects = fields.cell + 1

    wood, thicket = _grow_forest(rng, ground, fields)
    reed = _flood(rng, ground) & ~wood
    for mask, name, base, kin in (
        (thicket, "thicket", 1_000_000, fields.cell),
        (wood, "high wood", 2_000_000, fields.cell),
        (reed, "flooded reed", 3_000_000, fields.block),
    ):
        surface[mask] = index_of(name)
        objects[mask] = base + kin[mask]
    surface[ground.water] = index_of("open water")
    objects[ground.water] = 0

    places = _choose_places(rng, ground, reed | ground.water)
    roads = _build_roads(rng, ground, places, fields)
    surface[roads] = index_of("road")
    _settle(rng, ground, places, surface, objects)
    return _dress(rng, surface, objects, fields, salt)


def _choose_crops(fields: Quilt, ground: Ground, salt: int, synergy: bool) -> Byte:
    # Whether a parcel is arable depends on the ground; its state never does: what each sensor sees
    # (green or brown, smooth or rough) is uninformative about the class without the other.
    arable_here = np.clip(0.78 - 1.1 * ground.slope, 0.2, 0.8)
    mean = ndimage.mean(arable_here, fields.cell, np.arange(fields.cell.max() + 1))
    cells = np.arange(len(mean))
    arable = hash_unit(cells, salt=salt) < mean
    green = hash_unit(cells, salt=salt + 1) < 0.5
    table = np.where(
        arable,
        np.where(green, index_of("crop in leaf"), index_of("seedbed")),
        np.where(green, index_of("short sward"), index_of("dry tussocks")),
    )
    if synergy:
        # Regardless of the ground: each pair of colour and backscatter on a quarter of the parcels.
        yellow = hash_unit(cells, salt=salt + 20) < 0.5
        bright = hash_unit(cells, salt=salt + 21) < 0.5
        crops = np.where(
            yellow,
            np.where(bright, index_of("rape in flower"), index_of("ripe wheat")),
            np.where(bright, index_of("wheat in shoot"), index_of("rape rosettes")),
        )
        table = np.where(hash_unit(cells, salt=salt + 22) < SHARE_SYNERGY, crops, table)
    return table.astype(np.uint8)[fields.cell]


def _grow_forest(rng: np.random.Generator, ground: Ground, fields: Quilt) -> tuple[Bool, Bool]:
    size = ground.height.shape[0]
    ragged = fractal(rng, ground.height.shape, hurst=0.55, wavelength_px=size / 6)
    rank = ground.height - ground.height.mean()
    score = 0.5 * rank / (rank.std() + 1e-6) + 7 * (ground.slope - ground.slope.mean()) + ragged
    # Forest follows parcels: the score is partly that of the whole field.
    mean = ndimage.mean(score, fields.cell, np.arange(fields.cell.max() + 1))
    score = 0.55 * score + 0.45 * mean[fields.cell]
    score[ground.to_water < 3] -= 1
    low, high = np.quantile(score, (1 - SHARE_FOREST - SHARE_THICKET, 1 - SHARE_FOREST))
    wood, young = score > high, score > low
    # Young growth also fills whole parcels here and there.
    salt = int(rng.integers(1 << 31))
    young |= (hash_unit(fields.cell, salt=salt) < 0.04) & (fields.across > 0.8)
    # Hedges between some fields; trees along brooks and rivers.
    hedge = (np.minimum(fields.across, fields.along) < 1.1) & (
        hash_unit(fields.cell, salt=salt + 1) < 0.22
    )
    brook = (ground.to_brook < 1.7) & (ragged > -0.6)
    bank = (ground.to_water < 3.2) & (ground.to_lake > 9) & (ragged > 0.2)
    wood = ndimage.binary_opening(wood, iterations=1) | hedge | brook | bank
    return wood & ~ground.water, young & ~wood & ~ground.water


def _flood(rng: np.random.Generator, ground: Ground) -> Bool:
    size = ground.height.shape[0]
    ragged = fractal(rng, ground.height.shape, hurst=0.6, wavelength_px=size / 10)
    score = (
        ground.above_water / 2.5
        + ground.to_lake / (0.10 * size)
        + ground.to_water / (0.05 * size)
        + 0.55 * ragged
    )
    land = score[~ground.water]
    return np.asarray((score < np.quantile(land, SHARE_WETLAND)) & ~ground.water)


@dataclass(frozen=True)
class Place:
    """A town or village.

    Args:
        row: Row of its centre.
        col: Column of its centre.
        radius: Radius in pixels.
    """

    row: float
    col: float
    radius: float


def _choose_places(rng: np.random.Generator, ground: Ground, wet: Bool) -> list[Place]:
    size = ground.height.shape[0]
    # Level, dry, near the river but not in it.
    score = (
        12 * ndimage.gaussian_filter(ground.slope, size / 60)
        + np.abs(ground.to_water / size - 0.09) * 5
    )
    score += 9 * (ndimage.gaussian_filter(wet.astype(np.float32), size / 25) > 0.12)
    score += 0.25 * fractal(rng, ground.height.shape, hurst=0.7, wavelength_px=size / 3)
    rows, cols = np.mgrid[:size, :size]
    edge = np.minimum(np.minimum(rows, cols), size - 1 - np.maximum(rows, cols))
    places: list[Place] = []
    for share in (0.145, 0.075, 0.06, 0.05):
        radius = share * size
        free = score + 99 * (edge < 1.15 * radius)
        for place in places:
            gap = np.hypot(rows - place.row, cols - place.col)
            free = free + 99 * (gap < 1.5 * (place.radius + radius))
        row, col = divmod(int(np.argmin(free)), size)
        places.append(Place(row, col, radius))
    return places


def _build_roads(
    rng: np.random.Generator, ground: Ground, places: list[Place], fields: Quilt
) -> Bool:
    size = ground.height.shape[0]
    # Roads avoid slopes, cross rivers where they must, and go round the lake.
    wet = np.where(ground.to_lake < 4, 30.0, 1.5 * (ground.to_water < 2))
    routes = make_route_graph(rng, (0.06 + 1.6 * ground.slope + wet).astype(np.float32))
    n = routes.size
    town = routes.node(places[0].row, places[0].col)
    targets = [routes.node(p.row, p.col) for p in places[1:]]
    west, east, north = (int(x) for x in rng.integers(n // 5, n - n // 5, 3))
    targets += [west * n, east * n + n - 1, north]
    main = np.zeros((size, size), bool)
    for target in targets:
        line = routes.line(routes.way(town, target))
        outward = line[-1] + (line[-1] - line[-2]) * 12
        line = np.concatenate([line, [outward]]) if target in targets[-3:] else line
        smooth = smooth_line(line, 1.8)
        main |= draw(main.shape, smooth) | draw(main.shape, smooth + 0.7)  # two pixels wide
    tracks = (fields.border < 0.6) & (hash_unit(fields.block, salt=7) < 0.5)
    tracks &= (ground.to_water > 4) & (ground.slope < 0.35)
    return np.asarray((main | tracks) & (ground.to_lake > 0))


def _settle(
    rng: np.random.Generator, ground: Ground, places: list[Place], surface: Byte, objects: Int
) -> None:
    size = surface.shape[0]
    rows, cols = np.mgrid[:size, :size].astype(np.float32)
    ragged = fractal(rng, (size, size), hurst=0.7, wavelength_px=size / 10)
    lots = make_quilt(
        rng, size, block_px=52, width_px=(12.5, 15.0), length_px=(8.0, 15.0), warp_px=1.5
    )
    halls = make_quilt(rng, size, block_px=60, width_px=(11, 14), length_px=(15, 24), warp_px=0.6)
    dry = (ground.to_water > 2.5) & (surface != index_of("flooded reed"))
    road = surface == index_of("road")
    east = rng.uniform(-2, 2)
    for number, place in enumerate(places):
        reach = np.hypot(rows - place.row, cols - place.col) / place.radius + 0.13 * ragged
        inside = (reach < 1) & dry & ~road
        angle = np.arctan2(rows - place.row, cols - place.col)
        works = inside & (number == 0) & (reach > 0.45) & (np.abs(angle - east) < 0.7)
        dense = np.clip(1.5 - 0.75 * reach, 0, 1)
        _build(inside & ~works, lots, (1.2, 5.3), dense, surface, objects, 4_000_000)
        _build(works, halls, (1.8, 9.0), np.full_like(reach, 0.9), surface, objects, 5_000_000)


def _build(
    area: Bool,
    lots: Quilt,
    row_px: tuple[float, float],
    density: Float,
    surface: Byte,
    objects: Int,
    base: int,
) -> None:
    """Build streets, gardens and rows of houses on the lots of an area."""
    cells = np.arange(lots.cell.max() + 1)
    dense = ndimage.mean(density, lots.cell, cells)
    built = (hash_unit(cells, salt=base) < dense)[lots.cell]
    street = area & ((lots.across < 0.6) | (lots.border < 0.7))
    garden = area & ~street & (surface != index_of("high wood"))
    surface[garden] = index_of("short sward")
    objects[garden] = base + 500_000 + lots.block[garden]
    surface[street] = index_of("road")
    front = row_px[0] * (0.9 + 0.4 * hash_unit(lots.cell, salt=base + 1))
    back = row_px[1] * (0.8 + 0.4 * hash_unit(lots.cell, salt=base + 2))
    house = area & built & (lots.across > front) & (lots.across < back) & (lots.along > 0.7)
    house = ndimage.binary_opening(house, np.ones((2, 2)))
    surface[house] = index_of("roof")
    objects[house] = base + lots.cell[house]


def _dress(
    rng: np.random.Generator, surface: Byte, objects: Int, fields: Quilt, salt: int
) -> Cover:
    shape = surface.shape
    within = fractal(rng, shape, hurst=0.6, wavelength_px=40)
    fine = fractal(rng, shape, hurst=0.1, wavelength_px=6)
    tint = np.clip(hash_unit(objects, salt=salt + 2) + 0.07 * within, 0, 1)
    shade = 0.9 + 0.2 * hash_unit(objects, salt=salt + 3) + 0.03 * within
    # The sum of three uniform draws is close enough to a normal distribution.
    draws = sum(hash_unit(objects, salt=salt + 4 + i) for i in range(3))
    level = np.asarray(2 * draws - 3, np.float32)

    low, high = np.array([s.height_m for s in SURFACES], np.float32).T
    trees = np.isin(surface, [index_of("high wood"), index_of("thicket")])
    height = low[surface] + (high - low)[surface] * hash_unit(objects, salt=salt + 8)
    height = np.where(trees, height * (1 + 0.13 * fine), height)
    worked = smoothstep(np.minimum(fields.across, fields.along), 0.3, 1.2)
    period = 2.6 + 2.2 * hash_unit(fields.cell, salt=salt + 9)
    furrows = np.sin(2 * np.pi * fields.row / period) * worked
    texture = np.where(objects < 1_000_000, furrows, 0) * (
        0.3 + 0.7 * hash_unit(objects, salt=salt)
    )
    return Cover(
        surface=surface.astype(np.uint8),
        tint=tint.astype(np.float32),
        shade=shade.astype(np.float32),
        level=level,
        raised=np.where(height > 0, height, 0).astype(np.float32),
        texture=(texture + 0.8 * fine).astype(np.float32),
    )
