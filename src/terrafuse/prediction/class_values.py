"""Pixel values of a class map: the codes of the user's labels, or class indices."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.errors import ConfigError, RasterReadError, unknown_name
from terrafuse.prediction.product_table import ABSTAINED
from terrafuse.samples import IGNORE_INDEX

ValuesName = Literal["code", "index"]
_NAMES: tuple[ValuesName, ...] = ("code", "index")
#: Tags of `class_map.tif`: which of the two; names and pixel values of the classes, in their order.
KIND_TAG, NAMES_TAG, VALUES_TAG = "values", "classes", "class_values"
#: Tag of maps with pixels whose class is too uncertain to be named: their value.
ABSTAINED_TAG = "abstained"
#: Name of these pixels, and their colour, or the next that no class has.
ABSTAINED_NAME = "abstained"
_ABSTAINED_COLORS = ((160, 160, 160), (120, 120, 120), (200, 200, 200), (80, 80, 80))
_MOST = 255


@dataclass(frozen=True)
class ClassValues:
    """Pixel values of the classes in a map.

    Args:
        kind: Whether they are codes or indices.
        values: Value of each class.
        nodata: Value of pixels without class.
        reason: Why they are indices although nobody asked for them, or "".
        abstained: Value of pixels whose class is too uncertain; None: there are none.
    """

    kind: ValuesName
    values: tuple[int, ...]
    nodata: int = IGNORE_INDEX
    reason: str = ""
    abstained: int | None = None

    @property
    def lookup(self) -> NDArray[np.uint8]:
        """Class index, `ABSTAINED`, or 255 → value, uint8 (256,)."""
        table = np.full(256, self.nodata, np.uint8)
        table[: len(self.values)] = self.values
        if self.abstained is not None:
            table[ABSTAINED] = self.abstained
        return table

    @property
    def is_index(self) -> bool:
        """Whether the values are what `lookup` takes."""
        indices = (*range(len(self.values)), IGNORE_INDEX)
        own = () if self.abstained is None else ((ABSTAINED, self.abstained),)
        pairs = (*zip(indices, (*self.values, self.nodata), strict=True), *own)
        return all(index == value for index, value in pairs)

    def tags(self, names: tuple[str, ...]) -> dict[str, str]:
        """Tags that say so in a raster."""
        own = {} if self.abstained is None else {ABSTAINED_TAG: str(self.abstained)}
        return {
            KIND_TAG: self.kind,
            NAMES_TAG: json.dumps(names, ensure_ascii=False),
            VALUES_TAG: json.dumps(self.values),
            **own,
        }

    def named(self, scheme: ClassScheme) -> dict[int, tuple[str, tuple[int, int, int]]]:
        """Pixel value → name and colour of what it stands for."""
        colors: list[Any] = [tuple(color) for color in scheme.palette().tolist()]
        found = dict(zip(self.values, zip(scheme.names, colors, strict=True), strict=True))
        if self.abstained is not None:
            free = (c for c in _ABSTAINED_COLORS if c not in colors)
            found[self.abstained] = ABSTAINED_NAME, next(free, _ABSTAINED_COLORS[0])
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `prediction.json`."""
        own = {} if self.abstained is None else {"abstained": self.abstained}
        return {"values": self.kind, "class_values": list(self.values), **own}


def choose_values(
    scheme: ClassScheme, wanted: str | None = None, *, abstains: bool = False
) -> ClassValues:
    """Pixel values for the classes of a scheme.

    Args:
        scheme: The classes.
        wanted: "code" or "index"; None: codes where a byte can hold them and each class has one.
        abstains: True: pixels without a class that is sure enough have a value of their own.

    Raises:
        ConfigError: No such kind, codes that a map cannot hold, or no value left for abstaining.
    """
    if abstains and scheme.num_classes > ABSTAINED:
        raise ConfigError(
            f"{scheme.num_classes} classes and no data leave no value of a byte for pixels that "
            "are abstained from. Leave out --abstain, and judge by the product 'confidence'"
        )
    if wanted is not None and wanted not in _NAMES:
        raise ConfigError(unknown_name("kind of values", wanted, _NAMES))
    problem = "" if wanted == "index" else _why_no_codes(scheme)
    if problem and wanted == "code":
        raise ConfigError(f"a map cannot hold the codes of the classes: {problem}. Choose 'index'")
    if problem or wanted == "index":
        own = ABSTAINED if abstains else None
        return ClassValues("index", tuple(range(scheme.num_classes)), reason=problem, abstained=own)
    codes = tuple(int(own[0]) for own in scheme.codes)
    free = [n for n in range(_MOST, -1, -1) if n not in codes]
    # A value that labels call void would be read as such; there may be no other.
    unused = [n for n in free if n not in scheme.void]
    nodata = IGNORE_INDEX if IGNORE_INDEX in free else (unused or free)[0]
    left = [n for n in (*unused, *free) if n != nodata]
    return ClassValues("code", codes, nodata, abstained=left[0] if abstains else None)


def _why_no_codes(scheme: ClassScheme) -> str:
    for name, codes in zip(scheme.names, scheme.codes, strict=True):
        if len(codes) > 1:
            return f"class '{name}' has several ({', '.join(map(str, codes))})"
        if isinstance(codes[0], str):
            return f"that of class '{name}' is '{codes[0]}', no number"
        if not 0 <= codes[0] <= _MOST:
            return f"that of class '{name}' is {codes[0]}, outside 0 to {_MOST}"
    return ""


def read_class_map(path: str | Path, *, abstained: int = IGNORE_INDEX) -> NDArray[np.uint8]:
    """Class indices (H, W) of a map, 255 = no data, whatever its pixel values are.

    Args:
        path: A `class_map.tif`.
        abstained: Index for pixels whose class was too uncertain; by default that of no data, as
            they have no class.

    Raises:
        RasterReadError: It cannot be read, or holds other values than its tags name.
    """
    try:
        with rasterio.open(path) as dataset:
            raw: NDArray[Any] = dataset.read(1)
            tags, nodata = dataset.tags(), dataset.nodata
    except (rasterio.errors.RasterioError, OSError) as error:
        raise RasterReadError(f"'{path}' cannot be read as a class map: {error}") from None
    return indices_of(raw, tags, nodata, str(path), abstained=abstained)


def indices_of(
    raw: NDArray[Any],
    tags: Mapping[str, str],
    nodata: float | None,
    where: str = "the map",
    *,
    abstained: int = IGNORE_INDEX,
) -> NDArray[np.uint8]:
    """Class indices of pixels of a class map, 255 = no data.

    Args:
        raw: Pixels (H, W).
        tags: Of the raster. Maps without these tags hold indices.
        nodata: Of the raster.
        where: Names it in messages.
        abstained: As in `read_class_map`.

    Raises:
        RasterReadError: It holds other values than its tags name.
    """
    values = json.loads(tags.get(VALUES_TAG, "null"))
    if values is None:
        values = range(len(json.loads(tags.get(NAMES_TAG, "[]"))) or IGNORE_INDEX)
    table = np.full(256, -1, np.int16)
    table[int(IGNORE_INDEX if nodata is None else nodata)] = IGNORE_INDEX
    table[list(values)] = np.arange(len(values))
    if ABSTAINED_TAG in tags:
        table[int(tags[ABSTAINED_TAG])] = abstained
    found = table[raw]
    if (found < 0).any():
        raise RasterReadError(
            f"{where} holds {raw[found < 0].flat[0]}, which is no class by its tags "
            f"({', '.join(map(str, values))}); map the scene again"
        )
    indices: NDArray[np.uint8] = found.astype(np.uint8)
    return indices
