"""Does a map show where one of its rasters ended?

    python benchmarks/seam.py runs/fusion --modality optical [--split test] [--edges 7]
        [--figure seam.png]

Scenes of the run's data set are mapped with the raster of one modality cut off at a column, at
several columns in turn, and once with it whole and once without it. Along columns it is counted how
often neighbouring pixels are of different classes: at a seam, more often than elsewhere. A model
maps differently with and without a sensor, which no care can hide: "side by side" sets the left of
the whole map beside the right of that without. A map of the cut raster should show no more.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import rasterio
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rasterio.windows import Window

from scores import machine
from terrafuse import api
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.prediction import read_class_map
from terrafuse.reports import class_map_image
from terrafuse.reports.figures import INK, SERIES, STYLE

Map = NDArray[np.uint8]
#: Columns on either side of an edge that are looked at.
REACH = 48


@dataclass(frozen=True)
class Maps:
    """Maps of a scene (H, W).

    Args:
        column: First column without the modality.
        whole: With it everywhere.
        without: Without it.
        cut: With it left of the column.
    """

    column: int
    whole: Map
    without: Map
    cut: Map

    @property
    def side_by_side(self) -> Map:
        """The whole one left of the column, that without right of it."""
        return np.hstack([self.whole[:, : self.column], self.without[:, self.column :]])


def change_rate(class_map: Map, column: int) -> NDArray[np.float64]:
    """Share of rows where the class changes between columns, around an edge (2 · REACH + 1)."""
    part = class_map[:, column - REACH - 1 : column + REACH + 1]
    rate: NDArray[np.float64] = (part[:, 1:] != part[:, :-1]).mean(axis=0)
    return rate


def cut_raster(source: Path, target: Path, columns: int) -> None:
    """A copy of the first columns."""
    with rasterio.open(source) as dataset:
        values = dataset.read(window=Window(0, 0, columns, dataset.height))
        profile = dataset.profile | {"width": columns}
        scales, offsets = dataset.scales, dataset.offsets
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.write(values)
        dataset.scales, dataset.offsets = scales, offsets


def map_scene(run: api.Run, dataset: Manifest, id: str, modality: str, raster: Path | None) -> Map:
    """The class map where a modality has another raster, or none."""
    values = dataset.to_dict() | {"root": str(dataset.folder), "grid": "labels"}
    values["modalities"][modality]["required"] = False
    values["scenes"] = [scene for scene in values["scenes"] if scene["id"] == id]
    values["scenes"][0].pop(modality)
    if raster is not None:
        values["scenes"][0][modality] = str(raster)
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(values, Path(folder) / "dataset.yaml")
        products = run.predict(Path(folder) / "map", scene=f"{manifest}#{id}")
        return read_class_map(products.class_map)


def maps_of(run: api.Run, dataset: Manifest, split: str, modality: str, edges: int) -> list[Maps]:
    """Maps of all scenes of a split, at evenly spaced edges."""
    found = []
    for entry in dataset.entries:
        if entry.split != split:
            continue
        raster = dataset.folder / entry.rasters[modality][0]
        whole = map_scene(run, dataset, entry.id, modality, raster)
        without = map_scene(run, dataset, entry.id, modality, None)
        with rasterio.open(raster) as opened:
            scale = whole.shape[1] / opened.width
        for edge in range(1, edges + 1):
            columns = round(edge * whole.shape[1] / (edges + 1) / scale)
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / raster.name
                cut_raster(raster, target, columns)
                cut = map_scene(run, dataset, entry.id, modality, target)
            found.append(Maps(round(columns * scale), whole, without, cut))
    return found


def draw(maps: Sequence[Maps], rates: dict[str, NDArray[np.float64]], run: api.Run) -> Figure:
    """The middle edge's maps, and the rate of changes around all edges."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.4])
    middle = maps[0].whole.shape[1] / 2
    shown = min(maps, key=lambda m: abs(m.column - middle))
    pictures = {"whole": shown.whole, "cut off": shown.cut, "without": shown.without}
    for ax, (title, class_map) in zip(axes, pictures.items(), strict=False):
        height, width = class_map.shape
        ax.imshow(class_map_image(class_map, run.info.scheme))
        ax.set(xlim=(0, width), ylim=(height, 0))
        ax.set_axis_off()
        ax.set_title(title)
        if title == "cut off":
            mark = [height, 1.05 * height]
            ax.plot([shown.column] * 2, mark, color=INK, lw=1.5, clip_on=False)
    offsets = np.arange(-REACH, REACH + 1)
    for color, (title, rate) in zip(SERIES, rates.items(), strict=False):
        axes[3].plot(offsets, 100 * rate, color=color, lw=1, label=title)
    axes[3].set(title="Class changes (% of rows)", xlabel="columns from the edge", ylim=(0, None))
    axes[3].legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a trained run; train it with modality dropout")
    parser.add_argument("--modality", required=True, help="whose raster ends")
    parser.add_argument("--split", default="test")
    parser.add_argument("--edges", type=int, default=7, help="columns per scene")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    run = api.load(args.run)
    dataset = load_manifest(run.config.data.manifest).select([m.name for m in run.info.modalities])
    maps = maps_of(run, dataset, args.split, args.modality, args.edges)
    kinds = ("whole", "without", "side_by_side", "cut")
    rates = {
        kind.replace("_", " "): np.mean([change_rate(getattr(m, kind), m.column) for m in maps], 0)
        for kind in kinds
    }
    print(f"{machine()}; {args.run}, '{args.modality}' cut off at {len(maps)} columns")
    print("| map | changes at the edge | within 8 columns | elsewhere |\n|---|---|---|---|")
    for kind, rate in rates.items():
        near, rest = np.arange(REACH - 8, REACH + 9), np.r_[: REACH - 16, REACH + 17 : rate.size]
        cells = (rate[REACH], np.delete(rate[near], 8).mean(), rate[rest].mean())
        print(f"| {kind} | {' | '.join(f'{cell:.1%}' for cell in cells)} |")
    if args.figure:
        with matplotlib.rc_context(STYLE):
            draw(maps, rates, run).savefig(args.figure)


if __name__ == "__main__":
    main()
