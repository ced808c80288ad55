"""What a scene is made of: its files, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from terrafuse.classes import ClassScheme
from terrafuse.data.label_files import ReferenceName
from terrafuse.data.labels import LabelRules
from terrafuse.data.rasters import ReadingRules
from terrafuse.modalities import Modality
from terrafuse.samples import Window


@dataclass(frozen=True)
class SceneFiles:
    """What a scene is made of.

    Args:
        id: Name of the scene.
        modalities: What `read` returns, in order.
        rasters: Files per modality; may hold modalities that are not read but have the grid.
        known: Every modality of `rasters`, read or not; default: `modalities`.
        rules: How modalities are read; default: by kind.
        grid: Modality whose grid is the scene's, or "labels"; None chooses.
        labels: Raster or vector file.
        labels_eroded: Likewise, without the boundaries between classes; read only to score.
        label_rules: How both are read.
        scheme: What label values mean.
        split: Part of the data set the scene belongs to.
        window: Part of the reference grid that is the scene; None = all.
    """

    id: str
    modalities: tuple[Modality, ...]
    rasters: Mapping[str, tuple[str, ...]]
    known: Mapping[str, Modality] = field(default_factory=dict)
    rules: Mapping[str, ReadingRules] = field(default_factory=dict)
    grid: str | None = None
    labels: str | None = None
    labels_eroded: str | None = None
    label_rules: LabelRules = field(default_factory=LabelRules)
    scheme: ClassScheme | None = None
    split: str | None = None
    window: Window | None = None

    @property
    def references(self) -> dict[ReferenceName, str]:
        """The label files that can be read."""
        named: dict[ReferenceName, str | None] = {
            "labels": self.labels,
            "labels_eroded": self.labels_eroded,
        }
        return {k: path for k, path in named.items() if path is not None and self.scheme}
