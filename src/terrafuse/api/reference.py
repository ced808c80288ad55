"""Commands on reference samples: sample, areas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, DataError, unknown_name
from terrafuse.evaluation import (
    ANY_CLASS,
    AreaEstimates,
    LabelledPixels,
    Strata,
    allocate,
    estimate_areas,
    expected_accuracies,
    expected_standard_error,
    planned_size,
)
from terrafuse.maps import (
    ClassRaster,
    SampleFile,
    Stratum,
    classes_at,
    count_strata,
    draw_pixels,
    open_class_raster,
    read_labels,
    read_sample,
    write_sample,
)
from terrafuse.prediction import PixelAreas
from terrafuse.prediction.class_values import ABSTAINED_NAME
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX
from terrafuse.stopping import when_stopped
from terrafuse.writing import claimed, refuse_inputs, refuse_special, written_whole

_STOPPED = "nothing was written; run the same command again"
#: Files of `areas` in its folder.
ESTIMATES_CSV, MATRIX_CSV = "area_estimates.csv", "error_matrix.csv"
ESTIMATES_JSON, FIGURE = "area_estimates.json", "area_estimates.png"
#: Share of points without label that is left out without being asked to.
MOST_UNLABELLED = 0.1
_SUFFIX = ".gpkg"
Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class DrawnSample:
    """A sample that `sample` has drawn.

    Args:
        path: The file.
        points: Drawn of each class of the map, and of what was abstained from.
        standard_error: That of the overall accuracy, if the map is as accurate as expected.
        notes: What a reader should know of the strata.
    """

    path: Path
    points: Mapping[str, int]
    standard_error: float
    notes: tuple[str, ...]


def sample(
    path: str | Path,
    out: str | Path,
    *,
    points: int | None = None,
    margin: float | None = None,
    allocation: str = "good-practice",
    minimum: int | None = None,
    expected: float | Mapping[str, float] | None = None,
    seed: int = 0,
    blind: bool = False,
    also: Sequence[str] = (),
    classes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> DrawnSample:
    """Draw a stratified random sample of the pixels of a class map, to be labelled.

    The strata are the classes of the map; pixels that it abstains from are one more, and no data is
    in none. Within a stratum every pixel has the same chance. The map is read twice, strip by
    strip.

    Args:
        path: A class map of ours or its folder, or a raster of one band that names its classes.
        out: GeoPackage to write (.gpkg). One that holds labels is not replaced.
        points: How many; or give `margin`.
        margin: Target standard error of the overall accuracy, from which their number follows.
        allocation: "good-practice" (in proportion to area, and 50 of every class at least, or
            half of an equal share where there are few), "proportional", "equal", "neyman".
        minimum: Points of every class at least, instead of the allocation's.
        expected: Share of what is mapped that is expected to be right, for all classes or by class;
            0.8 where nothing is said. For `margin` and "neyman".
        seed: The same seed draws the same points of the same map.
        blind: True: the points do not say their class on the map, so that it influences nobody.
        also: Names of classes that the map does not have and a label may be.
        classes: Name → pixel value, where the raster does not say so; other values are no class.
        progress: Called with (rows read, twice the rows of the map).

    Raises:
        ConfigError: A setting is wrong.
        DataError: It is no class map, or nothing in it has a class.
        OutputError: The file cannot be written, holds labels, or is no sample.
    """
    out = Path(out)
    if out.suffix.lower() != _SUFFIX:
        raise ConfigError(unknown_name("ending of a file of points", out.suffix, [_SUFFIX]))
    if (points is None) == (margin is None):
        raise ConfigError("give the number of points (-n) or a target (--margin), one of them")
    with when_stopped(_STOPPED):
        raster = open_class_raster(path, classes=classes)
        refuse_special(out)
        refuse_inputs([out], [raster.path])
        names = _label_names(raster, also)
        strata = count_strata(raster, _half(progress, 0))
        used = np.flatnonzero([one.pixels > 0 for one in strata])
        if not used.size:
            raise DataError(f"no pixel of '{raster.path}' has a class: there is nothing to sample")
        weights, population = _sizes([strata[h] for h in used])
        accuracies = _expected(raster, strata, used, expected)
        if margin is not None:
            points = planned_size(weights, accuracies, margin, int(population.sum()))
        assert points is not None
        chosen = allocate(
            weights, population, points, allocation, accuracies=accuracies, minimum=minimum
        )
        counts = np.zeros(len(strata), np.int64)
        counts[used] = chosen
        drawn = draw_pixels(raster, strata, counts.tolist(), seed=seed, progress=_half(progress, 1))
        about = {
            "map": str(raster.path), "points": points, "allocation": allocation, "seed": seed,
            "blind": blind,
        }  # fmt: skip
        file = SampleFile(raster.grid, strata, raster.abstains, names, drawn, about)
        write_sample(out, file, blind=blind)
    return DrawnSample(
        out,
        dict(zip((one.name for one in strata), counts.tolist(), strict=True)),
        expected_standard_error(weights, accuracies, chosen, population),
        tuple(_notes_of_strata(raster, strata)),
    )


def _half(progress: Progress | None, before: int) -> Progress | None:
    """Progress of one of two passes over the map."""
    if progress is None:
        return None
    return lambda done, total: progress(before * total + done, 2 * total)


def _label_names(raster: ClassRaster, also: Sequence[str]) -> tuple[str, ...]:
    names = (*raster.names[: raster.num_classes], *(name.strip() for name in also))
    if "" in names or len(set(names)) < len(names):
        raise ConfigError(
            f"--also is '{','.join(also)}'; name classes that the map does not have, each once"
        )
    return names


def _sizes(strata: Sequence[Stratum]) -> tuple[Float, Int]:
    """Share of the area of each stratum, and its pixels."""
    areas, _ = _areas_of(strata)
    return areas / areas.sum(), np.array([one.pixels for one in strata], np.int64)


def _areas_of(strata: Sequence[Stratum]) -> tuple[Float, str]:
    """Areas of strata and their unit: pixels, where hectares are not known."""
    if any(one.hectares is None for one in strata):
        return np.array([float(one.pixels) for one in strata]), "px"
    return np.array([one.hectares for one in strata], np.float64), "ha"


def _expected(
    raster: ClassRaster,
    strata: Sequence[Stratum],
    used: Int,
    expected: float | Mapping[str, float] | None,
) -> Float:
    given = dict(expected) if isinstance(expected, Mapping) else expected
    names = [one.name for one in strata]
    abstained = [h >= raster.num_classes for h in range(len(strata))]
    return expected_accuracies(names, given, abstained)[used]


def _notes_of_strata(raster: ClassRaster, strata: Sequence[Stratum]) -> list[str]:
    found = []
    if raster.abstains and strata[-1].pixels:
        found.append(
            f"{strata[-1].pixels:,} pixels that the map abstains from are a stratum of their own"
        )
    if absent := [one.name for one in strata[: raster.num_classes] if not one.pixels]:
        found.append(f"no pixel of the map has the class {', '.join(absent)}: none is drawn")
    return found


def areas(
    path: str | Path,
    labels: str | Path,
    *,
    out: str | Path | None = None,
    classes: Mapping[str, int] | None = None,
    confidence: float = 0.95,
    most_unlabelled: float = MOST_UNLABELLED,
    progress: Progress | None = None,
) -> AreaEstimates:
    """Estimate the true area of every class, and the accuracy of a map, from a labelled sample.

    Where the sample was drawn from another map (an older one, another model's), the estimates are
    those for strata that differ from the classes of the map.

    Args:
        path: The class map.
        labels: The labelled file of `sample`.
        out: Folder for area_estimates.csv, error_matrix.csv, area_estimates.json and
            area_estimates.png.
        classes: Name → pixel value, where the raster does not say so; other values are no class.
        confidence: Of the intervals.
        most_unlabelled: Share of points that may lack a label. They are left out, as if those
            with a label were drawn alone.
        progress: Called with (rows done, rows in all).

    Raises:
        ConfigError: A setting is wrong.
        DataError: The file is no sample, a point was moved or added, or too many lack a label.
        LabelError: A label is no class.
        GridMismatchError: The points have no place on the map.
        OutputError: The folder cannot be written.
    """
    for name, value in (("confidence", confidence), ("allow-unlabelled", most_unlabelled)):
        if not 0 <= value <= 1 or (name == "confidence" and value in (0, 1)):
            raise ConfigError(f"--{name} is {value:g}; give a share between 0 and 1")
    with when_stopped(_STOPPED):
        file = read_sample(labels)
        reference = read_labels(labels, file)
        raster = open_class_raster(path, classes=classes)
        mapped_strata = count_strata(raster, progress)
        judged = _Judged.of(raster, mapped_strata, file)
        known = reference >= 0
        notes = [*judged.notes, *_tell_unlabelled(file, judged, reference, most_unlabelled, labels)]
        estimates = estimate_areas(
            judged.strata,
            LabelledPixels(
                judged.stratum[known],
                judged.mapped[known],
                judged.columns[reference[known]],
                _pixel_areas(file)[known],
            ),
            judged.names,
            others=judged.others,
            mapped_areas=judged.mapped_areas,
            unit=judged.unit,
            confidence=confidence,
            notes=notes,
        )
        if out is not None:
            _write(Path(out), estimates, [raster.path, Path(labels)])
    return estimates


@dataclass(frozen=True)
class _Judged:
    """A map as its sample sees it.

    Args:
        names: Classes, of the map and of the labels.
        others: Rows of the error matrix after them.
        columns: Position in `names` of each class that a label may be.
        strata: Those with pixels.
        stratum: Of each point (n,), among them.
        mapped: Row of the error matrix of each point (n,).
        mapped_areas: Of each class on the map.
        unit: Of areas.
        notes: What a reader should know.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]
    columns: Int
    strata: Strata
    stratum: Int
    mapped: Int
    mapped_areas: dict[str, float]
    unit: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, raster: ClassRaster, counted: Sequence[Stratum], file: SampleFile) -> _Judged:
        """Read the map at the points.

        Raises:
            DataError: Map and labels have no class in common.
            GridMismatchError: The points have no place on the map.
        """
        own = raster.names[: raster.num_classes]
        if not set(own) & set(file.classes):
            raise DataError(
                f"'{raster.path}' has the classes {', '.join(own[:10])}, and the labels "
                f"{', '.join(file.classes[:10])}: none in common. Give the map that was sampled, "
                "or another one of the same classes"
            )
        names = (*own, *(name for name in file.classes if name not in own))
        at = classes_at(raster, file.grid, file.pixels.row, file.pixels.col).astype(np.int64)
        has_outside = bool((at == IGNORE_INDEX).any())
        others = ((ABSTAINED_NAME,) if raster.abstains else ()) + (
            ("no data",) if has_outside else ()
        )
        mapped = np.where(at < raster.num_classes, at, len(names))
        mapped[at == IGNORE_INDEX] = len(names) + raster.abstains
        used = np.flatnonzero([one.pixels > 0 for one in file.strata])
        strata, stratum = [file.strata[h] for h in used], np.searchsorted(used, file.pixels.stratum)
        areas_, unit = _areas_of(strata)
        is_own = _is_sampled(raster, counted, file, at)
        rows = np.where(used < raster.num_classes, used, len(names)) if is_own else ANY_CLASS
        mapped_areas, mapped_unit = _areas_of(counted)
        columns = np.array([names.index(name) for name in file.classes], np.int64)
        return cls(
            names, others, columns,
            Strata(
                tuple(one.name for one in strata), _pixels_of(strata), areas_,
                np.broadcast_to(rows, used.shape).astype(np.int64),
            ),
            stratum, mapped,
            dict(zip(own, mapped_areas.tolist(), strict=False)) if mapped_unit == unit else {},
            unit,
            () if is_own else _tell_other_map(raster, counted, file, at),
        )  # fmt: skip


def _pixels_of(strata: Sequence[Stratum]) -> Int:
    return np.array([one.pixels for one in strata], np.int64)


def _is_sampled(raster: ClassRaster, counted: Sequence[Stratum], file: SampleFile, at: Int) -> bool:
    """Whether the sample was drawn from this map: classes have their pixels, points their class."""
    same = [(a.name, a.pixels) for a in counted] == [(b.name, b.pixels) for b in file.strata]
    return same and raster.abstains == file.abstains and bool((at == file.pixels.stratum).all())


def _tell_other_map(
    raster: ClassRaster, counted: Sequence[Stratum], file: SampleFile, at: Int
) -> tuple[str, ...]:
    names = np.array([*raster.names, *[""] * (IGNORE_INDEX + 1 - len(raster.names))], object)
    drawn = np.array([one.name for one in file.strata], object)[file.pixels.stratum]
    differ = int((names[at] != drawn).sum())
    found = [
        f"the sample was drawn from another map ('{file.about.get('map', '?')}'): {differ} of "
        f"{len(at)} points have another class on this one. The estimates are those for strata that "
        "differ from the classes of the map (Stehman 2014)"
    ]
    before, now = (int(_pixels_of(some).sum()) for some in (file.strata, counted))
    if before != now:
        found.append(
            f"areas are those of the {before:,} pixels that were sampled; mapped areas are counted "
            f"on all {now:,} pixels of this map that have a class"
        )
    return tuple(found)


def _pixel_areas(file: SampleFile) -> Float:
    """Area of each point's pixel, in m²; 1 where the ground is not known."""
    found = PixelAreas.of(file.grid)
    return found.at(file.pixels.row, file.pixels.col) if found.by else np.ones(len(file.pixels))


def _tell_unlabelled(
    file: SampleFile, judged: _Judged, reference: Int, most: float, labels: str | Path
) -> list[str]:
    """What the points without label may change; refuse too many of them."""
    lacking = reference < 0
    count, total = int(lacking.sum()), len(reference)
    if not count:
        return []
    if count == total:
        raise DataError(
            f"no point of '{labels}' has a label. Fill the column 'reference' of its layer "
            f"'points' with one of {', '.join(file.classes[:10])}"
        )
    if count > most * total:
        raise DataError(
            f"{count} of {total} points of '{labels}' have no label, more than "
            f"{100 * most:g} %. Label them, or leave them out: --allow-unlabelled "
            f"{np.ceil(100 * count / total) / 100:g}"
        )
    right = np.zeros(total, bool)
    right[~lacking] = judged.mapped[~lacking] == judged.columns[reference[~lacking]]
    weights = judged.strata.areas / judged.strata.areas.sum()
    size = np.bincount(judged.stratum, minlength=len(weights))

    def overall(hits: NDArray[np.bool_]) -> float:
        found = np.bincount(judged.stratum, hits.astype(float), minlength=len(weights))
        return float((weights * found / np.maximum(size, 1)).sum())

    least, largest = (
        overall(right),
        overall(right | (lacking & (judged.mapped < len(judged.names)))),
    )
    return [
        f"{count} of {total} points ({100 * count / total:.1f} %) have no label and are left out, "
        "as if the others of their stratum spoke for them; were all of them wrong, or all right, "
        f"the overall accuracy would be {least:.3f} or {largest:.3f}"
    ]


def _write(folder: Path, estimates: AreaEstimates, inputs: Sequence[Path]) -> None:
    from terrafuse.reports.areas import AREA_COLUMNS, area_figure, area_rows

    names = (ESTIMATES_CSV, MATRIX_CSV, ESTIMATES_JSON, FIGURE)
    paths = [folder / name for name in names]
    refuse_inputs(paths, inputs)
    matrix: list[list[Any]] = [
        ["mapped as", *(one.name for one in estimates.classes), "points"],
        *(
            [row, *shares, int(counts.sum())]
            for row, shares, counts in zip(
                estimates.rows, estimates.matrix.tolist(), estimates.counts, strict=True
            )
        ),
    ]
    tables: tuple[Iterable[Iterable[Any]], ...] = ([AREA_COLUMNS, *area_rows(estimates)], matrix)
    with claimed(folder, "areas"), written_whole(*paths) as partials:
        for partial, rows in zip(partials, tables, strict=False):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            partial.write_text(text.getvalue(), encoding="utf-8")
        plain = json.dumps(estimates.to_dict(), indent=2, ensure_ascii=False)
        partials[2].write_text(plain + "\n", encoding="utf-8")
        area_figure(estimates).savefig(partials[3])
