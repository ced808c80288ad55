"""A scene as the page shows it: its rasters, its layers, its places."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.data import Grid, Manifest, Scene
from terrafuse.data.handles import without_warnings
from terrafuse.data.raster_file import RasterFile, inspect_raster
from terrafuse.data.remote import state
from terrafuse.errors import DataError, RasterReadError, TerrafuseError
from terrafuse.maps.class_raster import ClassRaster, open_class_raster
from terrafuse.prediction.areas import AREAS_CSV, AreaCount
from terrafuse.prediction.product_table import PRODUCTS
from terrafuse.progress import Progress
from terrafuse.samples import IGNORE_INDEX, Window
from terrafuse.web.viewer.copies import (
    Raster,
    Reader,
    Store,
    class_encoding,
    raster_window,
    read_small,
    suits,
    told_damage,
)
from terrafuse.web.viewer.document import ClassEntry, Layer, Place, Places, PlacesId, Role, View
from terrafuse.web.viewer.ground import describe_ground
from terrafuse.web.viewer.layers import Look, class_entries, class_layer, names_layer
from terrafuse.web.viewer.places import (
    Blocks,
    mapped_classes,
    modality_places,
    uncertain_places,
    wrong_places,
)
from terrafuse.web.viewer.planned import (
    Planned,
    copy_stored,
    modalities_of,
    plain_grid,
    plan_modality,
    plan_product,
    stored_encoding,
)
from terrafuse.web.viewer.shown import Shown

if TYPE_CHECKING:
    from terrafuse.api.mapping import TrainedModel
    from terrafuse.web.viewer.why import Explainer

_T = TypeVar("_T")
#: Values of the difference between map and truth; 0 where one of them has no class.
EQUAL, DIFFERENT = 1, 2
#: Folder of a map in which those of subsets of its modalities lie, each named "sar+dsm".
SUBSETS = "subsets"
#: Copies of fewer pixels in all are made without being asked for.
SOON = 1 << 24
_ENDS = (".tif", ".vrt")
_ORDER: tuple[Role, ...] = (
    "modality", "class_map", "truth", "difference", "confidence", "entropy", "probability",
    "attribution", "subset", "other",
)  # fmt: skip
# Classes of up to so many pixels are counted one by one.
_COUNTED = 1 << 24
_OVERVIEW = 2048
_MOST_NAMED = 5


@dataclass(frozen=True)
class Subject:
    """What is to be shown of one scene.

    Args:
        id: In addresses: letters, digits, ".", "_" and "-".
        title: As people read it.
        store: Where copies of its rasters are kept.
        scene: Opens its rasters; None: there are none but the map.
        map: Folder of its map, or a raster of classes; None: there is none.
        split: Of the scene.
        is_made: Whether the map is there.
        make: Makes the map; None: nothing does.
        explainer: Says why; None: nothing can.
        as_trained: Opens the scene as the model reads it.
        manifest: That the scene is of, beside which polygons are painted; None: it is of none.
        scene_id: Of the scene in it.
        train_splits: Splits whose painted polygons are learnt from.
        notes: For the reader.
    """

    id: str
    title: str
    store: Store
    scene: Callable[[], Scene] | None = None
    map: Path | None = None
    split: str | None = None
    is_made: Callable[[], bool] = lambda: True
    make: Callable[[Progress | None], None] | None = None
    explainer: Explainer | None = None
    as_trained: Callable[[TrainedModel], Scene] | None = None
    manifest: Manifest | None = None
    scene_id: str = ""
    train_splits: tuple[str, ...] = ("train",)
    notes: tuple[str, ...] = ()


class Plan:
    """Layers of a scene, of which no pixel has been read yet.

    Args:
        subject: What is to be shown.

    Raises:
        DataError: There is nothing to be shown.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._notes = list(subject.notes)
        self._class_map = self._open_map()
        self._scene = self._open_scene()
        if self._class_map is None and self._scene is None:
            reason = self._notes[-1] if self._notes else "it has no rasters"
            raise DataError(f"nothing of '{subject.title}' can be shown: {reason}")
        self.grid = self._class_map.grid if self._class_map else self._of_scene.grid
        self._classes = self._find_classes()
        self._planned: list[Planned] = []
        self._plan_modalities()
        self._plan_map()
        self._plan_truth()

    @property
    def _of_scene(self) -> Scene:
        assert self._scene is not None
        return self._scene

    @property
    def to_make(self) -> int:
        """Pixels of the copies that have to be made."""
        return sum(one.raster.area for one in self._planned if not one.raster.is_there)

    def show(self, progress: Progress | None = None) -> Shown:
        """Make the copies, and describe the scene.

        Args:
            progress: Called with (pixels done, pixels in all) of the copies.
        """
        self._prepare(progress)
        described = self._described()
        planned = sorted(self._planned, key=lambda one: _ORDER.index(one.look.role))
        rasters = {one.look.id: one.raster.path for one in planned}
        layers = tuple(described[one.look.id] for one in planned)
        classes = self._counted(layers, rasters)
        self._note_strangers(layers, rasters)
        subject = self._subject
        can_tell = subject.explainer is not None and subject.as_trained is not None
        view = View(
            id=subject.id,
            title=subject.title,
            height=self.grid.height,
            width=self.grid.width,
            ground=describe_ground(self.grid),
            classes=classes,
            layers=layers,
            places=self._places(layers, rasters),
            why="why" if can_tell and self._class_map is not None else None,
            pixel="pixel",
            notes=tuple(dict.fromkeys(self._notes)),
        )
        if self._scene is not None:
            self._scene.close()
        return Shown(view, rasters, self.grid)

    def _open_map(self) -> ClassRaster | None:
        path = self._subject.map
        return None if path is None else open_class_raster(path, beside=False)

    def _open_scene(self) -> Scene | None:
        """The scene, if it can be opened and lies on the grid of the map."""
        if self._subject.scene is None:
            return None
        try:
            scene = self._subject.scene()
            grid = scene.grid
        except (TerrafuseError, OSError) as error:
            self._notes.append(f"the rasters of the scene cannot be opened: {error}")
            return None
        own = None if self._class_map is None else self._class_map.grid
        if own is None or _same_grid(own, grid):
            return scene
        self._notes.append(
            f"the scene is on another grid than the map now ({grid.height} × {grid.width} pixels, "
            f"the map {own.height} × {own.width}); its rasters are left out"
        )
        return None

    def _find_classes(self) -> tuple[ClassEntry, ...]:
        raster = self._class_map
        if raster is not None:
            return class_entries(raster.names, raster.colors, raster.values)
        scheme = self._of_scene.scheme
        if scheme is None:
            return ()
        return class_entries(scheme.names, scheme.colors)

    def _plan_modalities(self) -> None:
        scene = self._scene
        present = [m for m in scene.modalities if m.name not in scene.missing] if scene else []
        for modality in present:
            try:
                planned = plan_modality(self._subject.store, self._of_scene, modality)
            except (TerrafuseError, OSError) as error:
                self._notes.append(f"{modality.name} cannot be shown: {error}")
                continue
            own = planned.look
            id = self._free_id(own.id)
            look = Look(id, own.title, own.role, own.nodata, is_shown=modality is present[0])
            self._planned.append(Planned(look, planned.raster, planned.describe))

    def _free_id(self, name: str) -> str:
        """Id of a modality's layer: its name, unless another layer has it or may have it.

        Layers of maps are called as their products; some disks fold case.
        """
        taken = {*PRODUCTS, "truth", "difference", *(one.look.id for one in self._planned)}
        folded, id = {other.lower() for other in taken}, name
        while id.lower() in folded or id.lower().startswith("subset_"):
            id = f"modality_{id}"
        return id

    def _plan_map(self) -> None:
        raster = self._class_map
        if raster is None:
            return
        nodata = float(raster.nodata[0]) if raster.nodata else None
        self._add_class_map(raster, Look("class_map", "Class map", "class_map", nodata, True))
        folder = self._subject.map
        if folder is None or not folder.is_dir():
            return
        for name, product in PRODUCTS.items():
            path = _product_file(folder, name)
            if path is not None and not product.is_class_map:
                self._add(path, partial(plan_product, self._subject.store, product))
        for own in sorted((folder / SUBSETS).glob(f"*/class_map{_ENDS[0]}")):
            names = own.parent.name
            look = Look(f"subset_{names}", f"Class map of {names} alone", "subset", nodata)
            found = open_class_raster(own, beside=False)
            if (found.names, found.values) == (raster.names, raster.values):
                self._add_class_map(found, look)

    def _add_class_map(self, raster: ClassRaster, look: Look) -> None:
        file = inspect_raster(raster.path, f"map '{raster.path}'")
        encoding = partial(stored_encoding, file, "mode")
        served = suits(file, self.grid) or copy_stored(
            self._subject.store, look.id, file, self.grid, encoding()
        )
        self._planned.append(Planned(look, served, class_layer))

    def _add(self, path: Path, planning: Callable[[Path, RasterFile, Grid], Planned]) -> None:
        """Plan a raster of the map, if it can be read."""
        try:
            file = inspect_raster(path, f"map '{path.parent}'")
            if not _same_grid(file.grid, self.grid):
                raise DataError(f"'{path}' is on another grid than the class map")
            self._planned.append(planning(path, file, self.grid))
        except TerrafuseError as error:
            self._notes.append(f"{path.name} cannot be shown: {error}")

    def _plan_truth(self) -> None:
        scene = self._scene
        if scene is None or not scene.has_labels or scene.scheme is None:
            return
        table = self._truth_values(scene.scheme)
        if table is None:
            return
        nodata = int(table[IGNORE_INDEX])
        made_of = scene.made_of
        about = (
            "truth", made_of.labels, made_of.label_rules, made_of.scheme, table.tobytes(),
            plain_grid(self.grid), [state(str(p)) for p in scene.paths().get("labels", ())],
            _area_state(scene),
        )  # fmt: skip

        @contextmanager
        def reading() -> Iterator[Reader]:
            yield lambda window: table[scene.read_labels(window)]

        truth = self._subject.store.copy("truth", about, self.grid, class_encoding(nodata), reading)
        look = Look("truth", "Truth (labels)", "truth", nodata, self._class_map is None)
        self._planned.append(Planned(look, truth, class_layer))
        mapped = next((one.raster for one in self._planned if one.look.id == "class_map"), None)
        if mapped is not None and self._class_map is not None:
            self._plan_difference(mapped, truth, nodata, about)

    def _truth_values(self, scheme: ClassScheme) -> NDArray[np.uint8] | None:
        """Class index → value in the view, uint8 (256,); None: the map has other classes."""
        values = {entry.name: entry.value for entry in self._classes}
        lacking = [name for name in scheme.names if name not in values]
        if lacking or max(values.values(), default=0) > IGNORE_INDEX:
            what = f"no class '{lacking[0]}'" if lacking else "values above 255"
            self._notes.append(f"the labels are not shown: the map has {what}")
            return None
        nodata = next((v for v in range(255, -1, -1) if v not in values.values()), IGNORE_INDEX)
        table = np.full(256, nodata, np.uint8)
        table[: scheme.num_classes] = [values[name] for name in scheme.names]
        return table

    def _plan_difference(
        self, mapped: Raster, truth: Raster, truth_nodata: int, about: object
    ) -> None:
        raster = self._class_map
        assert raster is not None
        named = raster.values[: raster.num_classes]

        @contextmanager
        def reading() -> Iterator[Reader]:
            with ExitStack() as stack:
                stack.enter_context(without_warnings())
                sources = [
                    stack.enter_context(rasterio.open(path)) for path in (mapped.path, truth.path)
                ]

                def read(window: Window) -> NDArray[np.uint8]:
                    place = raster_window(window)
                    with told_damage(raster.path):
                        own, other = (dataset.read(1, window=place) for dataset in sources)
                    found = np.where(own == other, EQUAL, DIFFERENT).astype(np.uint8)
                    found[(other == truth_nodata) | ~np.isin(own, named)] = 0
                    return found

                yield read

        difference = self._subject.store.copy(
            "difference", (about, state(str(raster.path))), self.grid, class_encoding(0), reading
        )
        look = Look("difference", "Difference from the truth", "difference", 0.0)
        names = {EQUAL: "as the truth", DIFFERENT: "otherwise"}
        colours = {EQUAL: "#969692", DIFFERENT: "#c82828"}
        describe = partial(names_layer, names=names, colours=colours)
        self._planned.append(Planned(look, difference, describe))

    def _prepare(self, progress: Progress | None) -> None:
        """Make the copies; what cannot be made is left out, and said."""
        total, before = self.to_make, 0
        for one in list(self._planned):
            is_there, start = one.raster.is_there, before

            def tell(done: int, _: int, start: int = start) -> None:
                if progress:
                    progress(start + done, total)

            if one in self._planned:  # it may have gone with what it is made of
                try:
                    one.raster.prepare(None if is_there else tell)
                except DataError as error:
                    self._leave_out(one, error)
            before += 0 if is_there else one.raster.area

    def _described(self) -> dict[str, Layer]:
        """Layers by id; what is damaged is left out, and said.

        Raises:
            DataError: Nothing is left.
        """
        found = {}
        for one in list(self._planned):
            if one not in self._planned:
                continue
            try:
                with told_damage(one.raster.path):
                    found[one.look.id] = one.describe(one.raster, one.look)
            except DataError as error:
                self._leave_out(one, error)
        if not self._planned:
            raise DataError(
                f"nothing of '{self._subject.title}' can be shown: {'; '.join(self._notes)}"
            )
        return found

    def _leave_out(self, one: Planned, error: DataError) -> None:
        """Take a layer out, with what is made of it."""
        self._notes.append(f"{one.look.title} cannot be shown: {error}")
        gone = {one.look.id} | ({"difference"} if one.look.id in ("truth", "class_map") else set())
        self._planned = [other for other in self._planned if other.look.id not in gone]
        if one.look.id == "class_map":
            self._class_map = None

    def _note_strangers(self, layers: Sequence[Layer], rasters: Mapping[str, Path]) -> None:
        """Say which values of the map are none of its classes: the page draws none of them."""
        layer = next((one for one in layers if one.id == "class_map"), None)
        if layer is None:
            return
        path = rasters[layer.id]
        look = partial(read_small, path, _OVERVIEW, layer.nodata_value)
        read = self._tried("values that are no class", path, look)
        if read is None:
            return
        values = read[0][0][read[1][0]]
        strange = np.setdiff1d(values, [entry.value for entry in self._classes])
        if strange.size:
            share = float(np.isin(values, strange).mean())
            named = ", ".join(map(str, strange[:_MOST_NAMED].tolist()))
            more = f" and {strange.size - _MOST_NAMED} more" if strange.size > _MOST_NAMED else ""
            self._notes.append(
                f"the map has values that are none of its classes: {named}{more} ({share:.1%} of "
                "its pixels); they are not drawn"
            )

    def _counted(
        self, layers: Sequence[Layer], rasters: Mapping[str, Path]
    ) -> tuple[ClassEntry, ...]:
        """The classes, with pixels and areas on the map, else in the truth."""
        named = {one.id: one for one in layers}
        layer = named.get("class_map") or named.get("truth")
        if layer is None or not 0 < len(self._classes) <= IGNORE_INDEX:
            return self._classes
        written = self._written_areas() if layer.id == "class_map" else None
        if written is not None:
            return tuple(
                entry.model_copy(update=written.get(entry.name, {})) for entry in self._classes
            )
        is_small = layer.height * layer.width <= _COUNTED
        most = max(layer.height, layer.width) if is_small else _OVERVIEW
        path = rasters[layer.id]
        read = self._tried("areas", path, partial(read_small, path, most, layer.nodata_value))
        if read is None:
            return self._classes
        stored, known = read
        if not is_small:
            self._notes.append("areas are estimated from an overview of the map")
        return _areas(self._classes, stored[0], known[0], self.grid)

    def _written_areas(self) -> dict[str, dict[str, Any]] | None:
        """Class → pixels and hectares, as `areas.csv` of the map says."""
        folder = self._subject.map
        path = None if folder is None or not folder.is_dir() else folder / AREAS_CSV
        if path is None or not path.exists():
            return None
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return {
                    row["class"]: {
                        "pixels": int(row["pixels"]),
                        "area_ha": float(row["hectares"]) if row["hectares"] else None,
                    }
                    for row in csv.DictReader(file)
                }
        except (OSError, ValueError, KeyError, TypeError):  # edited by hand: counted instead
            return None

    def _places(self, layers: Sequence[Layer], rasters: Mapping[str, Path]) -> tuple[Places, ...]:
        if self._class_map is None:
            return ()
        blocks = Blocks.of(self.grid.height, self.grid.width)
        named = {one.id: one for one in layers}
        classes = [(entry.value, entry.name) for entry in self._classes]
        own = rasters["class_map"], classes, named["class_map"].nodata_value
        mapped = self._tried("classes of places", own[0], partial(mapped_classes, blocks, *own))
        found: list[tuple[PlacesId, str, Sequence[Place] | None]] = []
        doubt = next((named[n] for n in ("entropy", "confidence", "confidence_float32")
                      if n in named), None)  # fmt: skip
        if doubt is not None:
            path, factor = rasters[doubt.id], doubt.bands[0].factor
            look = partial(
                uncertain_places,
                blocks,
                path,
                factor,
                is_confidence=doubt.role == "confidence",
                nodata=doubt.nodata_value,
                mapped=mapped,
            )
            found.append(("uncertain", "Most uncertain", self._tried("places", path, look)))
        if "difference" in named:
            path = rasters["difference"]
            look = partial(wrong_places, blocks, path, DIFFERENT, mapped)
            found.append(("wrong", "Most wrong", self._tried("places", path, look)))
        if "attribution" in named and (names := modalities_of(rasters["attribution"])):
            path = rasters["attribution"]
            look = partial(modality_places, blocks, path, names)
            title = "Decided by one modality"
            found.append(("modality", title, self._tried("places", path, look)))
        return tuple(
            Places(id=id, title=title, places=tuple(places))
            for id, title, places in found
            if places
        )

    def _tried(self, what: str, path: Path, look: Callable[[], _T]) -> _T | None:
        """What a raster tells; None, and a note, if it is damaged."""
        try:
            with told_damage(path):
                return look()
        except RasterReadError as error:
            self._notes.append(f"{what} are left out: {error}")
            return None


def _areas(
    classes: Sequence[ClassEntry],
    stored: NDArray[Any],
    known: NDArray[np.bool_],
    grid: Grid,
) -> tuple[ClassEntry, ...]:
    """Count pixels and areas of classes, of all pixels of a map or of some evenly spread ones."""
    indices: NDArray[np.uint8] = np.full(stored.shape, IGNORE_INDEX, np.uint8)
    for k, entry in enumerate(classes):
        indices[(stored == entry.value) & known] = k
    rows, cols = indices.shape
    steps = grid.height / rows, grid.width / cols
    coarse = Grid(grid.crs, grid.transform * Affine.scale(steps[1], steps[0]), rows, cols)
    count = AreaCount(coarse)
    count.add(indices)
    counted = count.result(ClassScheme(tuple(str(n) for n in range(len(classes)))))
    return tuple(
        entry.model_copy(
            update={"pixels": round(own.pixels * steps[0] * steps[1]), "area_ha": own.hectares}
        )
        for entry, own in zip(classes, counted, strict=False)
    )


def _same_grid(one: Grid, other: Grid) -> bool:
    size = (one.height, one.width) == (other.height, other.width)
    return size and one.offset_in(other) == (0, 0)


def _product_file(folder: Path, name: str) -> Path | None:
    return next((p for end in _ENDS if (p := folder / f"{name}{end}").exists()), None)


def _area_state(scene: Scene) -> object:
    area = scene.made_of.label_rules.area
    return None if area is None else state(area)
