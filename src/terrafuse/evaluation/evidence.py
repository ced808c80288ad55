"""Evidence: counts per cell of scored scenes, from which models are judged without running them.

Scores of a whole split cannot say how sure they are. `evidence.npz`, beside `metrics.json`, keeps
what they are summed from: for each square of pixels (cell) of each scene and for each subset of
modalities the confusion, the matched boundaries and the reliability of the confidence, and for each
scene how far errors reach. Cells depend on the size of a scene alone, so that those of two models
are the same pixels. They are the parts that blocks are made of, which are as large as errors are
correlated; see `terrafuse.evaluation.blocks`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from terrafuse.errors import ScoresError, cut
from terrafuse.writing import written_whole

#: Name of the file in a run folder, without the part that tells other scores apart.
EVIDENCE = "evidence"
_FORMAT = 1
#: Side of a cell in pixels, unless there would be more than so many in a scene.
CELL_PX = 64
MOST_CELLS = 16_384
#: Lower ends of the bins of confidence: 19 of 0.05, and the last of them halved again and again,
#: since most pixels of a good model lie there. Equal bins of 0.05, 0.1 or 0.2 are sums of these.
CONFIDENCE_EDGES = np.r_[np.arange(20) * 0.05, 1 - 0.05 * 0.5 ** np.arange(1, 13)]
#: Confidences are summed as whole numbers of this step, so that sums are exact in any order.
CONFIDENCE_STEP = 1e-6
#: Confidence is looked at in every so many rows of a scene, and in all columns: rows nearer than
#: that say nearly the same, and an evaluation would take twice as long.
CONFIDENCE_ROWS = 8
#: Distances in pixels at which errors are compared.
LAGS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
#: What uncertainty is measured by, beside the confidence; 0 = sure.
MEASURES = ("confidence", "entropy", "margin", "disagreement")
#: Levels of these in `Evidence.detection`.
LEVELS = 255

TableName = Literal["confusion", "boundary", "reliability"]
TABLES: tuple[TableName, ...] = get_args(TableName)
_CELL_ARRAYS = ("scene", "row", "col", "size")


def cell_shape(table: TableName, classes: int) -> tuple[int, int]:
    """Shape of the counts of a cell.

    Reference × map (last: no data) · per class, boundary pixels of the map, matched and total, and
    of the reference likewise · per bin, pixels of every `CONFIDENCE_ROWS`-th row, right ones, and
    the sum of confidences in steps.
    """
    shapes: Mapping[TableName, tuple[int, int]] = {
        "confusion": (classes, classes + 1),
        "boundary": (classes, 4),
        "reliability": (len(CONFIDENCE_EDGES), 3),
    }
    return shapes[table]


def cell_size(height: int, width: int) -> int:
    """Return the side of the cells of a scene, in pixels; it depends on nothing else."""
    size = CELL_PX
    while -(-height // size) * -(-width // size) > MOST_CELLS:
        size *= 2
    return size


@dataclass(frozen=True)
class ScoredScene:
    """A scene that was scored, and what tells whether another run scored the same.

    Args:
        place: Of the manifest: scenes of one place are not independent.
        crs: Authority and code, or WKT; None: without.
        transform: Six numbers from pixels to CRS, as in `rasterio`; None: without.
        labels: Digest of the reference pixels.
        bytes: Size of the files of each modality.
    """

    id: str
    height: int
    width: int
    labels: str
    place: str | None = None
    crs: str | None = None
    transform: tuple[float, ...] | None = None
    bytes: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {own.name: getattr(self, own.name) for own in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScoredScene:
        """Inverse of `to_dict`.

        Raises:
            TypeError: They are no such values.
        """
        transform = values["transform"]
        return cls(**{**values, "transform": None if transform is None else tuple(transform)})


@dataclass(frozen=True)
class Cells:
    """Squares of pixels of scenes; those at the lower and right edge may reach beyond it.

    Args:
        scene: Position of the scene, int32 (C,).
        row: First row in the scene, int32 (C,); `col` likewise.
        size: Side in pixels, int32 (C,).
    """

    scene: NDArray[np.int32]
    row: NDArray[np.int32]
    col: NDArray[np.int32]
    size: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.scene)

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]]) -> Cells:
        """Return the cells of scenes (height, width), row by row, scene by scene."""
        found = [cells_of(number, *size) for number, size in enumerate(sizes)]
        table = np.concatenate(found) if found else np.zeros((0, 4), np.int32)
        return cls(*np.ascontiguousarray(table.T))


def cells_of(scene: int, height: int, width: int) -> NDArray[np.int32]:
    """Return scene, row, column and size of the cells of a scene, int32 (C, 4).

    Args:
        scene: Its position.
    """
    size = cell_size(height, width)
    rows, cols = np.mgrid[0:height:size, 0:width:size]
    same = np.full(rows.size, scene), np.full(rows.size, size)
    return np.stack([same[0], rows.ravel(), cols.ravel(), same[1]], axis=1).astype(np.int32)


@dataclass(frozen=True)
class Evidence:
    """Counts per cell.

    Args:
        facts: What was scored and how, as plain values: "classes" (names), "scored_classes" (names
            that means cover), "class_mean", "split", "reference", "crop_size", "overlap",
            "boundary_tolerance_px", "method", "seed", "model" (digest) …
        subsets: Of the modalities; the full one first.
        tables: Counts, a row per subset and cell: sparse int64 (S · C, values of a cell), subset by
            subset. Those that were not read or not counted are absent.
        correlation: Of the errors of the full subset, int64 (scenes, lags, 3): pairs of scored
            pixels at that distance in a row or column, pairs that are both wrong, and wrong pixels
            in them (of a pair up to 2).
        detection: Int64 (S, measures, levels, 2): right and wrong pixels by how uncertain the map
            was there, of `MEASURES`, over all scenes. Of the same rows as the reliability.
    """

    facts: Mapping[str, Any]
    scenes: tuple[ScoredScene, ...]
    subsets: tuple[tuple[str, ...], ...]
    cells: Cells
    tables: Mapping[TableName, scipy.sparse.csr_array]
    correlation: NDArray[np.int64]
    detection: NDArray[np.int64]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""
        return tuple(self.facts["classes"])

    @property
    def mean_over(self) -> tuple[int, ...]:
        """Indices of the classes that means cover."""
        return tuple(self.classes.index(name) for name in self.facts["scored_classes"])

    def counts(
        self,
        table: TableName,
        groups: NDArray[np.integer[Any]] | None = None,
        subset: int = 0,
    ) -> NDArray[np.int64]:
        """Sum the counts of one subset over groups of cells.

        Args:
            groups: Number of the group of each cell (C,), from 0; negative: the cell is left out.
                Default: a group per cell.
            subset: Position in `subsets`.

        Returns:
            Int64 (groups, *shape of a cell): (K, K + 1), (K, 4) or (bins, 3).

        Raises:
            ScoresError: The evidence has no such table.
        """
        if table not in self.tables:
            raise ScoresError(f"the evidence has no table '{table}'; evaluate the run again")
        number = len(self.cells)
        own = self.tables[table][subset * number : (subset + 1) * number]
        if groups is not None:
            own = _summing(groups) @ own
        shape = cell_shape(table, len(self.classes))
        return np.asarray(own.todense(), np.int64).reshape(-1, *shape)


def _summing(groups: NDArray[np.integer[Any]]) -> scipy.sparse.csr_array:
    """Matrix (G, C) that adds up the rows of groups."""
    kept = np.flatnonzero(groups >= 0)
    size = int(groups.max(initial=-1)) + 1
    ones = np.ones(len(kept), np.int64)
    return scipy.sparse.csr_array((ones, (groups[kept], kept)), shape=(size, len(groups)))


def to_table(
    rows: Sequence[scipy.sparse.csr_array] | NDArray[np.int64],
) -> scipy.sparse.csr_array:
    """A table of dense counts (rows, …), or of parts of tables one below the other."""
    if isinstance(rows, np.ndarray):
        return scipy.sparse.csr_array(rows.reshape(len(rows), -1))
    return scipy.sparse.vstack(rows, format="csr")


def write_evidence(path: Path, evidence: Evidence) -> None:
    """Write the file; the same counts make the same bytes.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    with written_whole(path) as (partial,):
        save_evidence(partial, evidence)


def save_evidence(path: Path, evidence: Evidence) -> None:
    """Write to a file that somebody renames when it is whole."""
    described = {
        "format": _FORMAT,
        "facts": dict(evidence.facts),
        "scenes": [scene.to_dict() for scene in evidence.scenes],
        "subsets": [list(subset) for subset in evidence.subsets],
        "measures": list(MEASURES),
        "lags": list(LAGS),
    }
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":"))
    arrays: dict[str, Any] = {"described": np.frombuffer(text.encode(), np.uint8)}
    arrays |= {name: getattr(evidence.cells, name) for name in _CELL_ARRAYS}
    arrays |= {"correlation": evidence.correlation, "detection": evidence.detection}
    for name, table in evidence.tables.items():
        parts = {"data": table.data, "indices": table.indices, "indptr": table.indptr}
        arrays |= {f"{name}.{part}": _narrow(values) for part, values in parts.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """In the smallest unsigned type that holds them."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def read_evidence(path: Path, tables: Sequence[TableName] = TABLES) -> Evidence:
    """Read the file.

    Args:
        tables: Those to read, where they are there; others cost nothing.

    Raises:
        ScoresError: It is not there, damaged, or of another version.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            described = json.loads(arrays["described"].tobytes())
            if described.get("format") != _FORMAT:
                raise ScoresError(
                    f"'{path}' has format {cut(described.get('format'))}; this version reads "
                    f"{_FORMAT}. Evaluate the run again"
                )
            return _unpack(described, arrays, tables)
    except FileNotFoundError:
        others = ", ".join(sorted(p.name for p in path.parent.glob("*.npz")))
        raise ScoresError(
            f"there is no '{path}'{f' (but {others})' if others else ''}: these scores were made "
            "before counts were kept per block, or not at all. Evaluate the run (terrafuse "
            "evaluate RUN)"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ScoresError(f"'{path}' is damaged ({error}). Evaluate the run again") from None


def _unpack(described: Mapping[str, Any], arrays: Any, wanted: Sequence[TableName]) -> Evidence:
    cells = Cells(*(arrays[name].astype(np.int32) for name in _CELL_ARRAYS))
    subsets = tuple(tuple(subset) for subset in described["subsets"])
    rows = len(subsets) * len(cells)
    classes = len(described["facts"]["classes"])
    tables = {
        name: _read_table(arrays, name, rows, int(np.prod(cell_shape(name, classes))))
        for name in wanted
        if f"{name}.data" in arrays
    }
    return Evidence(
        described["facts"],
        tuple(ScoredScene.from_dict(values) for values in described["scenes"]),
        subsets,
        cells,
        tables,
        arrays["correlation"].astype(np.int64),
        arrays["detection"].astype(np.int64),
    )


def _read_table(arrays: Any, name: str, rows: int, columns: int) -> scipy.sparse.csr_array:
    data, indices, starts = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
    values = data.astype(np.int64), indices.astype(np.int32), starts.astype(np.int64)
    table = scipy.sparse.csr_array(values, shape=(rows, columns))
    table.check_format(full_check=True)
    return table
