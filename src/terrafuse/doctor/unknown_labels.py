"""Raw label values outside the class scheme, where the manifest assigns them by `unknown`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from terrafuse.classes import VOID
from terrafuse.data.label_files import ReferenceName
from terrafuse.data.manifest import Manifest
from terrafuse.doctor.findings import Finding
from terrafuse.samples import blocks

_BLOCK = 1024
_MOST_LISTED = 5
_REFERENCES: tuple[ReferenceName, ...] = ("labels", "labels_eroded")


def count_unknown_labels(manifest: Manifest, skip: Collection[str] = ()) -> Iterator[Finding]:
    """Yield a note per label file with values that `unknown` replaced; nothing without it.

    Args:
        manifest: Data set, whose labels are read completely.
        skip: Ids of scenes that cannot be read.

    Raises:
        DataError: Labels, or a raster that the scene needs, cannot be read.
    """
    if manifest.scheme.unknown is None:
        return
    for entry in (entry for entry in manifest.entries if entry.id not in skip):
        for reference in _REFERENCES:
            # A file named as both was counted as the first.
            given = getattr(entry, reference)
            if given is None or (reference != "labels" and given == entry.labels):
                continue
            if counts := _count(manifest, entry.id, reference):
                yield _note(manifest, entry.id, reference, counts)


def _count(manifest: Manifest, id: str, reference: ReferenceName) -> Counter[str]:
    scene = manifest.scene(id)
    for window in blocks(scene.grid.height, scene.grid.width, _BLOCK):
        scene.read_labels(window, reference)
    counts = scene.unknown_labels(reference)
    scene.close()
    return counts


def _note(manifest: Manifest, id: str, reference: ReferenceName, counts: Counter[str]) -> Finding:
    unknown = manifest.scheme.unknown
    kinds = "value" if len(counts) == 1 else "values"
    listed = ", ".join(f"{value} ({n:,} px)" for value, n in counts.most_common(_MOST_LISTED))
    more = f" and {len(counts) - _MOST_LISTED} more" if len(counts) > _MOST_LISTED else ""
    what = "void" if unknown == VOID else f"class '{unknown}'"
    return Finding(
        "note",
        "unknown-labels",
        f"{reference} of scene '{id}': {counts.total():,} px of {len(counts)} {kinds} outside the "
        f"class scheme became {what}: {listed}{more}",
        id,
        modality="labels",
    )
