"""Class schemes: names, colours and the meaning of raw label values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terrafuse.errors import ConfigError, LabelError, cut, exact_number, shown, unknown_name
from terrafuse.samples import IGNORE_INDEX

# A raw label value: an integer, an attribute of a polygon, or a colour "#rrggbb".
Code = int | str
# Void may also be "no value at all", the null attribute of a polygon.
VoidCode = Code | None

# Distinguishable on light and dark backgrounds.
_FIRST_COLORS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#bbbbbb", "#ee7733", "#009988", "#cc3311", "#33bbee", "#332288",
)  # fmt: skip

#: Distinguishable with every kind of colour vision (Okabe and Ito).
DISTINCT_COLORS = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a", "#b2a400",
)  # fmt: skip


def channels(color: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour "#rrggbb"."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def hex_color(channels: Sequence[float]) -> str:
    """The colour "#rrggbb" of red, green and blue, 0 to 255; what follows them is left out."""
    return "#" + "".join(f"{round(value):02x}" for value in channels[:3])


def _mixed(color: str, round_: int) -> str:
    """A colour for the classes after the first: lighter in odd rounds, darker in even ones."""
    share = 0.15 + 0.065 * ((round_ + 1) // 2 * 4 % 11)  # neighbouring rounds differ most
    aim = 255 if round_ % 2 else 0
    return hex_color([v + (aim - v) * share for v in channels(color)])


#: Where a manifest gives no colours: one for each class that there can be.
DEFAULT_COLORS = tuple(
    color if round_ == 0 else _mixed(color, round_)
    for round_ in range(-(-IGNORE_INDEX // len(_FIRST_COLORS)))
    for color in _FIRST_COLORS
)[:IGNORE_INDEX]
_COLOR = re.compile(r"#[0-9a-f]{6}")
# Values this near to a code are named with it.
_NEAR_LEVELS, _NEAR_NUMBER = 8, 0.01
_MOST_LISTED = 10
#: Allowed value of `unknown` besides the class names.
VOID = "void"


@dataclass(frozen=True)
class ClassScheme:
    """Names, colours and raw codes of K classes; the position in each tuple is the class index.

    Args:
        colors: Display colours "#rrggbb".
        codes: Per class, every raw value that stands for it: integers for coded rasters,
            "#rrggbb" for colour-coded ones, strings for polygon attributes. Default: its index.
        void: Raw values that are no class and become `ignore_index`; None is an attribute of a
            polygon that has no value.
        ignore_index: Always 255.
        unknown: Name of the class, or "void", that all other raw values become; None: they are
            refused. It says how labels are read and is not part of the classes' identity.

    Raises:
        ConfigError: Names, colours or codes contradict each other.
    """

    names: tuple[str, ...]
    colors: tuple[str, ...] = ()
    codes: tuple[tuple[Code, ...], ...] = ()
    void: tuple[VoidCode, ...] = ()
    ignore_index: int = IGNORE_INDEX
    unknown: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= IGNORE_INDEX:
            raise ConfigError(f"a class scheme has 1 to 255 classes, not {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"class names are not unique: {_listed(self.names)}")
        if not self.colors:
            colors = tuple(DEFAULT_COLORS[i % len(DEFAULT_COLORS)] for i in range(self.num_classes))
            object.__setattr__(self, "colors", colors)
        if not self.codes:
            object.__setattr__(self, "codes", tuple((i,) for i in range(self.num_classes)))
        object.__setattr__(self, "colors", tuple(color.lower() for color in self.colors))
        for name in ("colors", "codes"):
            if len(getattr(self, name)) != self.num_classes:
                raise ConfigError(
                    f"{self.num_classes} classes but {len(getattr(self, name))} {name}; "
                    "give one per class"
                )
        for color in self.colors:
            if not _COLOR.fullmatch(color):
                raise ConfigError(f"colour '{cut(color)}' is not of the form '#rrggbb'")
        _check_codes(self)
        if self.unknown is not None and self.unknown not in (VOID, *self.names):
            raise ConfigError(unknown_name("value of 'unknown'", self.unknown, [VOID, *self.names]))

    @property
    def num_classes(self) -> int:
        """Number of classes, K."""
        return len(self.names)

    @property
    def has_palette(self) -> bool:
        """True if labels are colour-coded (every code is a colour)."""
        return all(_is_color(code) for codes in self.codes for code in codes)

    def lookup(self) -> dict[VoidCode, int]:
        """Raw value → class index, void values → 255."""
        table: dict[VoidCode, int] = dict.fromkeys(map(_normal, self.void), self.ignore_index)
        table |= {_normal(c): i for i, codes in enumerate(self.codes) for c in codes}
        return table

    def encode(
        self,
        raw: NDArray[Any],
        *,
        nodata: float | None = None,
        where: str = "labels",
        met: Counter[str] | None = None,
    ) -> NDArray[np.uint8]:
        """Return the class indices of a coded raster (H, W) or a colour-coded one (3, H, W).

        Args:
            raw: Integer values in any dtype, or uint8 RGB.
            nodata: The raster's nodata value; ignored unless it is a class code.
            where: Names the labels in the message ("labels of scene 'a' (a.tif)").
            met: Receives the number of pixels per raw value that `unknown` replaced.

        Raises:
            LabelError: A value is neither class nor void nor nodata, and `unknown` is None; lists
                values and counts.
        """
        is_color = raw.ndim == 3
        if is_color:
            values = (raw.astype(np.int64) * np.array([[[65536]], [[256]], [[1]]])).sum(axis=0)
            table = {int(str(c)[1:], 16): i for c, i in self.lookup().items() if _is_color(c)}
        else:
            values = raw
            table = {
                int(c): i
                for c, i in self.lookup().items()
                if c is not None and not isinstance(c, str)
            }
            if nodata is not None and np.isfinite(nodata):
                table.setdefault(int(nodata), self.ignore_index)
        fallback = self.ignore_index
        if self.unknown not in (None, VOID):
            fallback = self.names.index(str(self.unknown))
        labels, unknown = _map_values(values, table, fallback, nodata)
        if unknown and self.unknown is None:
            raise LabelError(_unknown_message(unknown, table, where, is_color, values.size))
        if met is not None:
            met.update({_show(value, is_color): count for value, count in unknown})
        return labels

    def palette(self) -> NDArray[np.uint8]:
        """Return the display colours, uint8 (K, 3)."""
        return np.array([channels(color) for color in self.colors], dtype=np.uint8)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON and YAML, in the form of a manifest."""
        classes = [
            {"name": n, "code": c[0] if len(c) == 1 else list(c), "color": color}
            for n, c, color in zip(self.names, self.codes, self.colors, strict=True)
        ]
        further = {} if self.unknown is None else {"unknown": self.unknown}
        return {"classes": classes, "void": list(self.void), **further}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ClassScheme:
        """Invert `to_dict`; `code` may be one value or a list, `color` may be absent."""
        entries: Sequence[dict[str, Any]] = values["classes"]
        codes = [e.get("code", i) for i, e in enumerate(entries)]
        fallback = DEFAULT_COLORS
        return cls(
            names=tuple(str(e["name"]) for e in entries),
            colors=tuple(
                e.get("color") or fallback[i % len(fallback)] for i, e in enumerate(entries)
            ),
            codes=tuple(tuple(c) if isinstance(c, list | tuple) else (c,) for c in codes),
            void=tuple(values.get("void", ())),
            unknown=values.get("unknown"),
        )


def _is_color(code: VoidCode) -> bool:
    return isinstance(code, str) and _COLOR.fullmatch(code.lower()) is not None


def _normal(code: VoidCode) -> VoidCode:
    return code.lower() if isinstance(code, str) and _is_color(code) else code


def _check_codes(scheme: ClassScheme) -> None:
    flat = [_normal(code) for codes in (*scheme.codes, scheme.void) for code in codes]
    twice = sorted("null" if c is None else str(c) for c, n in Counter(flat).items() if n > 1)
    if twice:
        more = f" and {len(twice) - _MOST_LISTED} more" if len(twice) > _MOST_LISTED else ""
        listed = ", ".join(map(cut, twice[:_MOST_LISTED]))
        raise ConfigError(f"raw label values stand for more than one class or void: {listed}{more}")


def _listed(names: Sequence[str]) -> str:
    """The names that occur twice first, then the others as far as there is room."""
    counts = Counter(names)
    return shown(sorted(names, key=lambda name: counts[name] == 1))


def _map_values(
    values: NDArray[Any], table: dict[int, int], fallback: int, nodata: float | None
) -> tuple[NDArray[np.uint8], list[tuple[float, int]]]:
    """Return class indices, and the values that are not in the table with their counts."""
    # A window has few distinct values: look each up once, then gather.
    if values.dtype == np.uint8:
        counts = np.bincount(values.ravel(), minlength=256)
        found = np.flatnonzero(counts)
        lut = np.full(256, fallback, np.uint8)
        lut[found] = [table.get(int(v), fallback) for v in found]
        unknown = [(float(v), int(counts[v])) for v in found if int(v) not in table]
        return lut[values], unknown
    distinct, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    keys = [_whole(v, nodata) for v in distinct]
    unknown = [
        (float(v), int(n))
        for v, k, n in zip(distinct, keys, counts, strict=True)
        if k is None or (k != "nodata" and k not in table)
    ]
    mapped = [
        table.get(k, fallback) if isinstance(k, int) else (IGNORE_INDEX if k else fallback)
        for k in keys
    ]
    return np.array(mapped, np.uint8)[inverse].reshape(values.shape), unknown


def _whole(value: Any, nodata: float | None) -> int | str | None:
    if nodata is not None and (value == nodata or (np.isnan(nodata) and np.isnan(value))):
        return "nodata" if not np.isfinite(nodata) else int(nodata)
    return int(value) if np.isfinite(value) and float(value).is_integer() else None


def _unknown_message(
    unknown: list[tuple[float, int]], table: dict[int, int], where: str, is_color: bool, size: int
) -> str:
    worst = sorted(unknown, key=lambda item: -item[1])[:5]
    listed = ", ".join(
        f"{_show(v, is_color)} ({n} px, {n / size:.1%}{_near(v, table, is_color)})"
        for v, n in worst
    )
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    known = ", ".join(_show(code, is_color) for code in sorted(table)[:20])
    return (
        f"{where} contain values not in the class scheme: {listed}{more}; known are {known}. "
        "Add them to a class ('code') or to 'void' in the manifest, or set there what all other "
        "values become ('unknown': 'void' or the name of a class)."
    )


def _near(value: float, table: dict[int, int], is_color: bool) -> str:
    """Name the code that a value nearly is: an edited colour, lossy compression, resampling."""
    for code in sorted(table):
        if is_color:
            channels = (int(number).to_bytes(3, "big") for number in (value, code))
            is_near = max(abs(a - b) for a, b in zip(*channels, strict=True)) <= _NEAR_LEVELS
        else:
            is_near = abs(value - code) <= _NEAR_NUMBER
        if is_near:
            return f", nearly {_show(code, is_color)}"
    return ""


def _show(value: float, is_color: bool) -> str:
    """A raw value as a user writes it."""
    return f"#{int(value):06x}" if is_color else exact_number(value)
