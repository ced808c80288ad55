"""A finished class map on disk, ours or another program's: names, colours, and rows of classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from terrafuse.classes import DEFAULT_COLORS, ClassScheme, hex_color
from terrafuse.data import Grid
from terrafuse.data.handles import without_warnings
from terrafuse.errors import ConfigError, DataError, RasterReadError, TerrafuseError, cut
from terrafuse.prediction.class_values import (
    ABSTAINED_NAME,
    ABSTAINED_TAG,
    NAMES_TAG,
    VALUES_TAG,
)
from terrafuse.samples import IGNORE_INDEX, Window

CLASS_MAP, CONFIDENCE = "class_map", "confidence"
# Of a map in one file, and of one in tiles; never both, as one replaces the other.
_ENDS = (".tif", ".vrt")
_NAMING = "name its classes: --classes water=1,forest=2"


@dataclass(frozen=True)
class ClassRaster:
    """A class map that can be read.

    Args:
        path: The raster.
        grid: Its grid.
        names: Of the classes, and last of what was abstained from, if anything was.
        colors: "#rrggbb" each.
        values: Pixel value of each.
        nodata: Values that stand for no data.
        confidence: Raster of the confidence of each pixel, if there is one.
        abstains: Whether the last name is that of pixels whose class was too uncertain.
    """

    path: Path
    grid: Grid
    names: tuple[str, ...]
    colors: tuple[str, ...]
    values: tuple[int, ...]
    nodata: tuple[int, ...]
    confidence: Path | None = None
    abstains: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes; being abstained from is none."""
        return len(self.names) - self.abstains

    @property
    def scheme(self) -> ClassScheme:
        """Names, colours and pixel values of the classes, these as codes."""
        count = self.num_classes
        codes = tuple((value,) for value in self.values[:count])
        return ClassScheme(self.names[:count], self.colors[:count], codes)

    @cached_property
    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        table = dict.fromkeys(self.nodata, IGNORE_INDEX)
        table |= {value: index for index, value in enumerate(self.values)}
        keys = sorted(table)
        return np.array(keys, np.int64), np.array([table[key] for key in keys], np.uint8)

    def indices(self, raw: NDArray[Any]) -> NDArray[np.uint8]:
        """Positions in `names` of pixels, 255 = no data.

        Raises:
            RasterReadError: A value is no class.
        """
        keys, found = self._sorted
        at = np.minimum(np.searchsorted(keys, raw), len(keys) - 1)
        unknown = keys[at] != raw
        if unknown.any():
            raise RasterReadError(
                f"'{self.path}' holds {raw[unknown].flat[0]}, which is none of its classes "
                f"({', '.join(map(str, self.values[:20]))}); {_NAMING}"
            )
        return found[at]

    @contextmanager
    def reading(self) -> Iterator[RasterReader]:
        """Open the raster, and that of the confidence.

        Raises:
            RasterReadError: One of them cannot be read.
        """
        with opened(self.path) as map_:
            if self.confidence is None:
                yield RasterReader(self, map_, None)
                return
            with opened(self.confidence) as confidence:
                yield RasterReader(self, map_, confidence)


class RasterReader:
    """Reader of windows of an open class map; created by `ClassRaster.reading`."""

    def __init__(self, raster: ClassRaster, dataset: Any, confidence: Any) -> None:
        self._raster, self._dataset, self._confidence = raster, dataset, confidence

    def classes(self, window: Window) -> NDArray[np.uint8]:
        """Class indices (h, w), 255 = no data.

        Raises:
            RasterReadError: The pixels cannot be decoded, or a value is no class.
        """
        with _read_errors(self._raster.path):
            raw = self._dataset.read(1, window=_raster_window(window))
        return self._raster.indices(raw)

    def thinned(self, height: int, width: int) -> NDArray[np.uint8]:
        """Class indices of the whole map in fewer pixels (height, width), 255 = no data.

        Raises:
            RasterReadError: The pixels cannot be decoded, or a value is no class.
        """
        with _read_errors(self._raster.path):
            raw = self._dataset.read(1, out_shape=(height, width))
        return self._raster.indices(raw)

    def confidence(self, window: Window) -> NDArray[np.float32] | None:
        """Confidence from 0 to 1 (h, w), NaN = no data; None if the map has none.

        Raises:
            RasterReadError: The pixels cannot be decoded.
        """
        if self._confidence is None:
            return None
        with _read_errors(Path(self._confidence.name)):
            raw = self._confidence.read(1, window=_raster_window(window))
        share: NDArray[np.float32] = raw.astype(np.float32) * np.float32(
            self._confidence.scales[0] or 1
        )
        share += np.float32(self._confidence.offsets[0] or 0)
        if self._confidence.nodata is not None:
            share[raw == self._confidence.nodata] = np.nan
        return share


def open_class_raster(
    path: str | Path,
    *,
    classes: Mapping[str, int] | None = None,
    confidence: str | Path | None = None,
    beside: bool = True,
) -> ClassRaster:
    """Find out what a class map holds, without reading its pixels.

    Args:
        path: The raster, or the folder of a map of ours.
        classes: Name → pixel value, where the raster does not say so, or instead of what it says;
            all other values are no class.
        confidence: Raster of the confidence; default: `confidence.tif` beside `class_map.tif`.
        beside: Whether that default is looked for.

    Raises:
        RasterReadError: It cannot be read.
        DataError: It is no class map; or the confidence is on another grid.
        ConfigError: Two names for one value.
    """
    path = Path(path)
    if path.is_dir():
        found = [
            path / f"{CLASS_MAP}{end}" for end in _ENDS if (path / f"{CLASS_MAP}{end}").exists()
        ]
        if not found:
            raise DataError(
                f"'{path}' holds no {CLASS_MAP}.tif. Name the raster of the classes itself"
            )
        path = found[0]
    with opened(path) as dataset:
        _check_kind(dataset, path)
        grid = Grid.from_dataset(dataset)
        names = dict(classes or _named(dataset, path))
        abstained = None if classes else _abstained(dataset, path)
        if abstained is not None:
            name = ABSTAINED_NAME if ABSTAINED_NAME not in names else f"({ABSTAINED_NAME})"
            names[name] = abstained
        values = tuple(names.values())
        if len(set(values)) < len(values):
            raise ConfigError(f"--classes: a value of '{path}' has two names; give each one name")
        nodata = _nodata_of(dataset, path, values, given=classes is not None)
        colors = _colors(dataset, values)
    own = path.with_name(f"{CONFIDENCE}{path.suffix}")
    is_ours = path.stem == CLASS_MAP and path.suffix in _ENDS
    if confidence is None and beside and is_ours and own.exists():
        confidence = own
    if confidence is not None:
        _check_confidence(Path(confidence), path, grid)
    return ClassRaster(
        path, grid, tuple(names), colors, values, nodata,
        Path(confidence) if confidence else None, abstained is not None,
    )  # fmt: skip


def read_grid(path: str | Path) -> Grid:
    """Grid of any raster.

    Raises:
        RasterReadError: It cannot be read.
    """
    path = Path(path)
    with opened(path) as dataset:
        return Grid.from_dataset(dataset)


def parse_classes(text: str | None) -> dict[str, int] | None:
    """Classes as the command line names them: "water=1,forest=2".

    Raises:
        ConfigError: It has another form.
    """
    if text is None:
        return None
    found: dict[str, int] = {}
    for item in text.split(","):
        name, equals, value = item.rpartition("=")
        if not equals or not name.strip() or not value.strip().lstrip("-").isdigit():
            raise ConfigError(
                f"--classes: '{cut(item)}' is not of the form NAME=VALUE, as in water=1,forest=2"
            )
        if name.strip() in found:
            raise ConfigError(f"--classes: '{cut(name.strip())}' is named twice; leave one out")
        found[name.strip()] = int(value)
    return found


def _check_kind(dataset: Any, path: Path) -> None:
    if dataset.count != 1:
        what = "is a colour image" if dataset.count in (3, 4) else f"has {dataset.count} bands"
        raise DataError(
            f"'{path}' {what}, not a map of classes, which has one band. Name the {CLASS_MAP}.tif "
            "of a map, or another raster of classes"
        )
    if np.dtype(dataset.dtypes[0]).kind not in "iu":
        raise DataError(
            f"'{path}' holds {dataset.dtypes[0]}; classes are whole numbers. Name the "
            f"{CLASS_MAP}.tif of a map, or another raster of classes"
        )


def _named(dataset: Any, path: Path) -> dict[str, int]:
    """Names and values as the raster's tags, categories or colours say them."""
    tags = dataset.tags()
    if NAMES_TAG in tags:
        try:
            names = [str(name) for name in json.loads(tags[NAMES_TAG])]
            values = [int(v) for v in json.loads(tags.get(VALUES_TAG, "null")) or range(len(names))]
            return dict(zip(names, values, strict=True))
        except (ValueError, TypeError):
            raise DataError(
                f"'{path}' names its classes in tags that cannot be read; {_NAMING}"
            ) from None
    if names := _categories(path):
        return {name: value for value, name in enumerate(names) if name}
    try:
        palette = dataset.colormap(1)
    except ValueError:
        raise DataError(f"'{path}' does not say which classes it has; {_NAMING}") from None
    return {f"{value}": value for value in palette if value != dataset.nodata and value < 255}


def _abstained(dataset: Any, path: Path) -> int | None:
    """Value of pixels whose class was too uncertain, as a map of ours says it."""
    tags = dataset.tags()
    if NAMES_TAG not in tags or ABSTAINED_TAG not in tags:
        return None
    try:
        return int(tags[ABSTAINED_TAG])
    except ValueError:
        raise DataError(
            f"'{path}' names its classes in tags that cannot be read; {_NAMING}"
        ) from None


def _categories(path: Path) -> list[str]:
    """Names of values that GDAL keeps beside a raster; the position of a name is its value."""
    side_car = path.with_name(f"{path.name}.aux.xml")
    try:
        root = ElementTree.parse(side_car).getroot()  # noqa: S314
    except (OSError, ElementTree.ParseError):
        return []
    names = [item.text or "" for item in root.iterfind("PAMRasterBand[@band='1']/CategoryNames/*")]
    # Two values of one name are two classes.
    return [f"{n} ({v})" if n and names.count(n) > 1 else n for v, n in enumerate(names)]


def _nodata_of(
    dataset: Any, path: Path, values: tuple[int, ...], *, given: bool
) -> tuple[int, ...]:
    """Values that are no class: that of the nodata tag, and what `--classes` leaves out."""
    nodata = dataset.nodata
    own = () if nodata is None or not float(nodata).is_integer() else (int(nodata),)
    if own and own[0] in values:
        raise DataError(
            f"'{path}' has the nodata value {own[0]}, which is also that of a class. Give its "
            "classes without it: --classes water=1,forest=2"
        )
    if not given:
        # Ours have 255 for it; a raster of another program without the tag has none.
        return own or ((IGNORE_INDEX,) if IGNORE_INDEX not in values else ())
    kind = np.iinfo(dataset.dtypes[0])
    if kind.bits > 8:
        return own
    return tuple(v for v in range(kind.min, kind.max + 1) if v not in values)


def _colors(dataset: Any, values: tuple[int, ...]) -> tuple[str, ...]:
    try:
        palette = dataset.colormap(1)
    except ValueError:
        palette = {}
    return tuple(
        hex_color(palette[value])
        if value in palette
        else DEFAULT_COLORS[index % len(DEFAULT_COLORS)]
        for index, value in enumerate(values)
    )


def _check_confidence(confidence: Path, path: Path, grid: Grid) -> None:
    with opened(confidence) as dataset:
        own = Grid.from_dataset(dataset)
    if (own.height, own.width) != (grid.height, grid.width) or own.offset_in(grid) != (0, 0):
        raise DataError(
            f"'{confidence}' is on another grid than '{path}': {own.height} × {own.width} pixels "
            f"and {grid.height} × {grid.width}. Give the confidence of this map"
        )


def _raster_window(window: Window) -> RasterWindow:
    return RasterWindow(window.col, window.row, window.width, window.height)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except TerrafuseError:
        raise
    except (RasterioError, OSError) as error:
        if not path.exists():
            raise RasterReadError(f"'{path}' does not exist. Check the path") from None
        if isinstance(error, RasterioError):
            raise RasterReadError(f"'{path}' cannot be read as a raster: {error}") from None
        raise


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a raster for a while; one without CRS is no reason for a warning.

    Raises:
        RasterReadError: It cannot be read.
    """
    with _read_errors(path):
        with without_warnings():
            dataset = rasterio.open(path)
        with dataset:
            yield dataset
