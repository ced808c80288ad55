"""Values of another scale at prediction: seeded mismatches found, and false alarms on real sets.

Statistics come from real rasters as a run would store them; a crop of another real scene is then
written in another scale and compared with them. Nothing is trained.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.data import ReadingRules, Scene, compute_statistics, scene_from_rasters
from terrafuse.data.value_scale import ScaleFinding, compare_values, sample_values
from terrafuse.modalities import BandStatistics, Modality, ModalityKind

Values = NDArray[np.float64]
#: Rows and columns of the crops that mismatches are written in.
CROP = 96


@dataclass(frozen=True)
class RealSet:
    """Real scenes of one sensor, in one scale.

    Args:
        name: Of the set.
        kind: Of its one modality.
        nodata: Of its files, where they have no tag.
        train: Files to learn from.
        other: Other places, seasons and events.
        pairs: Whether every scene is also compared with every other by itself.
    """

    name: str
    kind: ModalityKind
    train: tuple[Path, ...]
    other: tuple[Path, ...]
    nodata: float | None = None
    pairs: bool = False


def find_sets(root: Path) -> list[RealSet]:
    """The sets under the folder of real data, as far as they are there."""

    def files(pattern: str) -> tuple[Path, ...]:
        return tuple(sorted(root.glob(pattern)))

    found = []
    for sensor in ("s1", "s2"):
        for when in ("before", "after"):
            name = f"{sensor}_{when}"
            every = files(f"ombria_flood/{name}/*.png")
            found.append(
                RealSet(f"ombria {name}", "sar" if sensor == "s1" else "optical", every[::4],
                        every[2::4] + files(f"ombria_events/{name}/*.png"))
            )  # fmt: skip
    for new, old in (("naip_new", "naip_old"), ("landsat_leaf_on", "landsat_leaf_off")):
        other = files(f"chesapeake_wv/test/{new}/*.tif")
        other += files(f"chesapeake_wv/*/{old}/*.tif") + files(f"chesapeake_wv/scene/{new}.tif")
        train = files(f"chesapeake_wv/train/{new}/*.tif")
        found.append(RealSet(f"chesapeake {new}", "optical", train, other, pairs=True))
    vnir = files("enmap_potsdam/vnir/*.tif")
    found.append(RealSet("enmap vnir", "optical", vnir[::2], vnir[1::2], -32768, pairs=True))
    # Southern Chile is left out: it has the offset of 1000, which is a mismatch.
    s2 = tuple(p for p in files("terramesh_s1_s2_dem/S2L2A/*.tif") if "433D" not in p.name)
    chile = tuple(p for p in files("terramesh_s1_s2_dem/S2L2A/*.tif") if "433D" in p.name)
    found.append(RealSet("terramesh s2", "optical", s2[:1], s2[1:], 0, pairs=True))
    # Trained on both kinds, the scene of neither is strange.
    found.append(RealSet("terramesh s2, mixed", "optical", s2 + chile, s2 + chile, 0))
    s1 = files("terramesh_s1_s2_dem/S1RTC/*.tif") + files("sen1floods11_chip/S1Hand/*.tif")
    found.append(RealSet("terramesh and sen1floods s1", "sar", s1[:1], s1[1:], pairs=True))
    dem = files("terramesh_s1_s2_dem/DEM/*.tif") + files("slovenia_s2_dem/dem.tif")
    dem += files("alexandria_dsm_buildings/d?m.tif")
    found.append(RealSet("heights", "elevation", dem[:1], dem[1:], pairs=True))
    dates = files("slovenia_s2_dem/s2_l1c/*.tif")
    found.append(RealSet("slovenia s2", "optical", dates[:2], dates[2:], pairs=True))
    return [item for item in found if item.train and item.other]


def open_real(item: RealSet, paths: tuple[Path, ...]) -> list[Scene]:
    """A scene per file."""
    count = len(_read(paths[0]))
    modality = Modality("m", tuple(f"b{i}" for i in range(count)), kind=item.kind)
    return [open_file(modality, path, item.nodata) for path in paths]


def _read(path: Path) -> NDArray[np.generic]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            values: NDArray[np.generic] = dataset.read()
    return values


def open_file(modality: Modality, path: Path, nodata: float | None) -> Scene:
    """A scene of one file."""
    rules = {modality.name: replace(ReadingRules.for_kind(modality.kind), nodata=nodata)}
    return scene_from_rasters([modality], {modality.name: path}, sources=rules, id=path.stem)


def compare(statistics: BandStatistics, scene: Scene) -> ScaleFinding:
    """A scene with the statistics of others."""
    return compare_values(scene.modalities[0], statistics, sample_values(scene)["m"])


def false_alarms(item: RealSet) -> Iterator[tuple[str, ScaleFinding]]:
    """Every comparison of right scenes of a set: what was compared, and the result."""
    train, other = open_real(item, item.train), open_real(item, item.other)
    statistics = compute_statistics(train, train[0].modalities)["m"]
    for scene in other:
        yield f"{item.name}: training → {scene.id}", compare(statistics, scene)
    if item.pairs:
        both = train + other
        alone = {s.id: compute_statistics([s], s.modalities)["m"] for s in both}
        for one, two in permutations(both, 2):
            yield f"{item.name}: {one.id} → {two.id}", compare(alone[one.id], two)


@dataclass(frozen=True)
class Mismatch:
    """A scene in another scale than its training.

    Args:
        name: What happened.
        of: Part of the name of the sets it happens to.
        trained: Values as in the file → values that training saw.
        mapped: Values as in the file → values that the scene has.
        dtype: Of the scene's file.
        tag: Its scale tag.
    """

    name: str
    of: tuple[str, ...]
    mapped: Callable[[Values], Values]
    trained: Callable[[Values], Values] = lambda x: x
    dtype: str = "float32"
    tag: float | None = None


def _stretch(most: float) -> Callable[[Values], Values]:
    def stretch(x: Values) -> Values:
        low, high = np.nanpercentile(x, (2, 98), axis=(1, 2), keepdims=True)
        return np.clip((x - low) / np.maximum(high - low, 1e-6) * (most - 1) + 1, 1, most)

    return stretch


_LIGHT = ("terramesh s2", "chesapeake landsat", "enmap")
_BYTES = ("ombria s2", "chesapeake naip")
_RADAR = ("terramesh and sen1floods s1",)
#: 10 ** (x / 10).
_POWER: Callable[[Values], Values] = lambda x: 10 ** (x / 10)  # noqa: E731
_DB_OF: Callable[[Values], Values] = lambda x: 10 * np.log10(np.maximum(x, 1))  # noqa: E731

MISMATCHES = (
    Mismatch("reflectance 0–1 for × 10000", _LIGHT, lambda x: x / 1e4),
    Mismatch("a scale tag that training lacked", _LIGHT, lambda x: x, dtype="int16", tag=1e-4),
    Mismatch("8 bit of 0–10000", _LIGHT, lambda x: np.clip(x / 1e4 * 255, 1, 255), dtype="uint8"),
    Mismatch("8 bit stretched band by band", _LIGHT, _stretch(255), dtype="uint8"),
    Mismatch("8 bit of 0–10000 in float files", _LIGHT, lambda x: np.clip(x / 1e4 * 255, 1, 255)),
    Mismatch("decibels of numbers", _LIGHT, _DB_OF),
    Mismatch("16 bit stretched", _LIGHT, _stretch(65535), dtype="uint16"),
    Mismatch("Landsat Collection 2 numbers", _LIGHT, lambda x: (x / 1e4 + 0.2) / 2.75e-5),
    Mismatch("percent for × 10000", _LIGHT, lambda x: x / 100),
    Mismatch("offset of 1000", ("terramesh s2",), lambda x: x + 1000, dtype="uint16"),
    Mismatch("offset of 0.1", ("slovenia",), lambda x: x + 0.1),
    Mismatch("offset of 1000 in training only", ("terramesh s2",), lambda x: x, lambda x: x + 1000),
    Mismatch("× 10000 for reflectance 0–1", ("slovenia",), lambda x: x * 1e4, dtype="uint16"),
    Mismatch("8 bit for reflectance 0–1", ("slovenia",), _stretch(255), dtype="uint8"),
    Mismatch("percent for reflectance 0–1", ("slovenia",), lambda x: x * 100),
    Mismatch("0–1 for bytes", _BYTES, lambda x: x / 255),
    Mismatch("16 bit for bytes", _BYTES, lambda x: x * 257, dtype="uint16"),
    Mismatch("power for decibels", _RADAR, _POWER),
    Mismatch("amplitude for decibels", _RADAR, lambda x: 10 ** (x / 20)),
    Mismatch("numbers for decibels", _RADAR, lambda x: 400 * 10 ** (x / 20), dtype="uint16"),
    Mismatch("8 bit for decibels", _RADAR, _stretch(255), dtype="uint8"),
    Mismatch("decibels × 100", _RADAR, lambda x: 100 * x, dtype="int16"),
    Mismatch("decibels for power", _RADAR, lambda x: x, _POWER),
    Mismatch("numbers for power", _RADAR, lambda x: 4000 * 10 ** (x / 20), _POWER, "uint16"),
    Mismatch("0–1 for radar bytes", ("ombria s1",), lambda x: x / 255),
    Mismatch("centimetres for metres", ("heights",), lambda x: x * 100),
)  # fmt: skip


def seed_mismatch(
    item: RealSet, mismatch: Mismatch, seed: int, folder: Path
) -> tuple[BandStatistics, Scene]:
    """Statistics of one scene of a set, and a crop of another one with the mismatch."""
    rng = np.random.default_rng([seed, *mismatch.name.encode()])
    paths = item.train + item.other
    one, two = rng.choice(len(paths), 2, replace=False)
    train = _write(item, paths[one], folder / "train.tif", mismatch.trained, None, None, None)
    scene = _write(
        item, paths[two], folder / "scene.tif", mismatch.mapped, mismatch.dtype, mismatch.tag, rng
    )
    return compute_statistics([train], train.modalities)["m"], scene


def _write(
    item: RealSet,
    path: Path,
    target: Path,
    change: Callable[[Values], Values],
    dtype: str | None,
    tag: float | None,
    rng: np.random.Generator | None,
) -> Scene:
    """A raster of changed values, all of it or a crop; 0 or NaN has no data."""
    raw = _read(path)
    if rng is not None:
        row, col = (int(rng.integers(0, max(1, n - CROP + 1))) for n in raw.shape[1:])
        raw = raw[:, row : row + CROP, col : col + CROP]
    values = raw.astype(np.float64)
    hidden = np.isnan(values) | (values == (np.nan if item.nodata is None else item.nodata))
    values[hidden] = np.nan
    values = change(values)
    kept = np.dtype(dtype or ("float32" if change(np.ones((1, 1, 1)))[0, 0, 0] != 1 else raw.dtype))
    is_float = kept.kind == "f"
    nodata = np.nan if is_float else None if kept == np.uint8 and not hidden.any() else 0
    if not is_float:
        limits = np.iinfo(kept)
        values = np.clip(np.round(np.nan_to_num(values, nan=0)), limits.min, limits.max)
    profile = {"driver": "GTiff", "dtype": kept.name, "nodata": nodata, "crs": "EPSG:32633",
               "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), "count": len(values),
               "height": values.shape[1], "width": values.shape[2]}  # fmt: skip
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.write(values.astype(kept))
        if tag is not None:
            dataset.scales = (tag,) * len(values)
    modality = Modality("m", tuple(f"b{i}" for i in range(len(values))), kind=item.kind)
    return open_file(modality, target, None)


def cases(sets: Sequence[RealSet]) -> Iterator[tuple[Mismatch, RealSet]]:
    """Every mismatch with every set it happens to."""
    for mismatch in MISMATCHES:
        for item in sets:
            if item.name.startswith(mismatch.of) and "mixed" not in item.name:
                yield mismatch, item


def try_case(item: RealSet, mismatch: Mismatch, seed: int) -> tuple[ScaleFinding, bool]:
    """What is said of a seeded mismatch, and whether the conversion it names brings it back."""
    with tempfile.TemporaryDirectory() as name:
        statistics, scene = seed_mismatch(item, mismatch, seed, Path(name))
        finding = compare(statistics, scene)
        mended = False
        if finding.conversion is not None:
            converted = scene.convert_values({"m": finding.conversion})
            mended = compare(statistics, converted).verdict != "other scale"
        scene.close()
    return finding, mended


def print_scales(root: Path, seeds: range) -> None:
    """Both tables, as Markdown."""
    sets = find_sets(root)
    print("| values of the scene | set | refused | warned | silent | conversion helps |")
    print("|---|---|---|---|---|---|")
    total = found = 0
    for mismatch, item in cases(sets):
        results = [try_case(item, mismatch, seed) for seed in seeds]
        verdicts = [finding.verdict for finding, _ in results]
        total += len(verdicts)
        found += len(verdicts) - verdicts.count("ok")
        shown = [verdicts.count(word) for word in ("other scale", "doubtful", "ok")]
        shown.append(sum(mended for _, mended in results))
        print(f"| {mismatch.name} | {item.name} | {' | '.join(map(str, shown))} |")
    print(f"\n{found} of {total} seeded mismatches found ({found / total:.1%}).\n")
    print("| real set | comparisons | refused | warned |\n|---|---|---|---|")
    for item in sets:
        every = list(false_alarms(item))
        refused = [(name, f) for name, f in every if f.verdict == "other scale"]
        warned = [(name, f) for name, f in every if f.verdict == "doubtful"]
        print(f"| {item.name} | {len(every)} | {len(refused)} | {len(warned)} |")
        for name, finding in (refused + warned)[:5]:
            print(f"  {finding.verdict}: {name}: {finding.reason}")
