"""Sound data sets, and means to put a fault into a copy of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from numpy.typing import NDArray

from terrafuse.doctor import Finding
from terrafuse.landscape import make_landscape

Array = NDArray[Any]
SCENE = "train_2"
OTHER = "train_1"


@dataclass(frozen=True)
class DataSet:
    """A data set that something happens to.

    Args:
        folder: Where its `dataset.yaml` lies.
        rng: Source of randomness.
    """

    folder: Path
    rng: np.random.Generator

    def raster(self, modality: str, scene: str = SCENE) -> Path:
        """The file of a modality, or of "labels"."""
        return self.folder / modality / f"{scene}.tif"

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the manifest."""
        path = self.folder / "dataset.yaml"
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        change(values)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        name: What happened.
        harm: Changes a data set.
        codes: Codes of findings that tell it.
        scene: The scene that has to be named; None = any or none.
        modality: The modality that has to be named; None = any or none.
    """

    name: str
    harm: Callable[[DataSet], None]
    codes: tuple[str, ...]
    scene: str | None = SCENE
    modality: str | None = None

    def is_told_by(self, finding: Finding) -> bool:
        """Whether a finding says what happened, and where."""
        return (
            finding.code in self.codes
            and finding.severity != "note"
            and self.scene in (None, finding.scene)
            and self.modality in (None, finding.modality)
        )


@dataclass
class Catalogue:
    """Faults in order; `add` is a decorator."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, name: str, *codes: str, **where: str | None) -> Callable[[Any], Any]:
        """Register a function as a fault."""

        def register(harm: Any) -> Any:
            self.faults.append(Fault(name, harm, codes, **where))
            return harm

        return register


def make_sound(folder: Path, seed: int, size: int = 192) -> Path:
    """A data set without faults: three scenes to learn from, one to choose by, two to judge by."""
    return make_landscape(folder, seed=seed, size=size, train=3, val=1, test=2)


def make_faulty(sound: Path, folder: Path, fault: Fault, seed: int) -> Path:
    """A copy of a sound data set with one fault; returns its manifest."""
    shutil.copytree(sound, folder)
    fault.harm(DataSet(folder, np.random.default_rng([seed, *fault.name.encode()])))
    return folder / "dataset.yaml"


def rewrite(path: Path, change: Callable[[Array], Array], **profile: Any) -> None:
    """Change the pixels (C, H, W) of a file, and its tags where named."""
    with rasterio.open(path) as dataset:
        values, kept = dataset.read(), dataset.profile
        names, scales = dataset.descriptions, dataset.scales
    values = change(values)
    kept.update(
        dtype=values.dtype, count=len(values), height=values.shape[1], width=values.shape[2]
    )
    if values.dtype.kind == "f":
        kept["predictor"] = 3
    elif values.dtype.kind in "iu":
        kept["predictor"] = 2
    keep_scale = profile.pop("keep_scale", True)
    kept.update(profile)
    path.unlink()
    with rasterio.open(path, "w", **kept) as dataset:
        dataset.write(values)
        if len(names) == len(values):
            dataset.descriptions = names
            if keep_scale:
                dataset.scales = scales


def disc(shape: tuple[int, ...], rng: np.random.Generator, radius: int) -> Array:
    """A filled circle somewhere inside, bool (H, W)."""
    rows, cols = np.ogrid[: shape[-2], : shape[-1]]
    row, col = (rng.integers(radius + 8, n - radius - 8) for n in shape[-2:])
    return (rows - row) ** 2 + (cols - col) ** 2 < radius**2
