"""The check itself: scene by scene, several at a time, then the data set as a whole."""

from __future__ import annotations

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from terrafuse.cores import usable_cores
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.data.handles import warning_filter
from terrafuse.data.manifest import Manifest
from terrafuse.data.scene import Scene
from terrafuse.data.schema import SceneEntry
from terrafuse.data.statistics import class_counts
from terrafuse.data.streaming import cover
from terrafuse.doctor.bands import check_bands
from terrafuse.doctor.duplicates import Fingerprint, find_duplicates, fingerprint
from terrafuse.doctor.elevation import check_elevation
from terrafuse.doctor.files import (
    check_ends,
    check_storage,
    check_stored,
    explain_unreadable,
    from_error,
    from_gdal,
    gdal_warnings,
)
from terrafuse.doctor.findings import Finding, Severity
from terrafuse.doctor.labels import check_astray, check_colors, check_labels, explain_unknown
from terrafuse.doctor.nodata import check_nan, check_nodata
from terrafuse.doctor.registration import check_registration
from terrafuse.doctor.scales import check_scales
from terrafuse.doctor.scanning import observe
from terrafuse.doctor.splits import check_splits
from terrafuse.doctor.structure import check_structure
from terrafuse.doctor.summary import ModalityRecord, SceneRecord, SceneSummary, Splits
from terrafuse.doctor.values import check_values
from terrafuse.errors import LabelError, RasterReadError, TerrafuseError
from terrafuse.modalities import Modality
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, Window
from terrafuse.splits.content import sketch_scene

OnScene = Callable[[Scene], None]

_MOST_WORKERS = 4
# Scenes started before the first of them is done, per worker.
_AHEAD = 2


def check_manifest(
    manifest: Manifest,
    *,
    deep: bool = True,
    train_splits: Sequence[str] = ("train",),
    validation_split: str = "val",
    workers: int | None = None,
    most: int | None = None,
    progress: Progress | None = None,
    report: Callable[[Finding], None] | None = None,
    each: OnScene | None = None,
) -> list[Finding]:
    """Check a data set, one scene after the other, and return the findings.

    Args:
        manifest: The data set, with the modalities used (`Manifest.select`).
        deep: Whether to read every pixel and check how rasters fit together. Otherwise labels are
            read entirely, but of each raster only the first and last block and what is needed to
            see that there is data.
        train_splits: Splits to train on.
        validation_split: Split by which the best weights are chosen.
        workers: Scenes checked in parallel; default: one per core, at most 4, if `deep`.
        most: Of more scenes so many are checked, spread evenly, and nothing is concluded from what
            they all lack; None: all are.
        progress: Called with (scenes done, scenes in total).
        report: Called with each finding as soon as it is known.
        each: Called with each scene that could be read, while it is open; it remembers the windows
            read last (`Scene.remember_windows`).

    Returns:
        Findings by scene, then those about splits; empty for a sound data set.
    """
    findings = []
    for finding in iterate_findings(
        manifest,
        deep=deep,
        train_splits=train_splits,
        validation_split=validation_split,
        workers=workers,
        most=most,
        progress=progress,
        each=each,
    ):
        findings.append(finding)
        if report:
            report(finding)
    return findings


def iterate_findings(
    manifest: Manifest,
    *,
    deep: bool = True,
    train_splits: Sequence[str] = ("train",),
    validation_split: str = "val",
    workers: int | None = None,
    most: int | None = None,
    progress: Progress | None = None,
    each: OnScene | None = None,
) -> Iterator[Finding]:
    """Yield the findings of `check_manifest` as they become known."""
    # Values as in the files: rescaling would read all of a scene for the sake of one block.
    manifest = manifest.with_rescale(dict.fromkeys(manifest.rules))
    splits = Splits(tuple(train_splits), validation_split)
    records: list[SceneRecord] = []
    prints: dict[str, tuple[str | None, Fingerprint]] = {}
    entries = manifest.entries
    are_all = most is None or len(entries) <= most
    if most is not None and not are_all:
        entries = tuple(entries[number * len(entries) // most] for number in range(most))
    examine = partial(_examine, manifest, splits=splits, deep=deep, each=each)
    results = _examine_all(examine, entries, _count_workers(workers, deep))
    for done, result in enumerate(results, start=1):
        yield from result.findings
        if result.record is not None:
            records.append(result.record)
        if result.record is not None and result.fingerprint is not None:
            prints[result.record.id] = (result.record.split, result.fingerprint)
        if progress:
            progress(done, len(entries))
    for modality in manifest.modalities.values():
        yield from _check_alike_bands(modality)
        if deep:
            yield from check_scales(modality, records)
    yield from check_colors(manifest.scheme)
    yield from check_astray(records)
    yield from check_splits(manifest, records, splits, deep=deep, are_all=are_all)
    if deep:
        yield from find_duplicates(prints)


def _check_alike_bands(modality: Modality) -> Iterator[Finding]:
    if modality.alike_bands:
        groups = "; ".join(", ".join(group) for group in modality.alike_bands)
        message = (
            f"bands of modality '{modality.name}' share a wavelength: {groups}. Models that know "
            "bands by their wavelength (DOFA) tell these apart by an offset that they learn"
        )
        remedy = "If they are dates, docs/howto/dates.md compares a modality per date with this"
        yield Finding("note", "alike-bands", message, None, None, remedy, modality.name)


@dataclass
class _Result:
    """Findings of one scene, and the record kept of it if it could be read."""

    findings: list[Finding]
    record: SceneRecord | None = None
    fingerprint: Fingerprint | None = None


def _count_workers(workers: int | None, deep: bool) -> int:
    if workers is not None:
        return max(1, workers)
    return min(_MOST_WORKERS, usable_cores()) if deep else 1


def _examine_all(
    examine: Callable[[SceneEntry], _Result], entries: Sequence[SceneEntry], workers: int
) -> Iterator[_Result]:
    """Examine one scene after the other, in order."""
    if workers == 1 or len(entries) == 1:
        yield from map(examine, entries)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="doctor") as executor:
        waiting: deque[Future[_Result]] = deque()
        try:
            for entry in entries:
                waiting.append(executor.submit(examine, entry))
                if len(waiting) >= _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # the reader may stop early
            for future in waiting:
                future.cancel()


def _examine(
    manifest: Manifest, entry: SceneEntry, splits: Splits, deep: bool, each: OnScene | None
) -> _Result:
    manifest = manifest.only(entry.id)
    with gdal_warnings() as said:
        opened = _open(manifest, entry)
        if isinstance(opened, _Result):
            opened.findings += from_gdal(said, entry.id)
            return opened
        scene, findings = opened
        if each:
            _read_ahead(scene, said)
        try:
            result = _look(manifest, entry, scene, findings, splits, deep)
        except TerrafuseError as error:
            result = _Result([*findings, _explain(manifest, entry, error)])
        except BaseException:
            scene.close()
            raise
    result.findings += from_gdal(said, entry.id)
    try:
        if each and result.record is not None:
            each(scene)
    finally:
        scene.close()
    return result


def _read_ahead(scene: Scene, said: Counter[str]) -> None:
    """Decode a chip once for all that look at it; what fails is left to them to meet.

    Args:
        said: Warnings of GDAL so far.
    """
    scene.remember_windows()
    windows = cover(scene, 512)
    if len(windows) > 1:
        return
    before = Counter(said)
    try:
        scene.read(windows[0], labels=False)
    except TerrafuseError:
        said["failed"] += 1
    if said != before:  # as if nothing had been read
        said.clear()
        said.update(before)
        scene.close()
        scene.remember_windows()


def _open(manifest: Manifest, entry: SceneEntry) -> tuple[Scene, list[Finding]] | _Result:
    """Open a scene; return it with the warnings raised, or the reason why it cannot be opened."""
    with warning_filter, warnings.catch_warnings(record=True) as caught:
        # Only our own, about the data: those of libraries, about code, are of no use to its owner.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            scene = manifest.scene(entry.id)
        except TerrafuseError as error:
            return _Result(_why_not_opened(manifest, entry, error))
        faults = list(_open_eroded(scene))
    # Polygons are judged when all scenes have been seen.
    told = [w.message for w in caught if str(w.message) != scene.astray]
    return scene, [_from_warning(message, entry) for message in told] + faults


def _from_warning(message: Warning | str, entry: SceneEntry) -> Finding:
    if isinstance(message, BandNamesWarning):  # taken by name, nothing is wrong
        severity: Severity = "warning" if message.is_doubtful else "note"
        return Finding(severity, "band-names", str(message), entry.id)
    return Finding("warning", "reading", str(message), entry.id)


def _why_not_opened(manifest: Manifest, entry: SceneEntry, error: TerrafuseError) -> list[Finding]:
    explained = (
        list(explain_unreadable(manifest, entry)) if isinstance(error, RasterReadError) else []
    )
    return explained or [from_error(error, entry.id)]


def _explain(manifest: Manifest, entry: SceneEntry, error: TerrafuseError) -> Finding:
    found = explain_unknown(manifest, entry, error) if isinstance(error, LabelError) else None
    return found or from_error(error, entry.id)


def _open_eroded(scene: Scene) -> Iterator[Finding]:
    """Open the labels for scoring, as reading would do later, while warnings are caught."""
    if scene.has_reference("labels_eroded"):
        n = scene.alignment
        try:
            scene.read_labels(Window(0, 0, n, n), "labels_eroded")
        except LabelError:
            return  # values are judged when all are read
        except TerrafuseError as error:
            yield from_error(error, scene.id)


def _look(
    manifest: Manifest,
    entry: SceneEntry,
    scene: Scene,
    findings: list[Finding],
    splits: Splits,
    deep: bool,
) -> _Result:
    findings += check_stored(scene, manifest.rules)
    findings += check_ends(scene)
    if any(f.severity == "error" and f.modality is not None for f in findings):
        return _Result(findings)  # reading on would repeat the same fault
    none = np.zeros(0, np.int64)
    record = SceneRecord(entry, scene.grid, scene.has_labels, none, astray=scene.astray)
    print_ = None
    if deep:
        findings += check_nan(scene, {n: rule.nodata for n, rule in manifest.rules.items()})
        summary = observe(scene, manifest.scheme, dict(manifest.rules))
        record.counts = summary.counts
        record.with_data = {name: bool(seen.valid) for name, seen in summary.seen.items()}
        record.summaries = {name: ModalityRecord.of(seen) for name, seen in summary.seen.items()}
        findings += _judge_pixels(summary)
        print_ = fingerprint(scene)
        record.sketch = sketch_scene(scene)
    else:
        if scene.has_labels:
            record.counts = class_counts([scene], manifest.scheme)
        record.with_data = _find_data(scene)
    findings += _check_eroded(manifest, entry, scene, findings)
    findings += _judge_scene(record, splits)
    return _Result(findings, record, print_)


def _judge_pixels(summary: SceneSummary) -> Iterator[Finding]:
    for topic in (
        check_structure,
        check_values,
        check_nodata,
        check_bands,
        check_elevation,
        check_labels,
    ):
        yield from topic(summary)
    yield from check_storage(summary.scene)
    yield from check_registration(summary.scene)


def _find_data(scene: Scene) -> dict[str, bool]:
    """Tell per modality whether any pixel has data; reading stops at the first one."""
    found = {m.name: False for m in scene.modalities if m.name not in scene.missing}
    for window in cover(scene, 512):
        sample = scene.read(window, labels=False)
        for name in found:
            found[name] |= bool(sample.valid[name].any())
        if all(found.values()):
            break
    return found


def _check_eroded(
    manifest: Manifest, entry: SceneEntry, scene: Scene, findings: Sequence[Finding]
) -> Iterator[Finding]:
    """Check the labels for scoring; whatever their faults, the scene can be trained on."""
    said = any("labels_eroded" in finding.message for finding in findings)
    if said or not scene.has_reference("labels_eroded"):
        return
    known = False
    try:
        for window in cover(scene, 2048):
            labels: NDArray[np.uint8] = scene.read_labels(window, "labels_eroded")
            known |= bool((labels != IGNORE_INDEX).any())
    except TerrafuseError as error:
        yield _explain(manifest, entry, error)
        return
    if not known:
        message = f"labels_eroded of scene '{scene.id}' are all ignored: there is nothing to score"
        yield Finding("warning", "labels-ignored", message, scene.id, modality="labels")


def _judge_scene(record: SceneRecord, splits: Splits) -> Iterator[Finding]:
    empty = [name for name, found in record.with_data.items() if not found]
    remedy = "Correct 'nodata' in the manifest, or leave the scene out"
    if empty and len(empty) == len(record.with_data):
        message = f"scene '{record.id}' is all nodata: no pixel of {', '.join(empty)} has data"
        yield Finding("error", "no-data", message, record.id, remedy=remedy)
    else:
        for name in empty:
            message = f"modality '{name}' of scene '{record.id}' is all nodata"
            yield Finding("warning", "no-data-in-modality", message, record.id, None, remedy, name)
    if record.has_labels and not record.counts.any():
        message = f"labels of scene '{record.id}' are all ignored: void, nodata or outside 'area'"
        remedy = "Correct 'classes', 'void' or 'labels.nodata', or leave the scene out"
        yield Finding("warning", "labels-ignored", message, record.id, None, remedy, "labels")
    if record.split in splits.train and not record.has_labels:
        message = f"scene '{record.id}' is in split '{record.split}' but has no labels; no crop is"
        yield Finding("warning", "no-labels", f"{message} drawn from it", record.id)
