"""Completeness of a copy of a published data set: files missing, damaged or of unequal size."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from terrafuse.data.placement import SIZE_TOLERANCE_PX
from terrafuse.data.raster_file import RasterFile, inspect_raster
from terrafuse.errors import DataError, RasterReadError
from terrafuse.layouts.layout import Layout
from terrafuse.layouts.tree import Found, Tree, natural_key

_MOST_LISTED = 8


@dataclass(frozen=True)
class Part:
    """Files of a modality, or of the labels.

    Args:
        name: Name of the modality, or "labels".
        headers: Id → metadata of the file.
        broken: Id → reason why its file cannot be opened.
        required: Ids that must have such a file; None: all.
        second: Whether its bands follow those of another part of the same modality.
    """

    name: str
    found: Found
    headers: Mapping[str, RasterFile] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    required: set[str] | None = None
    second: bool = False

    @property
    def title(self) -> str:
        """Name in messages."""
        return f"{self.name} ({self.found.kind.name})" if self.second else self.name

    def wants(self, id: str) -> bool:
        """Tell whether a scene must have such a file."""
        return self.required is None or id in self.required


def inspect_parts(root: Path, parts: Sequence[Part]) -> list[Part]:
    """Open every file; those that cannot be opened count as absent from here on."""
    known: dict[Path, RasterFile | str] = {}  # modalities may share files
    inspected = []
    for part in parts:
        headers, broken = {}, {}
        for id, path in part.found.files.items():
            full = root / path
            if full not in known:
                known[full] = _inspect(full)
            header = known[full]
            if isinstance(header, str):
                broken[id] = header
            else:
                headers[id] = header
        broken = {**part.broken, **broken}
        files = {id: path for id, path in part.found.files.items() if id in headers}
        found = replace(part.found, files=files)
        inspected.append(replace(part, found=found, headers=headers, broken=broken))
    return inspected


def settle(
    tree: Tree,
    layout: Layout,
    parts: Sequence[Part],
    split: Mapping[str, str],
    allow: bool,
    others: Mapping[str, Mapping[str, str]],
) -> tuple[list[str], set[str]]:
    """Choose the scenes of the manifest, and report what is missing.

    Args:
        parts: Modalities and labels.
        split: Id → split of the scenes wanted.
        allow: Whether to continue with an incomplete copy.
        others: Name → id → split, of other lists, some of which may be complete.

    Returns:
        Ids of the scenes, and modalities that some of them lack.

    Raises:
        DataError: Something is missing and that is not allowed, or no scene is left.
    """
    images = [part for part in parts if part.name != "labels"]
    here = [id for id in split if any(id in part.found.files for part in images)]
    unequal = _unequal(layout.title, parts, split)
    scenes = [id for id in here if id not in unequal]
    groups = _by_files(parts)
    faults = [*_faults(layout, groups, split, len(here)),
              *(f"  scene {id}: {text}" for id, text in unequal.items())]  # fmt: skip
    if faults:
        kinds = "; ".join(f"{name} in {part.found.kind.places()}" for name, part in groups)
        looked = f"Looked below '{tree.root}', at any depth, for {kinds}. {layout.hint}".rstrip()
        text = "\n".join([*faults, looked])
        whole = f"this copy of {layout.title} is not complete"
        if not allow:
            ways = _ways(layout, parts, split, others)
            raise DataError(f"{whole}:\n{text}\n{ways}")
        if not scenes:
            raise DataError(f"no scene of {layout.title} is left:\n{text}")
        told = f"{whole}; {len(scenes)} scenes go into the manifest:\n{text}"
        warnings.warn(told, stacklevel=2)
    _compare_with_published(layout.title, groups, split)
    return scenes, {p.name for p in images if any(id not in p.found.files for id in scenes)}


def _ways(
    layout: Layout,
    parts: Sequence[Part],
    split: Mapping[str, str],
    others: Mapping[str, Mapping[str, str]],
) -> str:
    """Suggest remedies for an incomplete copy; name the splits and modalities that are complete."""
    way = "Download the rest, or continue with what is there: -O incomplete=allow"
    every = [replace(part, required=None) for part in parts]
    whole = [f"-O split={name}" for name, own in others.items() if _is_whole(layout, every, own)]
    named = [part for part in parts if part.name != "labels"]
    there = {p.name for p in named} - {p.name for p in named if not p.found.files}
    rest = [part for part in parts if part.name in there or part.name == "labels"]
    if 0 < len(there) < len({p.name for p in named}) and _is_whole(layout, rest, split):
        kept = dict.fromkeys(part.name for part in rest if part.name in there)
        whole.append(f"-O modalities={','.join(kept)}")
    return f"Complete in this copy: {' or '.join(whole)}. {way}" if whole else way


def _is_whole(layout: Layout, parts: Sequence[Part], split: Mapping[str, str]) -> bool:
    """Tell whether every scene of a split has all files, of equal sizes."""
    if any(True for _ in _faults(replace(layout, expected=None), _by_files(parts), split, 0)):
        return False
    return not any(_sizes(parts, id)[0] > SIZE_TOLERANCE_PX for id in split)


def _inspect(path: Path) -> RasterFile | str:
    try:
        return inspect_raster(path, "it")
    except RasterReadError as error:
        return str(error).removeprefix("it: ")


def _by_files(parts: Sequence[Part]) -> list[tuple[str, Part]]:
    """List parts that share files only once, with all their names."""
    names: dict[str, list[str]] = {}
    for part in parts:
        names.setdefault(part.found.kind.name, []).append(part.title)
    first = {part.found.kind.name: part for part in reversed(parts)}
    return [(", ".join(own), first[kind]) for kind, own in names.items()]


def _faults(
    layout: Layout, groups: Sequence[tuple[str, Part]], split: Mapping[str, str], here: int
) -> Iterator[str]:
    """Yield a line per incomplete modality, and per unusable file."""
    if layout.expected is not None and here < layout.expected:
        yield f"  {here} of {layout.expected} scenes are there"
    for title, part in groups:
        wanted = sorted(filter(part.wants, split), key=natural_key)
        missing = [id for id in wanted if id not in part.found.files]
        if missing:
            counted = _by_series(layout, wanted, missing)
            number = len(wanted) - len(missing)
            yield f"  {title}: {number} of {len(wanted)} scenes{counted}; {_without(missing)}"
    for title, part in groups:
        for id, text in part.broken.items():
            if id in split:
                yield f"  {title}: {text}"
        for path in part.found.empty:
            if part.found.kind.id_of(path.name) in split:
                yield f"  {title}: '{path}' is empty"


def _by_series(layout: Layout, wanted: Sequence[str], missing: Sequence[str]) -> str:
    if layout.series is None:
        return ""
    gone = Counter(map(layout.series, missing))
    total = Counter(map(layout.series, wanted))
    listed = (f"{name} {number - gone[name]} of {number}" for name, number in total.items())
    return f" ({', '.join(listed)})"


def _without(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _MOST_LISTED} more" if len(ids) > _MOST_LISTED else ""
    return f"without {', '.join(ids[:_MOST_LISTED])}{more}"


def _unequal(title: str, parts: Sequence[Part], split: Mapping[str, str]) -> dict[str, str]:
    """Find scenes whose files cannot be matched by pixel; warn of smaller differences."""
    bad, small = {}, []
    for id in split:
        apart, shown = _sizes(parts, id)
        if apart > SIZE_TOLERANCE_PX:
            bad[id] = f"sizes differ (width × height): {shown}"
        elif apart:
            small.append(f"{id} ({shown})")
    if small:
        warnings.warn(
            f"{title}: sizes differ by up to {SIZE_TOLERANCE_PX} pixels in scenes "
            f"{', '.join(small)}; what is missing at the right or below has no data",
            stacklevel=2,
        )
    return bad


def _sizes(parts: Sequence[Part], id: str) -> tuple[int, str]:
    """Compare files without CRS of a scene: largest difference in pixels, and their sizes."""
    headers = {part.title: part.headers[id] for part in parts if id in part.headers}
    sizes = {n: (h.grid.width, h.grid.height) for n, h in headers.items() if not h.grid.crs}
    shown = ", ".join(f"{name} {w} × {h}" for name, (w, h) in sizes.items())
    apart = max((max(side) - min(side) for side in zip(*sizes.values(), strict=True)), default=0)
    return apart, shown


def _compare_with_published(
    title: str, groups: Sequence[tuple[str, Part]], split: Mapping[str, str]
) -> None:
    for name, part in groups:
        kind = part.found.kind
        headers = [part.headers[id] for id in split if id in part.headers]
        sizes = Counter(f"{h.grid.width} × {h.grid.height}" for h in headers)
        dtypes = Counter(header.dtypes[0] for header in headers)
        size = f"{kind.size[0]} × {kind.size[1]}" if kind.size else ""
        for counts, published, what in (
            (sizes, size, "pixels (width × height)"),
            (dtypes, kind.dtype, "values"),
        ):
            others = {value: n for value, n in counts.items() if value != published}
            if published and others:
                listed = ", ".join(f"{value} in {n}" for value, n in others.items())
                warnings.warn(
                    f"{title}: {name}: {what} {listed} of {len(headers)} files; "
                    f"published: {published}",
                    stacklevel=2,
                )
