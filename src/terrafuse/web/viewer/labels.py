"""Routes by which the page reads and keeps painted polygons, and labels of a reference sample.

A page sends back the `ETag` of what it read as `If-Match`, so that two that paint one scene do not
undo each other's work: the second is refused, and reads again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

import numpy as np
import shapely
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from terrafuse.api.datasets import TRAIN_SPLITS
from terrafuse.data import Grid, Manifest, load_manifest
from terrafuse.data.painted import (
    MOST_VERTICES,
    PaintedLayer,
    PaintedPolygon,
    checked_shape,
    painted_path,
    pixel_shapes,
    read_layer,
    write_layer,
)
from terrafuse.errors import (
    DataError,
    LabelError,
    SceneNotFoundError,
    TerrafuseError,
    cut,
    unknown_name,
)
from terrafuse.maps import SampleFile, read_labels, read_sample, write_labels
from terrafuse.web.refusals import Refusal
from terrafuse.web.viewer.document import Labelling, Place, Places, Sampling
from terrafuse.web.viewer.layers import class_entries

#: Characters of the id of a polygon.
MOST_ID = 100
_GEOJSON = "application/geo+json"


async def _read_body(request: Request) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(_read_body)]


def labelling_of(
    manifest: Manifest,
    scene: str,
    *,
    href: str = "labels",
    train_splits: Sequence[str] = TRAIN_SPLITS,
) -> Labelling:
    """What can be painted over a scene.

    Args:
        href: Address of the routes of `labels_router`, relative to the view's document.
        train_splits: Splits that are learnt from.

    Raises:
        SceneNotFoundError: No such scene.
    """
    split = _split_of(manifest, scene)
    scheme = manifest.scheme
    return Labelling(
        classes=class_entries(scheme.names, scheme.colors),
        href=href,
        file=painted_path(manifest.path).name,
        split=split,
        is_used=split in train_splits,
    )


def labels_router(manifest: Manifest, scenes: Mapping[str, str]) -> APIRouter:
    """Routes `/NAME/labels` of painted polygons: GET and PUT of GeoJSON in scene pixels.

    Args:
        manifest: Of the data set, beside which they are kept.
        scenes: Name in addresses → id of the scene.
    """
    router = APIRouter()
    store = _Store(manifest)

    @router.get("/{name}/labels")
    def get_labels(name: str) -> Response:
        """Painted polygons of a scene, in the order in which they are drawn."""
        with _of_the_file():
            return store.collection(_scene_of(scenes, name))

    @router.put("/{name}/labels")
    def put_labels(name: str, request: Request, body: Body) -> Response:
        """Replace the painted polygons of a scene."""
        with _of_the_file():
            return store.save(_scene_of(scenes, name), _parsed(body), _expected(request))

    return router


def sampling_of(path: str | Path, *, grid: Grid | None = None) -> tuple[Sampling, Places]:
    """A reference sample to be labelled, and its points as places, in the order of its ids.

    Args:
        path: GeoPackage of `terrafuse sample`.
        grid: Of the scene that is shown; None: that of the map it was drawn from.

    Raises:
        DataError: The file is no sample, or of pixels of another map.
    """
    sample = read_sample(path)
    _check_grid(Path(path), sample, grid)
    is_blind = bool(sample.about.get("blind", False))
    pixels = sample.pixels
    texts = [
        f"point {number + 1}"
        if is_blind
        else f"point {number + 1}, mapped as {sample.strata[stratum].name}"
        for number, stratum in enumerate(pixels.stratum.tolist())
    ]
    places = tuple(
        Place(row=row, col=col, height=1, width=1, value=0.0, text=text)
        for row, col, text in zip(pixels.row.tolist(), pixels.col.tolist(), texts, strict=True)
    )
    sampling = Sampling(
        classes=sample.classes,
        href="sample",  # of `sample_router`, beside the view's document
        file=Path(path).name,
        ids=tuple(range(1, len(pixels) + 1)),
        is_blind=is_blind,
    )
    return sampling, Places(id="sample", title="Points of the sample", places=places)


def sample_router(path: str | Path) -> APIRouter:
    """Routes `/sample` of the labels of a reference sample: GET of all, PUT of some.

    Args:
        path: GeoPackage of `terrafuse sample`.
    """
    router, turn = APIRouter(), Lock()

    @router.get("/sample")
    def get_sample() -> Response:
        """Reference class of every point; null without."""
        return _sample_labels(path)

    @router.put("/sample")
    def put_sample(body: Body) -> Response:
        """Set the reference class of some points."""
        labels = _labels_in(_parsed(body))
        with turn:
            write_labels(path, labels)
            return _sample_labels(path)

    return router


@dataclass
class _Store:
    """Painted polygons of a data set.

    Args:
        manifest: Beside which they are kept.
    """

    manifest: Manifest
    _grids: dict[str, Grid] = field(default_factory=dict)
    _seen: tuple[int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._seen = _state_of(self.manifest.path)

    def collection(self, scene: str) -> Response:
        """The polygons of a scene as GeoJSON."""
        return self._show(scene, read_layer(painted_path(self.manifest.path), scene), [])

    def save(self, scene: str, values: Any, expected: str | None) -> Response:
        """Keep the polygons of a GeoJSON collection in place of those of a scene."""
        if expected is None:
            raise Refusal(
                428, "the request has no 'If-Match': send the ETag of the polygons that were read"
            )
        self._check_manifest()
        grid, names = self._grid(scene), self.manifest.scheme.names
        # Of a class that was renamed since; refusing them would refuse all that is painted beside.
        before = read_layer(painted_path(self.manifest.path), scene).classes
        stale = [name for name in dict.fromkeys(before) if name and name not in names]
        polygons, notes = _polygons_in(values, grid, (*names, *stale))
        used = {polygon.name for polygon in polygons}
        notes += [
            f"class '{cut(name)}' is not in the manifest any more, and training refuses its "
            "polygons. Paint over them, or erase them"
            for name in stale
            if name in used
        ]
        kept = write_layer(
            painted_path(self.manifest.path), scene, grid, polygons,
            expected=None if expected == "*" else expected,
        )  # fmt: skip
        return self._show(scene, kept, notes)

    def _show(self, scene: str, layer: PaintedLayer, notes: Sequence[str]) -> Response:
        shapes = pixel_shapes(layer, self._grid(scene))
        rows = zip(layer.ids, layer.classes, layer.painted_at, shapes, strict=True)
        features = [
            {
                "type": "Feature",
                "properties": {"id": id, "class": name, "painted_at": painted_at},
                "geometry": _plain(shape),
            }
            for id, name, painted_at, shape in rows
        ]
        content = {"type": "FeatureCollection", "features": features, "notes": list(notes)}
        headers = {"ETag": f'"{layer.etag}"', "Cache-Control": "no-store"}
        return JSONResponse(content, headers=headers, media_type=_GEOJSON)

    def _check_manifest(self) -> None:
        """Refuse what is painted in classes of a manifest that was changed since.

        Raises:
            Refusal: Its classes differ, or it cannot be read.
        """
        state = _state_of(self.manifest.path)
        if state == self._seen:
            return
        try:
            is_same = load_manifest(self.manifest.path).scheme == self.manifest.scheme
        except TerrafuseError:
            is_same = False
        if not is_same:
            raise Refusal(
                409,
                f"'{self.manifest.path.name}' has other classes than when this viewer was started, "
                "or cannot be read. Start the viewer again",
            )
        self._seen = state

    def _grid(self, scene: str) -> Grid:
        if scene not in self._grids:
            opened = self.manifest.unpainted().scene(scene)
            self._grids[scene] = opened.grid
            opened.close()
        return self._grids[scene]


def _state_of(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns


def _plain(shape: Any) -> dict[str, Any]:
    """A geometry of GeoJSON; of one part: a polygon."""
    parts = shapely.get_parts(shape)
    value: dict[str, Any] = shapely.geometry.mapping(parts[0] if len(parts) == 1 else shape)
    return value


def _polygons_in(
    values: Any, grid: Grid, classes: Sequence[str]
) -> tuple[list[PaintedPolygon], list[str]]:
    """The polygons of a GeoJSON collection, checked, and what was changed of them.

    Raises:
        LabelError: There is something else in it.
    """
    features = values.get("features") if isinstance(values, dict) else None
    if not isinstance(features, list) or values.get("type") != "FeatureCollection":
        raise LabelError("the body is no GeoJSON FeatureCollection")
    polygons: list[PaintedPolygon] = []
    notes, seen, left = [], set[str](), MOST_VERTICES
    for number, feature in enumerate(features, start=1):
        id, name = _properties(feature, number, classes)
        where = f"polygon '{cut(id)}'"
        if id in seen:
            raise LabelError(f"{where} is there twice; give each polygon an id of its own")
        seen.add(id)
        shape, left = _shape(feature.get("geometry"), where, left)
        try:
            shape, changed = checked_shape(shape, grid, where)
        except shapely.errors.ShapelyError as error:  # type: ignore[attr-defined]
            raise LabelError(f"{where} is no area: {cut(error)}") from None
        polygons.append(PaintedPolygon(id, name, shape))
        notes += [f"{where}: {changed}"] if changed else []
    return polygons, notes


def _properties(feature: Any, number: int, classes: Sequence[str]) -> tuple[str, str]:
    """Id and class of a feature.

    Raises:
        LabelError: It has none, or the class is unknown.
    """
    own = feature.get("properties") if isinstance(feature, dict) else None
    if not isinstance(own, dict) or feature.get("type") != "Feature":
        raise LabelError(f"number {number} of the collection is no feature with properties")
    id, name = own.get("id"), own.get("class")
    if not isinstance(id, str) or not id.strip() or len(id) > MOST_ID or not id.isprintable():
        raise LabelError(
            f"feature {number} has no 'id': give it a text of 1 to {MOST_ID} characters"
        )
    if not isinstance(name, str) or name not in classes:
        raise LabelError(f"polygon '{cut(id)}': {unknown_name('class', name, classes)}")
    return id.strip(), name


def _shape(geometry: Any, where: str, left: int) -> tuple[Any, int]:
    """A polygon or several, and how many vertices may follow.

    Raises:
        LabelError: It is no polygon, or has too many vertices.
    """
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    parts = geometry.get("coordinates") if isinstance(geometry, dict) else None
    if kind == "Polygon":
        parts = [parts]
    if kind not in ("Polygon", "MultiPolygon") or not isinstance(parts, list) or not parts:
        raise LabelError(f"{where} has a geometry of type {cut(kind)}; only polygons are painted")
    polygons = []
    for part in parts:
        if not isinstance(part, list) or not part:
            raise LabelError(f"{where} has no outline")
        rings = [_ring(ring, where) for ring in part]
        left -= int(shapely.get_num_coordinates(rings).sum())
        if left < 0:
            raise LabelError(
                f"the polygons of the scene have more than {MOST_VERTICES:,} vertices; paint with "
                "fewer, or leave some out"
            )
        polygons.append(shapely.polygons(rings[0], rings[1:] or None))
    return shapely.multipolygons(polygons), left


def _ring(points: Any, where: str) -> Any:
    if not isinstance(points, list) or len(points) > MOST_VERTICES:
        raise LabelError(f"{where}: an outline is no list of at most {MOST_VERTICES:,} points")
    try:
        if any(isinstance(v, str | bool) for point in points for v in point):
            raise TypeError
        array = np.array([point[:2] for point in points], np.float64).reshape(len(points), 2)
    except (TypeError, ValueError, OverflowError, IndexError):
        raise LabelError(f"{where}: points are [column, row], two numbers each") from None
    if not np.isfinite(array).all():
        raise LabelError(f"{where} has coordinates that are not finite")
    if len(array) and (array[0] != array[-1]).any():
        array = np.concatenate([array, array[:1]])
    if len(array) < 4:
        raise LabelError(f"{where}: an outline has fewer than three corners")
    return shapely.linearrings(array)


def _sample_labels(path: str | Path) -> Response:
    sample = read_sample(path)
    positions = read_labels(path, sample).tolist()
    names = [None if k < 0 else sample.classes[k] for k in positions]
    labels = {str(id): name for id, name in enumerate(names, start=1)}
    return JSONResponse({"labels": labels}, headers={"Cache-Control": "no-store"})


def _labels_in(values: Any) -> dict[int, str | None]:
    """The labels of a body.

    Raises:
        LabelError: It is something else.
    """
    labels = values.get("labels") if isinstance(values, dict) else None
    if not isinstance(labels, dict):
        raise LabelError('the body is not {"labels": {id: class or null}}')
    found: dict[int, str | None] = {}
    for id, name in labels.items():
        if not (id.isascii() and id.isdecimal() and len(id) < 10):
            raise LabelError(f"'{cut(id)}' is no id of a point; ids are whole numbers from 1")
        if not (name is None or isinstance(name, str)):
            raise LabelError(f"point {id}: a label is the name of a class, or null")
        found[int(id)] = name
    return found


def _check_grid(path: Path, sample: SampleFile, grid: Grid | None) -> None:
    own = sample.grid
    if grid is not None and (own.height, own.width) != (grid.height, grid.width):
        raise DataError(
            f"'{path}' was drawn from a map of {own.height} × {own.width} pixels, and the scene "
            f"has {grid.height} × {grid.width}. Show it with the map that it was drawn from"
        )


def _split_of(manifest: Manifest, scene: str) -> str | None:
    for entry in manifest.entries:
        if entry.id == scene:
            return entry.split
    raise SceneNotFoundError(unknown_name("scene", scene, manifest.ids()[:20]))


def _scene_of(scenes: Mapping[str, str], name: str) -> str:
    if name not in scenes:
        raise Refusal(404, f"there is no scene '{cut(name)}' here")
    return scenes[name]


def _expected(request: Request) -> str | None:
    tag = request.headers.get("If-Match")
    # A server between may have compressed the answer, which makes its tag a weak one.
    return None if tag is None else tag.strip().removeprefix("W/").strip('"')


def _parsed(body: bytes) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {cut(error)}") from None


@contextmanager
def _of_the_file() -> Iterator[None]:
    """Tell what is wrong with the file from what is wrong with a request.

    Raises:
        Refusal: 409: the file cannot be used as it is.
    """
    try:
        yield
    except (LabelError, SceneNotFoundError):
        raise
    except DataError as error:
        raise Refusal(409, str(error)) from error
