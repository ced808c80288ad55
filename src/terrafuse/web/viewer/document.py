"""What the page reads: `index.json` with the scenes, and `view.json` of each.

All addresses are relative to the file that names them, so that a folder of them can lie anywhere.
The page counts in pixels of the scene grid: x = column and y = row of a pixel's upper left corner.
Scenes that are rotated, in degrees or without CRS are alike there; `Ground` leads to coordinates.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT: Literal[1] = 1
#: What a layer is of, in the order in which the page lists them.
Role = Literal[
    "modality", "class_map", "truth", "difference", "confidence", "entropy", "probability",
    "attribution", "subset", "other",
]  # fmt: skip
PlacesId = Literal["uncertain", "wrong", "modality", "sample"]


class Part(BaseModel):
    """A part of a document; keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LonLat(Part):
    """Degrees (WGS 84) at crossings of rows and columns, to be interpolated linearly.

    Args:
        rows: Ascending, from 0 to the height.
        cols: Ascending, from 0 to the width.
        lon: By row, then column. Continuous: beyond ±180 where the scene crosses the date line.
        lat: As `lon`.
    """

    rows: tuple[float, ...]
    cols: tuple[float, ...]
    lon: tuple[tuple[float, ...], ...]
    lat: tuple[tuple[float, ...], ...]


class Ground(Part):
    """Where the scene grid lies.

    Args:
        crs: Name as people say it ("EPSG:32630", else that of the WKT); None: unknown.
        unit: Of coordinates: "metre", "degree" …; None without CRS.
        transform: a, b, c, d, e, f: x = a·col + b·row + c, y = d·col + e·row + f.
        pixel_metres: Width and height of a pixel on the ground, in the middle; None: unknown.
        north: Clockwise angle in radians from up (a row less) to north, in the middle.
        lonlat: None without CRS.
    """

    crs: str | None
    unit: str | None
    transform: tuple[float, float, float, float, float, float]
    pixel_metres: tuple[float, float] | None
    north: float
    lonlat: LonLat | None


class ClassEntry(Part):
    """A class: value in class layers, colour `#rrggbb`, pixels and hectares on the map."""

    value: int
    name: str
    colour: str
    pixels: int | None = None
    area_ha: float | None = None


class Band(Part):
    """A band of a layer.

    Args:
        name: Of the band.
        unit: As the manifest says ("dn", "dB", "m"); None: unknown.
        wavelength_um: None: none.
        factor: value = stored · factor + summand.
        summand: See `factor`.
        least: Smallest value, physical; None: no data at all.
        most: Largest value.
        low: Percentile 2, where the stretch begins.
        high: Percentile 98.
    """

    name: str
    unit: str | None = None
    wavelength_um: float | None = None
    factor: float = 1.0
    summand: float = 0.0
    least: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None


class Index(Part):
    """A normalised difference (a - b) / (a + b) of two bands, such as NDVI."""

    id: str
    title: str
    a: int
    b: int


class Components(Part):
    """Three principal components of many bands.

    Args:
        mean: Per band.
        axes: Three times a weight per band.
        low: Percentile 2 of each component.
        high: Percentile 98.
    """

    mean: tuple[float, ...]
    axes: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]
    low: tuple[float, float, float]
    high: tuple[float, float, float]


class Layer(Part):
    """A raster of the scene.

    Args:
        id: Unique in the view; part of permalinks, and so the same each time: "optical",
            "class_map", "subset_sar+dsm".
        title: As people read it.
        role: What it is of.
        kind: image: bands are stretched; classes: values of `classes`; number: one band on a
            colour ramp; names: whole numbers with `names`.
        href: A cloud-optimised GeoTIFF, tiled, with overviews by halves.
        embedded: The same file as a script for pages opened from disk; None: not written.
        height: Rows of the raster.
        width: Columns.
        pixels: Scene pixels (rows, columns) per pixel of the raster: (2, 2) is half as fine.
        bands: In the file's order.
        nodata: Stored value without data, in every band. NaN stands as the text "nan".
        rgb: Three bands (numbers from 0) to begin with; one: grey.
        indices: That its bands allow.
        components: Of layers with more than three bands.
        names: Value → text and colour, for `names`.
        ramp: Colour ramp of `number`: viridis, magma, gray, blues.
        is_shown: Whether the page begins with it.
    """

    id: str
    title: str
    role: Role
    kind: Literal["image", "classes", "number", "names"]
    href: str
    embedded: str | None = None
    height: int
    width: int
    pixels: tuple[float, float] = (1.0, 1.0)
    bands: tuple[Band, ...]
    nodata: float | Literal["nan"] | None = None
    rgb: tuple[int, ...] = ()
    indices: tuple[Index, ...] = ()
    components: Components | None = None
    names: tuple[ClassEntry, ...] = ()
    ramp: Literal["viridis", "magma", "gray", "blues"] = "viridis"
    is_shown: bool = False

    @property
    def nodata_value(self) -> float | None:
        """`nodata` as a number."""
        return None if self.nodata is None else float(self.nodata)


class Place(Part):
    """A rectangle of scene pixels worth a look.

    Args:
        value: By which it was chosen, higher first.
        text: Says why, in a few words with figures.
        thumbnail: Address of a PNG; None: none.
    """

    row: int
    col: int
    height: int
    width: int
    value: float
    text: str
    thumbnail: str | None = None


class Places(Part):
    """A list of places: most uncertain, most wrong, decided by one modality; points of a sample."""

    id: PlacesId
    title: str
    places: tuple[Place, ...]


class Labelling(Part):
    """What can be painted; only pages of `terrafuse view` have it.

    Args:
        classes: That polygons may have; `value` is the raw code as text or number in `code`.
        href: GET and PUT of a GeoJSON FeatureCollection in scene pixels ([col, row]); properties
            `class` (name), `id` (text, made by the page).
        file: Where they are kept, as people read it.
        split: Of the scene; painted polygons of others than the training's are not learnt from.
        is_used: Whether training takes them.
    """

    classes: tuple[ClassEntry, ...]
    href: str
    file: str
    split: str | None
    is_used: bool


class Sampling(Part):
    """A reference sample to be labelled; its points are the places of the list "sample".

    Args:
        classes: Names that a label may have.
        href: GET {"labels": {id: name or null}} and PUT of some of them.
        file: Of the sample.
        ids: Of the points, in the order of the places.
        is_blind: Class map, confidence and what is made of them are hidden while labelling.
    """

    classes: tuple[str, ...]
    href: str
    file: str
    ids: tuple[int, ...]
    is_blind: bool


class View(Part):
    """One scene: `view.json`.

    Args:
        why: Address that explains a pixel (`?row=&col=`), answers `Why`; None: nothing can.
        pixel: Address of values as rasterio reads them (`?row=&col=`), for the tests; None: none.
    """

    format: Literal[1] = FORMAT
    id: str
    title: str
    height: int
    width: int
    ground: Ground
    classes: tuple[ClassEntry, ...]
    layers: tuple[Layer, ...]
    places: tuple[Places, ...] = ()
    why: str | None = None
    pixel: str | None = None
    labelling: Labelling | None = None
    sampling: Sampling | None = None
    notes: tuple[str, ...] = ()


class Influence(Part):
    """Of one modality: probabilities of the classes without it, and what it costs the class."""

    modality: str
    probabilities: tuple[float, ...]
    lost: float


class Why(Part):
    """Why a pixel has its class: the model once more on the window around it.

    Args:
        probabilities: In the order of the view's classes.
        influences: One per modality that has data there.
        text: A sentence.
    """

    row: int
    col: int
    mapped: str | None
    probabilities: tuple[float, ...]
    influences: tuple[Influence, ...]
    text: str


class Entry(Part):
    """A scene in the list.

    Args:
        state: ready: `href` can be read; waiting: POST to `make` begins to prepare it.
        make: Answers {"state", "done", "total", "error"}; GET of it tells how far it is.
    """

    id: str
    title: str
    split: str | None = None
    href: str
    state: Literal["ready", "waiting"] = "ready"
    make: str | None = None


class ViewIndex(Part):
    """All scenes of a page: `index.json`."""

    format: Literal[1] = FORMAT
    title: str
    software: str
    is_static: bool
    views: tuple[Entry, ...] = Field(min_length=1)
