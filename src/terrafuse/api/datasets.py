"""Commands on datasets: describe, check, measure, split."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.data.inputs import files_read
from terrafuse.data.painted import painted_path, read_painted, remove_layer
from terrafuse.errors import ConfigError, OutputError, SceneNotFoundError, unknown_name
from terrafuse.modalities import BandStatistics
from terrafuse.progress import Progress
from terrafuse.writing import claimed_file, refuse_inputs

if TYPE_CHECKING:
    from terrafuse.doctor import Finding

#: Splits that are learnt from without further settings.
TRAIN_SPLITS = ("train",)


def data_describe(
    root: str | Path,
    out: str | Path,
    *,
    layout: str | None = None,
    options: Mapping[str, str],
    report: Callable[[str], None] | None = None,
) -> Manifest:
    """Write the manifest of a folder of rasters; nothing is copied.

    Args:
        layout: Layout of the folder (`terrafuse layouts`); None: recognised by the names in it.
        options: Options of the layout, as text by name.
        report: Called with each line about what was recognised, used and left out.

    Raises:
        OutputError: `out` exists, or another process writes it.
        DataError: The folder does not have this layout, or holds several datasets without `layout`.
        ConfigError: What its lists say is no manifest: a split by two spellings, for instance.
    """
    from terrafuse.doctor import count_unknown_labels
    from terrafuse.layouts import describe, recognise_layout, summarise

    say = report or (lambda _: None)
    path = Path(out)
    with claimed_file(path, "data describe"), _collector_paused():
        if path.exists():
            raise OutputError(f"'{path}' exists; choose another name or remove it first")
        if layout is None and "labels" in options:
            layout = "folder"  # no other layout has this option
            say("read as folders (layout 'folder'), as the option 'labels' implies")
        if layout is None:
            seen = recognise_layout(root)
            say(f"recognised: {seen.reason}")
            layout = seen.layout
        values = describe(root, layout, manifest_folder=path.parent, **options)
        for line in summarise(values, Path(root).expanduser().absolute()):
            say(line)
        manifest = _write_checked(values, path)
        for finding in count_unknown_labels(manifest):
            say(str(finding))
        return manifest


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector, which goes through 10⁵ scenes many times and frees nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def data_check(
    manifest: str | Path | Manifest,
    *,
    quick: bool = False,
    workers: int | None = None,
    html: str | Path | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    report: Callable[[Finding], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Finding]:
    """Find data that cannot or should not be trained on, before training.

    Args:
        manifest: The manifest, or its path.
        quick: Only check what training checks itself: files, labels, presence of data.
        workers: Scenes checked at the same time; default: one per core, at most 4.
        html: Path of a page to write, with the findings and pictures of their places.
        fresh: Read the data again, whatever is kept of it beside the manifest.
        progress: Called with (scenes done, total scenes).
        report: Called with each finding as soon as it is known.
        say: Called with what is to be said of the check itself.

    Raises:
        ConfigError: The manifest is invalid.
        OutputError: The page cannot be written, another process writes it, or it would be written
            over the data.
    """
    dataset = manifest if isinstance(manifest, Manifest) else load_painted(manifest)
    if say and dataset.painted is not None:
        for line in dataset.painted.lines():
            say(line)
    with ExitStack() as stack:
        if html is not None:
            stack.enter_context(claimed_file(html, "data check"))
            refuse_inputs([Path(html)], files_read(dataset))
        findings = _find_faults(dataset, quick, workers, fresh, progress, report, say)
        if html is None:
            return findings
        from terrafuse.reports import write_doctor_page  # takes a while to import
        from terrafuse.reports.thumbnails import finding_views

        scenes = f"Checked {len(dataset.entries)} scenes of '{dataset.path}'."
        write_doctor_page(
            finding_views(dataset, findings), Path(html), summary=scenes, scheme=dataset.scheme
        )
        return findings


def load_painted(path: str | Path) -> Manifest:
    """A manifest as training sees it without further settings."""
    return load_manifest(Path(path)).paint("auto", TRAIN_SPLITS)


def _find_faults(
    dataset: Manifest,
    quick: bool,
    workers: int | None,
    fresh: bool,
    progress: Progress | None,
    report: Callable[[Finding], None] | None,
    say: Callable[[str], None] | None,
) -> list[Finding]:
    """Check a data set, or return what was found before, if nothing has changed since."""
    from terrafuse.data.kept import open_keeper
    from terrafuse.doctor import Finding, check_manifest, count_unknown_labels

    keeper = open_keeper(dataset, fresh=fresh)
    known = keeper.load("doctor", quick)
    if known is not None:
        if say:
            say(
                "nothing has changed since these data were last checked, and this was found then; "
                "--fresh checks them again"
            )
        findings = [Finding.from_dict(values) for values in known["findings"]]
        for finding in findings[: known["reported"]] if report else ():
            report(finding)  # type: ignore[misc]
        return findings
    if say and keeper.notice:
        say(keeper.notice)
    findings = check_manifest(
        dataset, deep=not quick, workers=workers, progress=progress, report=report
    )
    reported = len(findings)
    unreadable = {f.scene for f in findings if f.severity == "error" and f.scene}
    findings += count_unknown_labels(dataset, skip=unreadable)
    values = {"findings": [finding.to_dict() for finding in findings], "reported": reported}
    keeper.save("doctor", quick, values=values)
    return findings


def suggested_fixes(findings: Sequence[Finding]) -> dict[str, Any]:
    """Collect the findings' fixes of `dataset.yaml`, as nested values to merge into it.

    Keys of scenes stand by id under "scenes". Where two findings want another value for one key,
    the first one's counts.
    """
    merged: dict[str, Any] = {}
    for finding in findings:
        for key, value in finding.fix.items():
            nested = value
            for name in reversed(key.split(".")):
                nested = {name: nested}
            _merge(merged, nested, over=False)
    return merged


def data_fix(
    manifest: str | Path | Manifest, findings: Sequence[Finding], out: str | Path
) -> dict[str, Any]:
    """Write a copy of a manifest with what the findings would change; the rasters stay as they are.

    Args:
        manifest: The manifest that was checked.
        findings: What was found in it.
        out: The manifest to write.

    Returns:
        The changes, as `suggested_fixes` has them; without any, nothing is written.

    Raises:
        OutputError: `out` exists, cannot be written, or another process writes it.
        ConfigError: The changes do not suit each other.
    """
    from terrafuse.splits import move_paths

    dataset = manifest if isinstance(manifest, Manifest) else load_manifest(Path(manifest))
    path = Path(out)
    with claimed_file(path, "data check --fix"):
        if path.exists():
            raise OutputError(f"'{path}' exists; choose another name or remove it first")
        changes = suggested_fixes(findings)
        if not changes:
            return {}
        values = dataset.to_dict()
        _merge(values, {key: own for key, own in changes.items() if key != "scenes"}, over=True)
        for entry in values["scenes"]:
            _merge(entry, changes.get("scenes", {}).get(entry["id"], {}), over=True)
        move_paths(values, dataset.path.parent, path.absolute().parent)
        try:
            _write_checked(values, path)
        except ConfigError as error:
            raise ConfigError(f"the suggestions do not suit each other: {error}") from None
        return changes


def _write_checked(values: Mapping[str, Any], path: Path) -> Manifest:
    """Write a manifest and read it; what cannot be read is removed again."""
    write_manifest(values, path)
    try:
        return load_manifest(path)
    except ConfigError:
        path.unlink()
        raise


def _merge(values: dict[str, Any], more: Mapping[str, Any], *, over: bool) -> None:
    """Put nested values into others; `over` decides whose counts."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            _merge(values.setdefault(key, {}), value, over=over)
        elif over or key not in values:
            values[key] = value


def data_stats(
    manifest: str | Path,
    *,
    split: str | None = "train",
    fresh: bool = False,
    progress: Progress | None = None,
) -> dict[str, BandStatistics]:
    """Measure statistics per modality and band, over a split's pixels with data.

    Args:
        split: The split; None: all scenes.
        fresh: Read the data again, whatever is kept of it beside the manifest.
        progress: Called with (windows done, windows in total).

    Raises:
        SceneNotFoundError: There are no scenes in the split.
    """
    from terrafuse.data import compute_statistics
    from terrafuse.data.kept import open_keeper

    dataset = load_manifest(Path(manifest))
    scenes = dataset.scenes(split)
    if not scenes:
        raise SceneNotFoundError(
            f"'{manifest}' has no scenes in split '{split}'; "
            f"splits are {', '.join(dataset.splits) or 'none'}"
        )
    keeper = open_keeper(dataset, fresh=fresh)
    known = keeper.load("stats", split)
    if known is not None:
        return {name: BandStatistics.from_dict(values) for name, values in known.items()}
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = compute_statistics(scenes, list(dataset.modalities.values()), progress=progress)
    finally:  # they may say why it failed
        for said in caught:
            warnings.warn_explicit(said.message, said.category, said.filename, said.lineno)
    if not any(issubclass(said.category, UserWarning) for said in caught):  # to be said each time
        keeper.save("stats", split, values={name: s.to_dict() for name, s in found.items()})
    return found


def data_stats_by_split(
    manifest: str | Path, *, fresh: bool = False, progress: Progress | None = None
) -> dict[str, dict[str, BandStatistics]]:
    """Measure the statistics of every split: split → modality → per band.

    Args:
        fresh: As of `data_stats`.
        progress: Likewise.

    Raises:
        SceneNotFoundError: No scene is in any split.
        DataError: A band has no data in a split, or a raster cannot be read.
    """
    dataset = load_manifest(Path(manifest))
    if not dataset.splits:
        raise SceneNotFoundError(
            f"'{manifest}' has no splits; create some with terrafuse data split"
        )
    return {
        split: data_stats(manifest, split=split, fresh=fresh, progress=progress)
        for split in dataset.splits
    }


def data_labels(manifest: str | Path, *, remove: Sequence[str] = ()) -> dict[str, Any]:
    """List the painted polygons beside a manifest, or remove those of some scenes.

    Args:
        manifest: Path of the manifest.
        remove: Ids of scenes whose polygons are removed first.

    Returns:
        "file", and "scenes": id → "split" (None: no split, or no scene of the manifest),
        "polygons", "classes" (name → number) and "is_learnt_from" (whether training without
        further settings takes them).

    Raises:
        ConfigError: The manifest is invalid.
        SceneNotFoundError: Over a scene to be removed nothing is painted.
        DataError: The file of painted polygons is damaged.
        OutputError: It is open for editing elsewhere, or cannot be written.
    """
    dataset = load_manifest(Path(manifest))
    path = painted_path(dataset.path)
    layers = read_painted(path)[1] if path.exists() else {}
    for scene in remove:
        if not len(layers.get(scene, ())):
            painted = [id for id, layer in layers.items() if len(layer)]
            raise SceneNotFoundError(unknown_name("painted scene", scene, painted))
    for scene in remove:
        remove_layer(path, scene)
        del layers[scene]
    splits = {entry.id: entry.split for entry in dataset.entries}
    scenes = {
        id: {
            "split": splits.get(id),
            "polygons": len(layer),
            "classes": dict(Counter(layer.classes)),
            "is_learnt_from": splits.get(id) in TRAIN_SPLITS,
        }
        for id, layer in layers.items()
        if len(layer)
    }
    return {"file": str(path), "scenes": scenes}


def data_split(
    manifest: str | Path,
    out: str | Path,
    *,
    shares: Mapping[str, float],
    block_px: int,
    buffer_px: int,
    seed: int = 0,
    seeds: int = 8,
    progress: Progress | None = None,
) -> Manifest:
    """Write a copy of a manifest with a new spatial split (`report_split` describes the result).

    Args:
        manifest: Path of the manifest to split.
        shares: Split → share of the labelled pixels.
        block_px: Side of the blocks into which large scenes are cut, in scene pixels.
        buffer_px: Smallest distance between pixels of different splits, in scene pixels.
        seed: Seed of the draws.
        seeds: Number of draws, of which the best balanced is used.
        progress: Called with (scenes done, total scenes) while labels are counted.

    Raises:
        OutputError: `out` exists, or another process writes it.
        DataError: There are too few scenes or blocks for the splits.
    """
    from terrafuse.splits import split_manifest

    path = Path(out)
    with claimed_file(path, "data split"):
        if path.exists():
            raise OutputError(f"'{path}' exists; choose another name or remove it first")
        values = split_manifest(
            load_manifest(Path(manifest)),
            shares=dict(shares),
            block_px=block_px,
            buffer_px=buffer_px,
            seed=seed,
            seeds=seeds,
            manifest_folder=path.parent,
            progress=progress,
        )
        return _write_checked(values, path)
