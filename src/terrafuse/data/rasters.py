"""The rasters of one modality of one scene, read on the modality's grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from terrafuse.data.band_names import (
    BandChoice,
    BandNamesRule,
    choose_by_name,
    doubt_numbers,
)
from terrafuse.data.encoding import Encoder, EncodingName, check_generator
from terrafuse.data.grid import Grid
from terrafuse.data.gridded import GriddedBands, place, usable_nodata
from terrafuse.data.handles import pool
from terrafuse.data.names import gdal_path, with_option
from terrafuse.data.raster_file import PageRule, RasterFile
from terrafuse.data.warping import BandSource, witness
from terrafuse.errors import BandError
from terrafuse.modalities import Modality, ModalityKind
from terrafuse.samples import Window, blocks

#: Unit of a rescaled modality, whatever it was before: the values are no longer dB or metres.
RESCALED_UNIT = "scene range"

_BLOCK = 512
# Bytes of integers that are worth keeping: larger ones take as much as float32, which rounds them.
_MOST_STORED = 2


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
NodataRule = Literal["all", "each"]
#: One number for all bands of a modality, or one each.
PerBand = float | tuple[float, ...]
RescaleName = Literal["scene_range"]


@dataclass(frozen=True)
class ReadingRules:
    """Rules by which the files of one modality become its bands.

    Args:
        nodata: Value that means no data, instead of the files' own tag.
        resampling: Method where a file lies on another grid.
        read_bands: Bands to take, as 1-based numbers or band descriptions, counted across all
            files of the modality; None = all, in order.
        page: Pages to take of files that have several, as bands that follow one another: a number
            from 1 on, several, or "all"; None refuses such files.
        complex: "amplitude": take the modulus of complex values; None refuses them.
        required: Whether a scene without this modality is a fault.
        rescale: "scene_range": per band, the smallest value of the scene becomes 0 and the largest
            1 (a constant band becomes 0); None leaves physical values.
        encoding: What to make of the one band of a generated raster; None takes its values.
        generator: Fingerprint of what made the rasters; others are refused.
        nodata_rule: "all": a pixel has no data where every band has its nodata value, so that a
            good pixel may have this value in some of its bands; "each": band by band, as values
            are always judged that nothing measured has (-9999 and below, 1e10 and above).
        band_names: "use": bands are taken by the names that files give them; "descriptions": by
            descriptions only, not by names of files or colour tags; "ignore": as they come.
        value_scale: Factor of stored values, or one per band, instead of the files' scale tag.
        value_offset: What is added then, instead of the files' offset tag.
    """

    nodata: float | None = None
    resampling: ResamplingName = "bilinear"
    read_bands: tuple[int | str, ...] | None = None
    page: PageRule | None = None
    complex: Literal["amplitude"] | None = None
    required: bool = True
    rescale: RescaleName | None = None
    encoding: EncodingName | None = None
    generator: str | None = None
    nodata_rule: NodataRule = "all"
    band_names: BandNamesRule = "use"
    value_scale: PerBand | None = None
    value_offset: PerBand | None = None

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
        """Inverse of `to_dict`; rules written before a key existed have what held then."""
        fixed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in (BEFORE_RULES | values).items()
        }
        return cls(**fixed)


#: What held before these rules could be named, where it is not the default.
BEFORE_RULES: dict[str, Any] = {"nodata_rule": "each", "band_names": "descriptions"}
# Beyond these (-9999, -32768, ±3.4e38, 1e20) nothing is measured: no good pixel has such a value.
_LEAST_VALUE, _LARGEST_VALUE = -9999, 1e10


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
        choice = pick_bands(modality, files, rules, where)
        picked = choice.picked
        #: Which bands are read and why.
        self.choice = choice
        self.files = tuple(
            _settle_alpha(
                file, [band for i, band in picked if i == position], choice.is_named, where
            )
            for position, file in enumerate(files)
        )
        self.grid = grid
        self._rescale = rules.rescale
        # Measured when first needed; pickled with the source from then on.
        self._range: SceneRange | None = None
        before = np.cumsum([0, *(file.count for file in files)])
        #: 1-based numbers of the bands read, counted through all files, as `read_bands` has them.
        self.numbers = [int(before[i]) + band for i, band in picked]
        self._parts: list[_Part] = []
        self._channels = len(picked)
        for file in self.files if rules.generator else ():
            check_generator(file, rules.generator or "", where)
        encoding = rules.encoding
        self._encoder = Encoder(encoding, self.files[picked[0][0]], where) if encoding else None
        self._is_joint = rules.nodata_rule == "all" and len(picked) > 1
        shares = _share_out(self.files, picked, rules, self._is_joint)
        for share in shares:
            self._parts.append(_Part(share, shares, rules, grid, reference, where))
        #: Type of integers of one or two bytes that `read_stored` returns; None where there is
        #: none, since values are made of what is stored.
        self.stored_dtype = self._find_stored_dtype()

    @property
    def tags(self) -> NDArray[np.float64]:
        """Scale and offset that stored values are read with, per channel (C, 2)."""
        return self._gather(lambda part: part.tags, np.float64)

    @property
    def fill(self) -> NDArray[np.float32]:
        """Physical value per channel that is no data if all have theirs; NaN where there is none.

        Of rule "each" there is none: these pixels are NaN.
        """
        stored = self._gather(lambda part: [[b.fill] for b in part.bands.bands], np.float32)
        scale, offset = self.tags.astype(np.float32).T
        return np.asarray(stored[:, 0] * scale + offset)

    @property
    def has_nodata(self) -> bool:
        """True if any band has a nodata value that its pixels can have."""
        bands = [band for part in self._parts for band in part.bands.bands]
        return any(band.nodata is not None or band.fill is not None for band in bands)

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """Stored value per channel that is no data, alone or with the others; None: none is."""
        found = self._gather(lambda part: [[b.nodata, b.fill] for b in part.bands.bands], object)
        return tuple(own if own is not None else fill for own, fill in found.tolist())

    @property
    def block_shapes(self) -> list[tuple[int, int]]:
        """Rows and columns of a block of each file, in pixels of the modality's grid.

        Raises:
            RasterReadError: A file cannot be opened.
        """
        return [part.bands.block_shape for part in self._parts]

    def _gather(self, get: Callable[[_Part], Any], dtype: Any) -> NDArray[Any]:
        found = {
            channel: row
            for part in self._parts
            for channel, row in zip(part.channels, get(part), strict=True)
        }
        return np.array([found[channel] for channel in range(self._channels)], dtype)

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

    def read_stored(self, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a window as integers, of a source with a `stored_dtype`.

        They are what `read` returns, in a smaller type: where a pixel has data, all its bands must
        have some. Where a band lacks data alone, only NaN can say so.

        Returns:
            Integers (C, h, w), of any value where the mask is False; or float32 as of `read`. Bool
            (h, w), True where any band has data.

        Raises:
            RasterReadError: Pixels cannot be decoded.
        """
        assert self.stored_dtype is not None
        shape = (self._channels, window.height, window.width)
        image, missing = np.zeros(shape, self.stored_dtype), np.zeros(shape, bool)
        fill = np.zeros(shape, bool)
        for part in self._parts:
            part.read_stored(window, image, missing, fill)
        missing |= fill & (fill | missing).all(axis=0)
        if not missing.any():
            return image, np.ones(shape[1:], bool)
        everywhere = np.asarray(missing.all(axis=0))
        if (missing == everywhere).all():
            return image, ~everywhere
        single = image.astype(np.float32)
        np.copyto(single, np.nan, where=missing)
        return single, ~everywhere

    def is_surely_empty(self, window: Window) -> bool:
        """Tell whether no pixel of a window has data, where that is certain without reading any."""
        if self._encoder is not None:  # which looks beyond the window, and at other values
            return False
        return all(part.bands.is_surely_empty(window) for part in self._parts)

    def read_decimated(self, step: int) -> NDArray[np.float32]:
        """Read every `step`-th pixel of the whole grid along rows and columns, in physical units.

        Returns:
            Float32 (C, ceil(H / step), ceil(W / step)), NaN without data. A file that ends within a
            step has no data there.
        """
        shape = (-(-self.grid.height // step), -(-self.grid.width // step))
        image = np.full((self._channels, *shape), np.nan, np.float32)
        fill = np.zeros(image.shape, bool)
        for part in self._parts:
            found = part.read_decimated(step, shape)
            image[part.channels] = found.image
            if found.fill is not None:
                fill[part.channels] = found.fill
        _hide_fill(image, fill)
        return image if self._encoder is None else self._encoder.encode(image)

    def close(self) -> None:
        """Close the files that this process has open."""
        for file in self.files:
            pool.forget(gdal_path(file.path))

    def _find_stored_dtype(self) -> np.dtype[Any] | None:
        if self._encoder is not None or self._rescale is not None:
            return None
        found = {part.stored_dtype for part in self._parts}
        return found.pop() if len(found) == 1 else None

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
        found = [part.read(window) for part in self._parts]
        if len(found) == 1:
            image, fill = found[0].image, found[0].fill
        else:
            image = np.empty((self._channels, window.height, window.width), np.float32)
            fill = None
            for part, own in zip(self._parts, found, strict=True):
                image[part.channels] = own.image
                if own.fill is not None:
                    fill = np.zeros(image.shape, bool) if fill is None else fill
                    fill[part.channels] = own.fill
        if all(own.complete for own in found):
            return image, np.ones(image.shape[1:], bool)
        if fill is not None:
            _hide_fill(image, fill)
        return image, np.asarray(~np.isnan(image).all(axis=0))


class _Read(NamedTuple):
    """Some bands of a window.

    Args:
        image: Float32 (C, h, w), NaN without data.
        complete: Whether there is no NaN for certain.
        fill: Bool (C, h, w): no data where all other bands have none either; None: nowhere.
    """

    image: NDArray[np.float32]
    complete: bool
    fill: NDArray[np.bool_] | None = None


def _hide_fill(image: NDArray[np.float32], fill: NDArray[np.bool_]) -> None:
    """Set pixels of `image` (C, h, w) to NaN of which each band is fill or has no data anyway."""
    if fill.any():
        np.copyto(image, np.nan, where=(fill | np.isnan(image)).all(axis=0))


class _Share(NamedTuple):
    """Bands that a file gives to a modality.

    Args:
        file: The file.
        channels: Which ones of the modality.
        sources: Its bands that they are.
    """

    file: RasterFile
    channels: list[int]
    sources: list[BandSource]


def _share_out(
    files: Sequence[RasterFile],
    picked: Sequence[tuple[int, int]],
    rules: ReadingRules,
    is_joint: bool,
) -> list[_Share]:
    """Per file from which a modality takes bands, which ones."""
    shares = []
    for position, file in enumerate(files):
        own = [(c, band) for c, (number, band) in enumerate(picked) if number == position]
        if own:
            sources = [_band_source(file, band, rules, is_joint) for _, band in own]
            shares.append(_Share(file, [channel for channel, _ in own], sources))
    return shares


class _Part:
    """The bands that one file contributes to a modality.

    Args:
        share: Which ones.
        shares: Those of all files of the modality, this one among them.
        rules: How it is read.
        grid: Target grid.
        reference: The whole of which `grid` is a part.
        where: Names the modality and scene in messages.
    """

    def __init__(
        self,
        share: _Share,
        shares: Sequence[_Share],
        rules: ReadingRules,
        grid: Grid,
        reference: Grid,
        where: str,
    ) -> None:
        file = share.file
        self.channels = share.channels
        has_fill = any(source.fill is not None for source in share.sources)
        self.bands: GriddedBands = place(
            file,
            share.sources,
            grid,
            reference,
            resampling=rules.resampling,
            where=where,
            witnesses=lambda: [
                witness(other.file.spec, other.file.grid, file.grid, other.sources)
                for other in (shares if has_fill else ())
            ],
        )
        #: Scale and offset per band (C, 2).
        self.tags = np.array(
            [
                [
                    _own(rules.value_scale, channel, file.scales[source.index - 1]),
                    _own(rules.value_offset, channel, file.offsets[source.index - 1]),
                ]
                for channel, source in zip(share.channels, share.sources, strict=True)
            ],
            np.float64,
        )
        _check_tags(self.tags, share, where)
        self._tags = None if (self.tags == [1, 0]).all() else self.tags.astype(np.float32)

    def read(self, window: Window) -> _Read:
        """A window of the target grid."""
        inner = None if self.bands.extent is None else window.intersection(self.bands.extent)
        shape = (len(self.channels), window.height, window.width)
        if inner is None:
            return _Read(np.full(shape, np.nan, np.float32), complete=False)
        found = self._read(inner)
        if inner == window:
            return found
        return _within(shape, inner.slices(window), found)

    @property
    def stored_dtype(self) -> np.dtype[Any] | None:
        """Type of stored integers of one or two bytes that are physical values as they are."""
        found = self.bands.stored_dtypes
        if self._tags is not None or self.bands.offset is None or len(found) != 1:
            return None
        (dtype,) = found
        return dtype if dtype.kind in "iu" and dtype.itemsize <= _MOST_STORED else None

    def read_stored(
        self,
        window: Window,
        image: NDArray[Any],
        missing: NDArray[np.bool_],
        fill: NDArray[np.bool_],
    ) -> None:
        """Read a window of the target grid into the part's channels of arrays (C, h, w).

        Args:
            image: Receives stored integers.
            missing: Zeros; receives where there are none.
            fill: Zeros; receives where there are none if all other bands have none either.
        """
        inner = None if self.bands.extent is None else window.intersection(self.bands.extent)
        if inner != window:
            missing[self.channels] = True
        if inner is None:
            return
        place = inner.slices(window)
        values, hidden = self.bands.read(inner)
        image[self.channels, *place] = values
        missing[self.channels, *place] = False if hidden is None else hidden
        found = self.bands.find_fill(values)
        if found is not None:
            fill[self.channels, *place] = found

    def read_decimated(self, step: int, shape: tuple[int, int]) -> _Read:
        """Float32 (C, *shape) with NaN: a pixel of every step."""
        empty = _Read(np.full((len(self.channels), *shape), np.nan, np.float32), complete=False)
        extent = self.bands.extent
        if extent is None:
            return empty
        # Whole steps only, so that the pixels picked are those in the middle of each.
        first = -(-extent.row // step), -(-extent.col // step)
        count = extent.row_stop // step - first[0], extent.col_stop // step - first[1]
        if min(count) < 1:
            return empty
        window = Window(first[0] * step, first[1] * step, count[0] * step, count[1] * step)
        place = slice(first[0], first[0] + count[0]), slice(first[1], first[1] + count[1])
        return _within(empty.image.shape, place, self._read(window, count))

    def _read(self, window: Window, shape: tuple[int, int] | None = None) -> _Read:
        values, hidden = self.bands.read(window, shape)
        fill = self.bands.find_fill(values)
        image = self._to_physical(values)
        is_hidden = hidden is not None and bool(hidden.any())
        if is_hidden:
            np.copyto(image, np.nan, where=hidden)
        return _Read(image, complete=not is_hidden and fill is None, fill=fill)

    def _to_physical(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if np.iscomplexobj(values):
            # A band of real values beside complex ones keeps its sign.
            whole = np.array([band.complex for band in self.bands.bands])
            values = np.where(whole[:, None, None], np.abs(values), values.real)
        with np.errstate(over="ignore", invalid="ignore"):
            image = values.astype(np.float32, copy=False)
            if self._tags is not None:
                image *= self._tags[:, 0, None, None]
                image += self._tags[:, 1, None, None]
        if values.dtype == np.float64:  # values may exceed the range of float32
            np.copyto(image, np.nan, where=np.isinf(image))
        return image


def _within(shape: tuple[int, ...], place: tuple[slice, slice], found: _Read) -> _Read:
    """Pad what was read to an image (C, h, w) without data elsewhere."""
    image = np.full(shape, np.nan, np.float32)
    image[:, *place] = found.image
    if found.fill is None:
        return _Read(image, complete=False)
    fill = np.zeros(shape, bool)
    fill[:, *place] = found.fill
    return _Read(image, complete=False, fill=fill)


def _own(given: PerBand | None, channel: int, tag: float) -> float:
    """Return the number of a band: its own, that of all bands, or the file's tag."""
    if given is None:
        return tag
    return given[channel] if isinstance(given, tuple) else given


def _check_tags(tags: NDArray[np.float64], share: _Share, where: str) -> None:
    """Refuse a scale tag of 0, which some writers mean as none, and tags that are no numbers."""
    for source, (scale, offset) in zip(share.sources, tags, strict=True):
        if scale == 0 or not np.isfinite([scale, offset]).all():
            path = share.file.path
            tag, value = ("offset", offset) if np.isfinite(scale) and scale else ("scale", scale)
            none = int(tag == "scale")
            raise BandError(
                f"{where}: the {tag} tag of band {source.index} of '{path}' is {value:g}, which "
                f"leaves no value; to read values as stored, set 'value_{tag}: {none}' on the "
                "modality in the manifest; to a trained model, give "
                f"'{with_option(path, f'a_{tag}={none}')}'"
            )


def pick_bands(
    modality: Modality, files: Sequence[RasterFile], rules: ReadingRules, where: str
) -> BandChoice:
    """The bands of a modality's files that are its channels.

    Alpha bands are not channels, unless the modality has as many bands as the files have with them.

    Raises:
        BandError: Numbers or names do not fit, or values are complex.
    """
    every = [(i, band) for i, file in enumerate(files) for band in range(1, file.count + 1)]
    if rules.read_bands is not None:
        picked = [_find_band(item, every, files, where) for item in rules.read_bands]
        choice = BandChoice(picked, is_named=True)
        by_number = all(isinstance(item, int) for item in rules.read_bands)
        if by_number and rules.encoding is None and rules.band_names != "ignore":
            choice = choice._replace(notice=doubt_numbers(modality, files, picked))
    else:
        opaque = [(i, band) for i, band in every if not files[i].alpha[band - 1]]
        picked = every if len(every) == len(modality.bands) else opaque
        choice = BandChoice(picked)
        if rules.encoding is None:
            choice = choose_by_name(modality, files, picked, rules.band_names, where)
            picked = choice.picked
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
    return choice


def _settle_alpha(file: RasterFile, picked: Sequence[int], is_told: bool, where: str) -> RasterFile:
    """Treat the file's alpha band as data if it is among the bands picked, or holds data.

    Args:
        is_told: Whether the bands were picked by number or name.

    Raises:
        BandError: It was left out, but holds data and lies before bands that were picked: by their
            order, names of the modality stand for other bands then.
    """
    if any(file.alpha[band - 1] for band in picked):
        return file.with_alpha_as_data()
    judged = file.with_alpha_judged() if picked else file
    if any(file.alpha) and not any(judged.alpha) and not is_told:
        tagged, example = file.alpha.index(True) + 1, with_option(file.path, _first(len(picked)))
        if tagged < max(picked):
            raise BandError(
                f"{where}: band {tagged} of '{file.path}', which has {file.count}, is tagged alpha "
                f"but holds data, so that it is not clear which {len(picked)} are meant. Pick "
                "them with 'read_bands' in the manifest (1-based numbers); to a trained model, "
                f"name the bands with the file, as in '{example}'"
            )
    return judged


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
    raise BandError(
        f"{where}: 'read_bands' does not fit {listed}: {problem}. Correct 'read_bands' in the "
        "manifest; to a trained model, which has its own, give files laid out as in training"
    )


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
        hint = "; it stores colours in a palette: name it so that they are taken, as in "
        hint += f"'{with_option(files[0].path, 'expand=rgb')}'"
    return (
        f"{where}: wrong number of bands: {listed}, but {declared}. In a manifest, correct "
        "'bands', or pick with 'read_bands' (1-based numbers or descriptions); "
        f"{_beside(modality, files)}{hint}"
    )


def _beside(modality: Modality, files: Sequence[RasterFile]) -> str:
    """Say what to do without a manifest."""
    wanted = len(modality.bands)
    if sum(file.count for file in files) < wanted:
        return "to a trained model, give the files of the other bands too"
    example = with_option(files[0].path, _first(wanted))
    return f"to a trained model, name the bands with the file, as in '{example}'"


def _first(count: int) -> str:
    """The first bands, as an option of vrt://."""
    return f"bands={','.join(map(str, range(1, count + 1)))}"


def _band_source(file: RasterFile, number: int, rules: ReadingRules, is_joint: bool) -> BandSource:
    dtype = np.dtype(file.dtypes[number - 1])
    nodata = file.nodata[number - 1] if rules.nodata is None else rules.nodata
    nodata = usable_nodata(nodata, dtype)
    is_fill = is_joint and nodata is not None and _LEAST_VALUE < nodata < _LARGEST_VALUE
    return BandSource(
        index=number,
        nodata=None if is_fill else nodata,
        fill=nodata if is_fill else None,
        masked=bool(file.hides[number - 1]),
        complex=dtype.kind == "c",
        finite=dtype.kind in "iu",
    )
