"""The rasters of one modality of one scene, read on the modality's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.encoding import Encoder, EncodingName, check_generator
from terrafuse.data.grid import Grid
from terrafuse.data.gridded import GriddedBands, place, usable_nodata
from terrafuse.data.handles import gdal_path, pool
from terrafuse.data.raster_file import RasterFile
from terrafuse.data.warping import BandSource
from terrafuse.errors import BandError
from terrafuse.modalities import Modality, ModalityKind
from terrafuse.samples import Window, blocks

#: Unit of a rescaled modality, whatever it was before: the values are no longer dB or metres.
RESCALED_UNIT = "scene range"

_BLOCK = 512


@dataclass(frozen=True)
class SceneRange:
    """Minimum and range of each band over all its pixels with data.

    Args:
        low: Float32 (C,); 0 where a band has no data.
        extent: Maximum minus minimum, float32 (C,); 1 where a band is constant or has no data.
    """

    low: NDArray[np.float32]
    extent: NDArray[np.float32]

    @classmethod
    def measure(
        cls, read: Callable[[Window], NDArray[np.float32]], height: int, width: int
    ) -> SceneRange:
        """Measure a raster in one pass, block by block.

        Args:
            read: Values (C, h, w) of a window, NaN without data.
        """
        lows, highs = [], []
        for window in blocks(height, width, _BLOCK):
            image = read(window)
            lows.append(np.fmin.reduce(image, axis=(1, 2), initial=np.inf))
            highs.append(np.fmax.reduce(image, axis=(1, 2), initial=-np.inf))
        low, high = np.min(lows, axis=0), np.max(highs, axis=0)
        # A constant band becomes 0, not 0/0.
        return cls(np.where(low <= high, low, 0), np.where(low < high, high - low, 1))

    def rescale(self, image: NDArray[np.float32]) -> None:
        """Rescale an image (C, h, w) in place: minimum of the scene → 0, maximum → 1."""
        image -= self.low[:, None, None]
        image /= self.extent[:, None, None]


ResamplingName = Literal["nearest", "bilinear", "cubic", "average"]
RescaleName = Literal["scene_range"]


@dataclass(frozen=True)
class ReadingRules:
    """Rules by which the files of one modality become its bands.

    Args:
        nodata: Value that means no data, instead of the files' own tag.
        resampling: Method where a file lies on another grid.
        read_bands: Bands to take, as 1-based numbers or band descriptions, counted across all
            files of the modality; None = all, in order.
        complex: "amplitude" takes the modulus of complex values; None rejects them.
        required: Whether a scene without this modality is an error.
        rescale: "scene_range" maps, per band, the minimum of the scene to 0 and the maximum to 1 (a
            constant band becomes 0); None leaves physical values.
        encoding: Channels computed from the one band of a generated raster; None takes its values.
        generator: Fingerprint of what must have made the rasters; others are rejected.
    """

    nodata: float | None = None
    resampling: ResamplingName = "bilinear"
    read_bands: tuple[int | str, ...] | None = None
    complex: Literal["amplitude"] | None = None
    required: bool = True
    rescale: RescaleName | None = None
    encoding: EncodingName | None = None
    generator: str | None = None

    @classmethod
    def for_kind(cls, kind: ModalityKind) -> ReadingRules:
        """Return the default rules of a kind of modality."""
        return cls(resampling="nearest" if kind == "structure" else "bilinear")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and YAML."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReadingRules:
        """Invert `to_dict`; rules written before a key existed get its default."""
        fixed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fixed)


class RasterSource:
    """The rasters of one modality in one scene.

    Args:
        modality: Modality whose bands are read.
        files: Its files; their bands are concatenated.
        grid: The modality's grid in the scene.
        reference: Full grid of which `grid` is a part (they differ where a scene is a window).
        where: Names the modality and scene in messages.

    Raises:
        BandError: The bands of the files do not fit the modality, or values are complex.
        GridMismatchError: A file does not overlap the grid.
    """

    def __init__(
        self,
        modality: Modality,
        files: Sequence[RasterFile],
        rules: ReadingRules,
        grid: Grid,
        reference: Grid,
        where: str,
    ) -> None:
        picked = pick_bands(modality, files, rules, where)
        self.files = tuple(
            _settle_alpha(file, [band for i, band in picked if i == position])
            for position, file in enumerate(files)
        )
        self.grid = grid
        self._rescale = rules.rescale
        # Measured when first needed; pickled with the source from then on.
        self._range: SceneRange | None = None
        self._parts = []
        self._channels = len(picked)
        for file in self.files if rules.generator else ():
            check_generator(file, rules.generator or "", where)
        encoding = rules.encoding
        self._encoder = Encoder(encoding, self.files[picked[0][0]], where) if encoding else None
        for position, file in enumerate(self.files):
            own = [(c, band) for c, (number, band) in enumerate(picked) if number == position]
            if own:
                self._parts.append(_Part(file, own, rules, grid, reference, where))

    def read(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window of the modality's grid: physical, or as the rules encode or rescale it.

        The first window of a rescaled modality costs one pass over all of it.

        Returns:
            Float32 (C, h, w), NaN where a band has no data; bool (h, w), True where any has.

        Raises:
            RasterReadError: Pixels cannot be decoded.
        """
        image, valid = self._read_values(window)
        if self._rescale == "scene_range":
            self._scene_range().rescale(image)
        return image, valid

    def read_decimated(self, step: int) -> NDArray[np.float32]:
        """Read every `step`-th pixel of the whole grid along rows and columns, in physical units.

        Returns:
            Float32 (C, ceil(H / step), ceil(W / step)), NaN without data. A file that ends within a
            step has no data there.
        """
        shape = (-(-self.grid.height // step), -(-self.grid.width // step))
        image = np.full((self._channels, *shape), np.nan, np.float32)
        for part in self._parts:
            image[part.channels] = part.read_decimated(step, shape)
        return image if self._encoder is None else self._encoder.encode(image)

    def close(self) -> None:
        """Close the files that this process has open."""
        for file in self.files:
            pool.forget(gdal_path(file.path))

    def _scene_range(self) -> SceneRange:
        if self._range is None:
            self._range = SceneRange.measure(
                lambda window: self._read_values(window)[0], self.grid.height, self.grid.width
            )
        return self._range

    def _read_values(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self._encoder is None:
            return self._read_physical(window)
        image = self._encoder.read(window, lambda part: self._read_physical(part)[0])
        return image, np.asarray(~np.isnan(image).all(axis=0))

    def _read_physical(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if len(self._parts) == 1:
            image, complete = self._parts[0].read(window)
        else:
            image = np.empty((self._channels, window.height, window.width), np.float32)
            known = []
            for part in self._parts:
                image[part.channels], every = part.read(window)
                known.append(every)
            complete = all(known)
        if complete:
            return image, np.ones(image.shape[1:], bool)
        return image, np.asarray(~np.isnan(image).all(axis=0))


class _Part:
    """The bands that one file contributes to a modality.

    Args:
        own: (channel, 1-based band) pairs.
        reference: Full grid of which the target grid `grid` is a part.
        where: Names the modality and scene in messages.
    """

    def __init__(
        self,
        file: RasterFile,
        own: Sequence[tuple[int, int]],
        rules: ReadingRules,
        grid: Grid,
        reference: Grid,
        where: str,
    ) -> None:
        self.channels = [channel for channel, _ in own]
        bands = [number for _, number in own]
        sources = [_band_source(file, number, rules) for number in bands]
        self.bands: GriddedBands = place(
            file, sources, grid, reference, resampling=rules.resampling, where=where
        )
        tags = np.array([[file.scales[b - 1], file.offsets[b - 1]] for b in bands], np.float32)
        self._tags = None if (tags == [1, 0]).all() else tags

    def read(self, window: Window) -> tuple[NDArray[np.float32], bool]:
        """Read float32 (C, h, w), NaN without data, and tell whether all pixels have data."""
        inner = None if self.bands.extent is None else window.intersection(self.bands.extent)
        shape = (len(self.channels), window.height, window.width)
        if inner is None:
            return np.full(shape, np.nan, np.float32), False
        values, hidden = self.bands.read(inner)
        image = self._to_physical(values)
        if hidden is not None:
            np.copyto(image, np.nan, where=hidden)
        if inner == window:
            return image, self.bands.complete
        padded = np.full(shape, np.nan, np.float32)
        padded[:, *inner.slices(window)] = image
        return padded, False

    def read_decimated(self, step: int, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Read float32 (C, *shape), NaN without data: one pixel per step."""
        image = np.full((len(self.channels), *shape), np.nan, np.float32)
        extent = self.bands.extent
        if extent is None:
            return image
        # Whole steps only, so that the pixel picked is the middle of each.
        first = -(-extent.row // step), -(-extent.col // step)
        count = extent.row_stop // step - first[0], extent.col_stop // step - first[1]
        if min(count) < 1:
            return image
        window = Window(first[0] * step, first[1] * step, count[0] * step, count[1] * step)
        values, hidden = self.bands.read(window, count)
        found = self._to_physical(values)
        if hidden is not None:
            np.copyto(found, np.nan, where=hidden)
        image[:, first[0] : first[0] + count[0], first[1] : first[1] + count[1]] = found
        return image

    def _to_physical(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if np.iscomplexobj(values):
            values = np.abs(values)
        with np.errstate(over="ignore", invalid="ignore"):
            image = values.astype(np.float32, copy=False)
            if self._tags is not None:
                image *= self._tags[:, 0, None, None]
                image += self._tags[:, 1, None, None]
        if values.dtype == np.float64:  # values may exceed the range of float32
            np.copyto(image, np.nan, where=np.isinf(image))
        return image


def pick_bands(
    modality: Modality, files: Sequence[RasterFile], rules: ReadingRules, where: str
) -> list[tuple[int, int]]:
    """Pick the (position of the file, 1-based band in it) of every channel.

    Alpha bands are not channels, unless the modality has as many bands as the files have with them.

    Raises:
        BandError: Numbers or names do not fit, or values are complex.
    """
    every = [(i, band) for i, file in enumerate(files) for band in range(1, file.count + 1)]
    if rules.read_bands is not None:
        picked = [_find_band(item, every, files, where) for item in rules.read_bands]
    else:
        opaque = [(i, band) for i, band in every if not files[i].alpha[band - 1]]
        picked = every if len(every) == len(modality.bands) else opaque
    if rules.encoding is not None:
        if len(picked) != 1:
            listed = ", ".join(f"'{files[i].path}'" for i, _ in picked[:2])
            raise BandError(
                f"{where}: encoding '{rules.encoding}' is made of one band; {listed} has "
                f"{len(picked)}. Pick it with 'read_bands', or remove 'encoding'"
            )
    elif len(picked) != len(modality.bands):
        raise BandError(_wrong_count(modality, files, rules, len(picked), where))
    for i, band in picked:
        dtype = files[i].dtypes[band - 1]
        if dtype.startswith("complex") and rules.complex is None:
            raise BandError(
                f"{where}: '{files[i].path}' holds complex values ({dtype}); models take real "
                "ones. Set 'complex: amplitude' on the modality to read their modulus"
            )
    return picked


def _settle_alpha(file: RasterFile, picked: Sequence[int]) -> RasterFile:
    """Treat the file's alpha band as data if it is among the bands picked, or holds data."""
    if any(file.alpha[band - 1] for band in picked):
        return file.with_alpha_as_data()
    return file.with_alpha_judged() if picked else file


def _find_band(
    item: int | str, every: Sequence[tuple[int, int]], files: Sequence[RasterFile], where: str
) -> tuple[int, int]:
    names = [files[i].descriptions[band - 1] for i, band in every]
    if isinstance(item, int):
        if 1 <= item <= len(every):
            return every[item - 1]
        problem = f"there is no band {item}; bands are 1 to {len(every)}"
    elif names.count(item) == 1:
        return every[names.index(item)]
    else:
        listed = ", ".join(f"'{name}'" for name in dict.fromkeys(names) if name) or "none at all"
        times = f"{names.count(item)} bands are" if item in names else "no band is"
        problem = f"{times} described as '{item}'; descriptions are {listed}"
    listed = ", ".join(f"'{file.path}'" for file in files)
    raise BandError(f"{where}: 'read_bands' does not fit {listed}: {problem}")


def _wrong_count(
    modality: Modality, files: Sequence[RasterFile], rules: ReadingRules, found: int, where: str
) -> str:
    declared = f"modality '{modality.name}' declares {len(modality.bands)} "
    declared += f"({', '.join(modality.bands[:12])}{' …' if len(modality.bands) > 12 else ''})"
    if rules.read_bands is not None:
        return f"{where}: 'read_bands' picks {found} bands, but {declared}; give one per band"
    listed = ", ".join(f"'{file.path}' has {file.count}" for file in files)
    hint = ""
    if files[0].palette is not None and len(modality.bands) == 3:
        hint = "; it stores colours in a palette: expand it first (gdal_translate -expand rgb)"
    return (
        f"{where}: wrong number of bands: {listed}, but {declared}. Correct 'bands', or pick with "
        f"'read_bands' (1-based numbers or descriptions){hint}"
    )


def _band_source(file: RasterFile, number: int, rules: ReadingRules) -> BandSource:
    dtype = np.dtype(file.dtypes[number - 1])
    nodata = file.nodata[number - 1] if rules.nodata is None else rules.nodata
    return BandSource(
        index=number,
        nodata=usable_nodata(nodata, dtype),
        masked=bool(file.hides[number - 1]),
        complex=dtype.kind == "c",
        finite=dtype.kind in "iu",
    )
