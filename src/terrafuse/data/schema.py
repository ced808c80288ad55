"""Schema of `dataset.yaml`, and conversion of its values to the package's types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from terrafuse.config.base import Name, Settings, parse_settings, refuse_booleans
from terrafuse.data.band_names import BandNamesRule
from terrafuse.data.encoding import ENCODED_BANDS, EncodingName
from terrafuse.data.rasters import NodataRule, PerBand, ReadingRules, ResamplingName, RescaleName
from terrafuse.errors import ConfigError, cut, shown, unknown_name
from terrafuse.modalities import Modality, ModalityKind, parse_unit
from terrafuse.samples import Window

_SCALING = ("value_scale", "value_offset")
SCENE_KEYS = (
    "id", "split", "place", "labels", "labels_eroded", "window", "value_scale", "value_offset",
)  # fmt: skip
#: Splits that verbs look for when none is named.
_USUAL_SPLITS = ("train", "val", "test")
_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_IS_COMMENT = "it is empty. In YAML '#' begins a comment: write a colour in quotes, '#1f5fd0'"
# What optical sensors measure, micrometres; radar waves are longer.
_OPTICAL_UM = (0.1, 100.0)
_RADAR_UM = (0.1, 2e6)
_MOST_CODE = 2**63
# Rasters have fewer rows, columns and bands.
_MOST_PIXELS = 2**31
_LONGEST_PATH = 4096
_MOST_FACTOR = 1e15
#: A value that says "no data" may be NaN or infinite.
_Nodata = Annotated[float, Field(allow_inf_nan=True)]
#: Number of a band or page.
_Number = Annotated[int, Field(ge=1, lt=_MOST_PIXELS)]
_Pages = Annotated[tuple[_Number, ...], Field(min_length=1)]


def _check_code(value: Any) -> Any:
    """A raw label value as label files hold it: a whole number or a text.

    Raises:
        ValueError: Something else.
    """
    if isinstance(value, str) and len(value) <= _LONGEST_PATH:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) < _MOST_CODE or value != int(value):
        raise ValueError(
            f"{shown(value)} is no raw label value; give a whole number, a text in quotes (value "
            "of a polygon) or a colour '#rrggbb'"
        )
    return int(value)


def _check_path(path: str) -> str:
    if not path:
        raise ValueError("give a path, or leave the key out")
    if len(path) > _LONGEST_PATH:
        raise ValueError(f"a path has at most {_LONGEST_PATH:,} characters, not {len(path):,}")
    return path


_Path = Annotated[str, AfterValidator(_check_path)]


class ClassSettings(Settings):
    """A class: its name, and its codes in label files."""

    name: Name
    code: Any = Field(None, description="Raw value, or a list of them; default: its position.")
    color: str | None = Field(None, description="Display colour '#rrggbb'.")

    @field_validator("code")
    @classmethod
    def _is_code(cls, value: Any) -> Any:
        if value is None:
            raise ValueError(f"{_IS_COMMENT}. Leave 'code' out for the class's position")
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("give a raw label value, or leave 'code' out for its position")
            return [_check_code(one) for one in value]
        return _check_code(value)

    @field_validator("color")
    @classmethod
    def _is_color(cls, value: str | None) -> str:
        if value is None:
            raise ValueError(_IS_COMMENT)
        if not _COLOR.fullmatch(value):
            raise ValueError(f"colour {shown(value)} is not of the form '#rrggbb'")
        return value


class ModalitySettings(Settings):
    """A modality: its bands, and the rules by which its files are read."""

    bands: tuple[Name, ...] = Field(description="Names, one per channel.")
    kind: ModalityKind = "other"
    wavelengths_um: tuple[float, ...] | None = Field(None, description="Centre, one per band.")
    unit: str = Field("dn", description="One of the list below, in any case.")
    scale: float = Field(1.0, gt=0, description="Pixel size relative to the scene grid.")
    value_scale: PerBand | None = Field(
        None, description="Factor of stored values, or one per band; instead of the scale tag."
    )
    value_offset: PerBand | None = Field(
        None, description="Added to scaled values, or one per band; instead of the offset tag."
    )
    nodata: _Nodata | None = Field(None, description="Instead of the files' nodata tag.")
    nodata_rule: NodataRule = Field(
        "all",
        description="'all': a pixel without data has its nodata value in every band; 'each': bands "
        "are judged one by one.",
    )
    band_names: BandNamesRule = Field(
        "use",
        description="Names that files give their bands: 'use', only 'descriptions', or 'ignore'.",
    )
    resampling: ResamplingName | None = Field(None, description="Default: by kind.")
    read_bands: tuple[_Number | Name, ...] | None = Field(
        None, description="Bands to take from the files: 1-based numbers or descriptions."
    )
    page: _Number | _Pages | Literal["all"] | None = Field(
        None,
        description="Pages to take of files that have several, as bands that follow one another: "
        "a number from 1 on, a list, or 'all'.",
    )
    complex: Literal["amplitude"] | None = Field(None, description="What to take of complex values")
    required: bool = Field(True, description="Whether a scene without it is a fault.")
    rescale: RescaleName | None = Field(
        None,
        description="'scene_range': per band, the minimum of each scene becomes 0, the maximum 1.",
    )
    encoding: EncodingName | None = Field(
        None, description="Channels computed from a generated raster: of segments, or 'stretch'."
    )
    generator: str | None = Field(
        None, description="Fingerprint of what made the rasters; others are rejected."
    )


class LabelSettings(Settings):
    """Rules by which label files are read."""

    attribute: Name | None = Field(None, description="Polygons: field with the class code.")
    area: _Path | None = Field(None, description="Polygons: file with the area that was labelled.")
    background: int | str | None = Field(None, description="Polygons: class between them.")
    nodata: _Nodata | None = Field(None, description="Rasters: instead of the file's nodata tag.")
    page: _Number | None = Field(None, description="Rasters: page to take of files with several.")
    layer: str | None = Field(None, description="Polygons: layer to take of files with several.")
    area_layer: str | None = Field(None, description="Polygons: likewise of the file 'area'.")

    @field_validator("background")
    @classmethod
    def _is_code(cls, value: int | str | None) -> Any:
        return None if value is None else _check_code(value)


class ManifestSettings(Settings):
    """The whole of `dataset.yaml`."""

    root: str | None = Field(
        None,
        max_length=_LONGEST_PATH,
        description="Folder that paths start from, relative to this file; default: its own.",
    )
    classes: tuple[ClassSettings, ...]
    void: tuple[Any, ...] = Field((), description="Raw label values that belong to no class.")
    unknown: str | None = Field(
        None,
        description="Class, or 'void', that all other raw label values become; default: they are "
        "rejected.",
    )
    modalities: dict[str, ModalitySettings]
    grid: str | None = Field(None, description="Modality whose grid is the scene's, or 'labels'.")
    labels: LabelSettings = Field(default_factory=LabelSettings)
    scenes: tuple[dict[str, Any], ...]

    @field_validator("void")
    @classmethod
    def _are_codes(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(None if value is None else _check_code(value) for value in values)


_Side = Annotated[int, Field(lt=_MOST_PIXELS)]


class _SceneSettings(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    id: Name
    split: Name | None = None
    place: Name | None = None
    labels: _Path | None = None
    labels_eroded: _Path | None = None
    window: tuple[_Side, _Side, _Side, _Side] | None = None
    value_scale: dict[str, PerBand] = Field(default_factory=dict)
    value_offset: dict[str, PerBand] = Field(default_factory=dict)

    @field_validator("labels", "labels_eroded", mode="before")
    @classmethod
    def _rules_are_for_all(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            known = ", ".join(LabelSettings.model_fields)
            raise ValueError(
                f"it is the path of a file. Set how all labels are read ({known}) with 'labels' of "
                "the manifest, beside 'classes', and give the path here"
            )
        return value

    @field_validator("window", "value_scale", "value_offset", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        refuse_booleans(cls, info.field_name or "", value)
        return value


@dataclass(frozen=True)
class SceneEntry:
    """One scene of a manifest; paths as written there.

    Args:
        rasters: Paths or patterns per modality.
        labels_eroded: Path of labels without the boundaries between classes, for scoring.
        window: Part of the reference grid that is the scene.
        value_scale: Per modality, factor of the values in its files here.
        value_offset: Per modality, what is added then.
        place: Name of the place or event; scenes of one are not independent.
    """

    id: str
    split: str | None
    rasters: Mapping[str, tuple[str, ...]]
    labels: str | None = None
    labels_eroded: str | None = None
    window: Window | None = None
    value_scale: Mapping[str, PerBand] = field(default_factory=dict)
    value_offset: Mapping[str, PerBand] = field(default_factory=dict)
    place: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in a manifest."""
        values: dict[str, Any] = {"id": self.id}
        if self.split is not None:
            values["split"] = self.split
        if self.place is not None:
            values["place"] = self.place
        for name, paths in self.rasters.items():
            values[name] = paths[0] if len(paths) == 1 else list(paths)
        if self.labels is not None:
            values["labels"] = self.labels
        if self.labels_eroded is not None:
            values["labels_eroded"] = self.labels_eroded
        if self.window is not None:
            w = self.window
            values["window"] = [w.row, w.col, w.height, w.width]
        for key in _SCALING:
            own = {k: list(v) if isinstance(v, tuple) else v for k, v in getattr(self, key).items()}
            values |= {key: own} if own else {}
        return values


def to_modality(name: str, item: ModalitySettings) -> Modality:
    """The modality that the settings describe.

    Raises:
        ConfigError: A unit that does not exist, or fields that do not fit each other.
    """
    try:
        unit = parse_unit(item.unit)
    except ConfigError as error:
        raise ConfigError(f"modality '{name}': {error}") from None
    _check_wavelengths(name, item)
    return Modality(
        name=name,
        bands=item.bands,
        kind=item.kind,
        wavelengths_um=item.wavelengths_um,
        unit=unit,
        scale=item.scale,
    )


def _check_wavelengths(name: str, item: ModalitySettings) -> None:
    low, high = _RADAR_UM if item.kind == "sar" else _OPTICAL_UM
    for band, um in zip(item.bands, item.wavelengths_um or (), strict=False):
        if low <= um <= high:
            continue
        nanometres = f"; {um:g} nm are {um / 1000:g}" if low <= um / 1000 <= high else ""
        radar = "" if item.kind == "sar" else ". Radar has kind 'sar'"
        raise ConfigError(
            f"band '{band}' of modality '{name}' has the wavelength {um:g}; wavelengths_um are "
            f"micrometres between {low:g} and {high:,.0f}{nanometres}{radar}"
        )


def to_rules(name: str, item: ModalitySettings) -> ReadingRules:
    """Return the reading rules that the settings of a modality describe.

    Raises:
        ConfigError: `read_bands` does not fit `bands`, or numbers per band do not.
    """
    for key in _SCALING:
        _check_scaling(key, getattr(item, key), name, len(item.bands))
    needed = 1 if item.encoding else len(item.bands)
    if item.read_bands is not None and len(item.read_bands) != needed:
        raise ConfigError(
            f"modality '{name}' has {needed} bands{' in its files' if item.encoding else ''} but "
            f"{len(item.read_bands)} read_bands; give one per band"
        )
    if item.encoding is not None:
        _check_encoding(name, item, item.encoding)
    return ReadingRules(
        nodata=item.nodata,
        resampling=item.resampling or ReadingRules.for_kind(item.kind).resampling,
        read_bands=item.read_bands,
        page=item.page,
        complex=item.complex,
        required=item.required,
        rescale=item.rescale,
        encoding=item.encoding,
        generator=item.generator,
        nodata_rule=item.nodata_rule,
        band_names=item.band_names,
        value_scale=item.value_scale,
        value_offset=item.value_offset,
    )


def _check_scaling(key: str, given: PerBand | None, name: str, bands: int) -> None:
    numbers = given if isinstance(given, tuple) else (1.0 if given is None else given,)
    if isinstance(given, tuple) and len(given) != bands:
        raise ConfigError(
            f"'{key}' of modality '{name}' has {len(given)} numbers for {bands} bands; give one "
            "per band, or one for all"
        )
    if not all(abs(n) <= _MOST_FACTOR for n in numbers) or (key == "value_scale" and 0 in numbers):
        raise ConfigError(
            f"'{key}' of modality '{name}' is {shown(given)}; give finite numbers up to "
            f"{_MOST_FACTOR:g}, and no factor of 0"
        )


def _check_encoding(name: str, item: ModalitySettings, encoding: EncodingName) -> None:
    bands = ENCODED_BANDS[encoding]
    where = f"modality '{name}' has encoding '{encoding}'"
    if item.bands != bands:
        raise ConfigError(f"{where}, which makes the bands {list(bands)}, not {list(item.bands)}")
    resampling = item.resampling or ReadingRules.for_kind(item.kind).resampling
    if encoding != "stretch" and resampling != "nearest":
        raise ConfigError(
            f"{where} and resampling '{resampling}'; segment numbers cannot be interpolated: write "
            "'resampling: nearest'"
        )


def modality_values(modality: Modality, rules: ReadingRules) -> dict[str, Any]:
    """Return plain values of a modality, as in a manifest; defaults are left out."""
    values = modality.to_dict() | rules.to_dict()
    del values["name"]
    default = ModalitySettings(bands=modality.bands).model_dump()
    default["resampling"] = ReadingRules.for_kind(modality.kind).resampling
    return {key: value for key, value in values.items() if value != default[key]}


def check_names(settings: ManifestSettings, modalities: Mapping[str, Modality]) -> None:
    """Reject ambiguous names, and names that refer to nothing.

    Raises:
        ConfigError: Gives the name, and the nearest valid one.
    """
    if not modalities:
        raise ConfigError("'modalities' is empty; describe at least one")
    if not settings.scenes:
        raise ConfigError("'scenes' is empty; list at least one")
    reserved = set(SCENE_KEYS) & set(modalities)
    if reserved:
        raise ConfigError(
            f"a modality cannot be named '{reserved.pop()}', which is a key of scenes. Rename it"
        )
    if settings.grid not in (None, "labels", *modalities):
        raise ConfigError(unknown_name("name in 'grid'", settings.grid, ["labels", *modalities]))


def to_entry(
    values: Mapping[str, Any], number: int, modalities: Mapping[str, Modality], where: str
) -> SceneEntry:
    """Parse one item of `scenes`.

    Args:
        number: Its position, which names it in messages while it has no id.
        modalities: Modalities that may be keys of it.
        where: Names the file in messages.

    Raises:
        ConfigError: Unknown key (the nearest valid one is named), or a value of the wrong type.
    """
    named = isinstance(values.get("id"), str | int)
    where = f"{where}: scene '{cut(values['id'])}'" if named else f"{where}: scene {number}"
    try:
        item = _SceneSettings.model_validate(values)
    except ValidationError:
        item = parse_settings(_SceneSettings, values, where)  # says what is wrong
    rasters = {}
    for key, given in (item.model_extra or {}).items():
        if key not in modalities:
            raise ConfigError(f"{where}: {unknown_name('key', key, [*SCENE_KEYS, *modalities])}")
        paths = given if isinstance(given, list) else [given]
        if given is None:  # a modality that this scene lacks
            continue
        if not paths or not all(isinstance(p, str) and 0 < len(p) <= _LONGEST_PATH for p in paths):
            raise ConfigError(
                f"{where}: '{key}' is {shown(given)}; give a path, a list of them or none (in "
                "quotes if it looks like a number)"
            )
        rasters[key] = tuple(paths)
    if not rasters:
        raise ConfigError(f"{where} has no raster; give one of {', '.join(modalities)}")
    for key in _SCALING:
        for name, number in getattr(item, key).items():
            if name not in modalities:
                raise ConfigError(f"{where}: {unknown_name(f'name in {key!r}', name, modalities)}")
            try:
                _check_scaling(key, number, name, len(modalities[name].bands))
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    return SceneEntry(
        id=item.id,
        split=item.split,
        rasters=rasters,
        labels=item.labels,
        labels_eroded=item.labels_eroded,
        window=_window(item.window, where),
        value_scale=item.value_scale,
        value_offset=item.value_offset,
        place=item.place,
    )


def _window(values: tuple[int, int, int, int] | None, where: str) -> Window | None:
    if values is None:
        return None
    if min(values[:2]) < 0 or min(values[2:]) < 1:
        raise ConfigError(
            f"{where}: 'window' is {list(values)}; it is [row, column, height, width] in pixels of "
            "the reference grid, counted from 0"
        )
    return Window(*values)


def check_unique(
    entries: Sequence[SceneEntry], where: str, place: Callable[[int], str] = lambda _: ""
) -> None:
    """Reject two scenes with the same id.

    Args:
        place: Position of a scene → its place in the file, for the message.

    Raises:
        ConfigError: Names the id.
    """
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.id in seen:
            raise ConfigError(
                f"{where}: two scenes have the id '{entry.id}'{place(seen[entry.id])}"
                f"{place(number)}; ids must be unique"
            )
        seen[entry.id] = number


def check_splits(
    entries: Sequence[SceneEntry], where: str, place: Callable[[int], str] = lambda _: ""
) -> None:
    """Reject names of splits that differ only by case or blanks: they are meant to be one.

    Args:
        place: As of `check_unique`.

    Raises:
        ConfigError: Names both, with a scene of each.
    """
    _check_alike("split", [entry.split for entry in entries], entries, where, place, _USUAL_SPLITS)


def check_places(
    entries: Sequence[SceneEntry], where: str, place: Callable[[int], str] = lambda _: ""
) -> None:
    """Reject names of places that differ only by case or blanks, likewise.

    Raises:
        ConfigError: Names both, with a scene of each.
    """
    _check_alike("place", [entry.place for entry in entries], entries, where, place)


def _check_alike(
    key: str,
    names: Sequence[str | None],
    entries: Sequence[SceneEntry],
    where: str,
    place: Callable[[int], str],
    usual: Sequence[str] = (),
) -> None:
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if name is not None:
            first.setdefault(name, number)
    known = {name: name for name in usual}
    for name, number in first.items():
        other = known.setdefault("".join(name.split()).casefold(), name)
        if other != name:
            beside = (
                f", scene '{entries[first[other]].id}' in '{other}'{place(first[other])}"
                if other in first
                else ""
            )
            raise ConfigError(
                f"{where}: scene '{entries[number].id}' is in {key} '{name}'{place(number)}"
                f"{beside}. Call it '{other}', or give it a name of its own"
            )
