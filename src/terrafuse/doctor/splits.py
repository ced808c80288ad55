"""The data set as a whole: the content of each split, and ground that splits share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.footprints import nearby_grids, overlapping_grids
from terrafuse.data.manifest import Manifest
from terrafuse.data.names import absolute_name, is_part
from terrafuse.doctor.findings import Finding
from terrafuse.doctor.summary import ModalityRecord, SceneRecord, Splits
from terrafuse.errors import TerrafuseError
from terrafuse.splits.content import SharedGround, find_shared_ground

# Neighbouring scenes share weather, fields and shadows over some tens of pixels.
_NEAR_PX = 32
_RARE = 1e-3
# Overlaps between two splits that are told one by one.
_MOST_PAIRS = 5


def check_splits(
    manifest: Manifest,
    records: Sequence[SceneRecord],
    splits: Splits,
    *,
    deep: bool,
    are_all: bool = True,
) -> Iterator[Finding]:
    """Check for faults that concern more than one scene.

    Args:
        are_all: Whether there is a record of every scene, so that what none has is lacking.
    """
    yield from _check_presence(manifest, records, splits, deep)
    train = [record for record in records if record.split in splits.train]
    if not are_all:
        yield from _check_named_labels(manifest, splits)
    elif train:
        others = [record for record in records if record.split not in splits.train]
        yield from _check_labels(manifest, train, others, splits.name)
        yield from _check_bands(manifest, train, records, splits.name, deep=deep)
    if deep:
        yield from _check_classes_elsewhere(manifest, records, splits)
    yield from _check_overlap(manifest, records, splits)
    if deep:
        yield from _check_nearness(records, splits)


def _check_presence(
    manifest: Manifest, records: Sequence[SceneRecord], splits: Splits, deep: bool
) -> Iterator[Finding]:
    absent = [split for split in splits.train if split not in manifest.splits]
    for split in absent:
        known = ", ".join(manifest.splits) or "none"
        message = f"no scene of '{manifest.path}' is in split '{split}'; splits found: {known}"
        remedy = f"Set 'split: {split}' for scenes to train on, or let terrafuse data split do it"
        yield Finding("error", "no-train", message, remedy=remedy)
    if not absent and splits.validation not in manifest.splits:
        message = f"no scene of '{manifest.path}' is in split '{splits.validation}'"
        remedy = "Assign some, or run 'terrafuse data split': the best weights are chosen on it"
        yield Finding("warning", "no-val", message, remedy=remedy)
    if not deep:
        return
    judged = [s for s in manifest.splits if s not in (*splits.train, splits.validation)]
    if not absent and not judged:
        message = f"no scene of '{manifest.path}' is in a split for testing, such as 'test'"
        remedy = "Scores on the split that chose the weights are too optimistic: run "
        remedy += "'terrafuse data split'"
        yield Finding("note", "no-test", message, remedy=remedy)
    for split in judged:
        inside = [record for record in records if record.split == split]
        if inside and not any(r.has_labels or r.entry.labels_eroded for r in inside):
            message = f"no scene of split '{split}' has labels: nothing can be scored there"
            yield Finding("note", "no-labels", message, remedy="Name labels, or map it only")


def _check_labels(
    manifest: Manifest, train: Sequence[SceneRecord], others: Sequence[SceneRecord], where: str
) -> Iterator[Finding]:
    if not any(record.has_labels for record in train):
        yield _no_labels(where)
        return
    counts = _sum_counts(manifest, train)
    if not counts.any():
        message = f"labels of {where} are all ignored"
        remedy = "Correct 'classes', 'void' or the labels' 'nodata' in the manifest"
        yield Finding("error", "labels-ignored", message, remedy=remedy)
        return
    elsewhere = _sum_counts(manifest, others)
    for index in np.flatnonzero(counts == 0):
        message = told_of_missing(manifest.scheme.names[index], where)
        remedy = f"It cannot be learned; other splits have {elsewhere[index]} pixels of it"
        yield Finding("warning", "class-missing", message, remedy=remedy)


def _check_named_labels(manifest: Manifest, splits: Splits) -> Iterator[Finding]:
    """Check without opening any that the manifest names labels to train on."""
    own = [entry for entry in manifest.entries if entry.split in splits.train]
    if own and not any(map(manifest.is_labelled, own)):
        yield _no_labels(splits.name)


def _no_labels(where: str) -> Finding:
    message = f"no scene of {where} has labels"
    return Finding("error", "no-labels", message, remedy="Give 'labels' in the manifest")


def told_of_missing(name: str, where: str) -> str:
    """Say that no pixel of the training splits is of a class."""
    return f"class '{name}' has no pixel in {where}"


def _sum_counts(manifest: Manifest, records: Sequence[SceneRecord]) -> NDArray[np.int64]:
    zero = np.zeros(manifest.scheme.num_classes, np.int64)
    return sum((record.counts for record in records if record.has_labels), zero)


def _check_bands(
    manifest: Manifest,
    train: Sequence[SceneRecord],
    records: Sequence[SceneRecord],
    where: str,
    *,
    deep: bool,
) -> Iterator[Finding]:
    for name, modality in manifest.modalities.items():
        if not any(record.with_data.get(name) for record in train):
            message = f"modality '{name}' has no data in {where}"
            remedy = "Correct its 'nodata' in the manifest, or leave it out with data.modalities"
            yield Finding("error", "modality-without-data", message, remedy=remedy, modality=name)
            continue
        found = [record.summaries[name] for record in train if name in record.summaries]
        if not deep or not found:
            continue
        low = np.min([summary.low for summary in found], axis=0)
        high = np.max([summary.high for summary in found], axis=0)
        useless = low >= high
        fix = _without(manifest, name, useless, [r.summaries.get(name) for r in records])
        way = "leave the modality out with data.modalities"
        if not useless.all() and manifest.rules[name].encoding is None:
            way = "leave {} out of 'bands', and out of what 'read_bands' takes"
        yield from _check_empty_bands(manifest, name, low > high, where, way, fix)
        for band, lowest, highest in zip(modality.bands, low, high, strict=True):
            if lowest == highest:
                message = f"band '{band}' of modality '{name}' is {lowest:g} everywhere in {where}"
                remedy = f"It carries no information; {way.format('it')}"
                yield Finding(
                    "error", "constant-band", message, remedy=remedy, modality=name, fix=fix
                )


def _check_empty_bands(
    manifest: Manifest,
    name: str,
    empty: NDArray[np.bool_],
    where: str,
    way: str,
    fix: Mapping[str, Any],
) -> Iterator[Finding]:
    bands = manifest.modalities[name].bands
    named = [band for band, is_empty in zip(bands, empty, strict=True) if is_empty]
    if not named:
        return
    listed = ", ".join(f"'{band}'" for band in named[:10]) + (" …" if len(named) > 10 else "")
    message = f"{len(named)} bands of modality '{name}' have no data in {where}: {listed}"
    remedy = f"Training cannot normalise them; {way.format('them')}"
    yield Finding("error", "band-without-data", message, remedy=remedy, modality=name, fix=fix)


def _without(
    manifest: Manifest,
    name: str,
    dropped: NDArray[np.bool_],
    found: Sequence[ModalityRecord | None],
) -> dict[str, Any]:
    """Return the keys of a manifest that leave bands out; empty if nothing suits all scenes.

    Args:
        dropped: Bands to leave out (C,).
        found: What is known of each scene, where the modality has data.
    """
    modality, rules = manifest.known[name], manifest.rules[name]
    kept: list[int] = np.flatnonzero(~dropped).tolist()
    if not kept or rules.encoding is not None:
        return {}
    lists: dict[str, Sequence[Any] | None] = {"bands": modality.bands}
    orders = {record.numbers for record in found if record is not None}
    if rules.read_bands or len(orders) == 1:
        # As the bands are read now, which need not be in the order of the files.
        lists["read_bands"] = rules.read_bands or next(iter(orders))
    elif not all(record is None or record.is_named for record in found):
        return {}  # by name in some scenes, by number in others
    lists["wavelengths_um"] = modality.wavelengths_um
    lists |= {
        key: given
        for key, given in (("value_scale", rules.value_scale), ("value_offset", rules.value_offset))
        if isinstance(given, tuple)
    }
    fix: dict[str, Any] = {
        f"modalities.{name}.{key}": [values[i] for i in kept]
        for key, values in lists.items()
        if values is not None
    }
    scenes: dict[str, Any] = {}
    for entry in manifest.entries:
        for key in ("value_scale", "value_offset"):
            own = getattr(entry, key).get(name)
            if isinstance(own, tuple):
                scenes.setdefault(entry.id, {})[key] = {name: [own[i] for i in kept]}
    return fix | ({"scenes": scenes} if scenes else {})


def _check_classes_elsewhere(
    manifest: Manifest, records: Sequence[SceneRecord], splits: Splits
) -> Iterator[Finding]:
    train = _sum_counts(manifest, [r for r in records if r.split in splits.train])
    names = manifest.scheme.names
    for index in np.flatnonzero((train > 0) & (train < _RARE * train.sum())):
        message = (
            f"class '{names[index]}' is {train[index] / train.sum():.2%} of the labelled pixels of "
            f"{splits.name} ({train[index]:,} px)"
        )
        remedy = "Balanced sampling and a loss with class weights help; see data.sampling"
        yield Finding("note", "rare-class", message, remedy=remedy)
    for split in manifest.splits:
        inside = [r for r in records if r.split == split and r.has_labels]
        if split in splits.train or not inside:
            continue
        counts = _sum_counts(manifest, inside)
        absent = [names[i] for i in np.flatnonzero((counts == 0) & (train > 0))]
        if absent and counts.any():
            listed = ", ".join(f"'{name}'" for name in absent)
            message = f"split '{split}' has no pixel of {listed}"
            remedy = "Its scores say nothing about them; 'terrafuse data split' balances classes"
            yield Finding("note", "class-not-judged", message, remedy=remedy)


def _check_overlap(
    manifest: Manifest, records: Sequence[SceneRecord], splits: Splits
) -> Iterator[Finding]:
    pairs = dict.fromkeys(overlapping_grids([record.grid for record in records]), "")
    pairs |= dict.fromkeys(_of_one_file(manifest, records), "")
    for shared in find_shared_ground([record.sketch for record in records]):
        pair = (shared.first, shared.second)
        # What is there twice as a whole is told as such.
        if shared.share < 1 or (shared.row, shared.col) != (0, 0):
            pairs.setdefault(pair, _how_shared(shared))
    leaks: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for first, second in sorted(pairs):
        a, b = records[first], records[second]
        if _may_leak(a, b, splits):
            between = tuple(sorted((str(a.split), str(b.split))))
            leaks.setdefault(between, []).append((first, second))
    remedy = "Put them into one split (terrafuse data split does)"
    for found in leaks.values():
        for first, second in found[:_MOST_PAIRS]:
            a, b = records[first], records[second]
            message = (
                f"scenes '{a.id}' ({a.split}) and '{b.id}' ({b.split}) show the same ground"
                f"{pairs[first, second]}, so scores would be too good"
            )
            yield Finding("warning", "split-overlap", message, a.id, remedy=remedy)
        if len(found) > _MOST_PAIRS:
            a, b = (records[i] for i in found[_MOST_PAIRS])
            message = (
                f"{len(found) - _MOST_PAIRS} more pairs of scenes of splits '{a.split}' and "
                f"'{b.split}' show the same ground, '{a.id}' and '{b.id}' among them"
            )
            yield Finding("warning", "split-overlap", message, a.id, remedy=remedy)


def _how_shared(shared: SharedGround) -> str:
    return (
        f", told by their pixels ({shared.share:.0%} of the smaller; the second begins "
        f"{abs(shared.row)} rows {'below' if shared.row >= 0 else 'above'} and {abs(shared.col)} "
        f"columns {'right' if shared.col >= 0 else 'left'} of the first)"
    )


def _may_leak(a: SceneRecord, b: SceneRecord, splits: Splits) -> bool:
    learned = a.split in splits.train and b.split in splits.train
    return a.split is not None and b.split is not None and a.split != b.split and not learned


def _of_one_file(manifest: Manifest, records: Sequence[SceneRecord]) -> Iterator[tuple[int, int]]:
    """Pairs without CRS that read the same pixels of a file."""
    readers: dict[str, list[int]] = {}
    for i, record in enumerate(records):
        if record.grid.crs is not None:
            continue
        try:
            files = manifest.local_files(record.entry)
        except TerrafuseError:
            continue
        names = set()
        for name, written in record.entry.rasters.items():
            if any(map(is_part, written)):  # of two parts of a file, each is its own
                names |= {absolute_name(path, manifest.folder) for path in written}
            else:
                names |= set(map(str, files.get(name, ())))
        for path in names:
            readers.setdefault(path, []).append(i)
    for group in readers.values():
        for n, first in enumerate(group):
            for second in group[n + 1 :]:
                a, b = records[first].entry.window, records[second].entry.window
                if a is None or b is None or a.intersection(b) is not None:
                    yield first, second


def _check_nearness(records: Sequence[SceneRecord], splits: Splits) -> Iterator[Finding]:
    nearest: dict[tuple[str, str], tuple[float, SceneRecord, SceneRecord]] = {}
    counts: dict[tuple[str, str], int] = {}
    for first, second, distance in nearby_grids([r.grid for r in records], _NEAR_PX):
        a, b = records[first], records[second]
        if not _may_leak(a, b, splits):
            continue
        names = sorted((str(a.split), str(b.split)))
        pair = (names[0], names[1])
        counts[pair] = counts.get(pair, 0) + 1
        nearest[pair] = min(nearest.get(pair, (np.inf, a, b)), (distance, a, b), key=lambda x: x[0])
    for pair, (distance, a, b) in nearest.items():
        message = (
            f"scenes of '{pair[0]}' and '{pair[1]}' are neighbours ({counts[pair]} pairs; '{a.id}' "
            f"and '{b.id}' are {distance:.0f} px apart): scores are slightly too optimistic"
        )
        # `data split --buffer` leaves a strip within scenes that it cuts into blocks only.
        remedy = f"Give neighbours one split, or cut strips of {_NEAR_PX + 1} px off ('window')"
        yield Finding("note", "split-near", message, a.id, remedy=remedy)
