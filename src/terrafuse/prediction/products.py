"""Maps on disk: cloud-optimised GeoTIFFs on the scene's own grid, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # raised for failures inside GDAL
from rasterio.errors import RasterioError
from safetensors.numpy import save_file

from terrafuse.classes import DISTINCT_COLORS, ClassScheme, channels
from terrafuse.data.handles import without_warnings
from terrafuse.errors import (
    OutputError,
    UnknownNameError,
    WorkerError,
    unknown_name,
    write_failure,
)
from terrafuse.prediction.areas import (
    AREAS_CSV,
    AreaCount,
    ClassArea,
    count_pixels,
    write_areas,
)
from terrafuse.prediction.blending import Strip
from terrafuse.prediction.class_values import ClassValues, choose_values
from terrafuse.prediction.cog import (
    OWN_LEVELS,
    Block,
    BlockWriter,
    assemble,
    cut_blocks,
    empty_block,
    level_sizes,
    write_template,
)
from terrafuse.prediction.job import MapJob
from terrafuse.prediction.product_table import Product, find_products
from terrafuse.prediction.profile import MapProfile
from terrafuse.prediction.settings import MapSettings
from terrafuse.prediction.sharing import Shard
from terrafuse.prediction.sieve import check_sieve, sieve_map
from terrafuse.prediction.tiling import Tiling, add_categories, is_tile, product_files, write_mosaic
from terrafuse.prediction.units import UnitPlan
from terrafuse.samples import Window
from terrafuse.writing import (
    SIDE_CAR,
    is_own_folder,
    partial_folder,
    refuse_special,
    replace_together,
    write_json,
)

if TYPE_CHECKING:
    from terrafuse.data.grid import Grid

#: File that lists the rasters beside it and how they were made.
RECORD = "prediction.json"
RECORD_FORMAT = 1
#: Name of the value 0 where others are modalities.
NONE_ALONE = "none alone"
# Its colour and theirs.
_PLACE_COLORS = ("#d6d6d6", *DISTINCT_COLORS)
# rasterio raises SystemError if GDAL fails without giving a reason.
_FAILURES = (OSError, RasterioError, CPLE_BaseError, SystemError)


@dataclass(frozen=True)
class Products:
    """Files of a map.

    Args:
        files: Rasters by the name of the product.
        record: `prediction.json`: what they are, and how they were made.
        class_values: Pixel values of the classes in the class map.
        areas: Of the classes, then of what has no data, if they were asked for.
        areas_file: `areas.csv`, likewise.
        abstained_pixels: Pixels whose class was too uncertain to be named; None if all are named.
        profile: What mapping took, as `MapProfile.to_dict` has it.
        beside: Further files of the folder, such as its picture.
        parts: Files that `files` are made of, if these are VRTs: tiles, and overviews of them all.
        waits_for: Units of other shards that are not done. While there are any, no file is
            written: the shard that finishes the last one writes them.
        was_there: Whether the map was finished before.
    """

    files: Mapping[str, Path]
    record: Path
    class_values: ClassValues
    areas: tuple[ClassArea, ...] = ()
    areas_file: Path | None = None
    abstained_pixels: int | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[Path, ...] = ()
    parts: tuple[Path, ...] = ()
    waits_for: int = 0
    was_there: bool = False

    @property
    def class_map(self) -> Path:
        """Codes or indices of classes (`class_values`), uint8; with colour table and names."""
        return self["class_map"]

    @property
    def confidence(self) -> Path:
        """Largest softmax probability, uint8; value / 254 (scale tag), 255 = no data."""
        return self["confidence"]

    def paths(self) -> tuple[Path, ...]:
        """All files."""
        areas = () if self.areas_file is None else (self.areas_file,)
        return (*self.files.values(), self.record, *areas, *self.beside, *self.parts)

    def moved_to(self, folder: Path) -> Products:
        """Return the same, in another folder."""
        return replace(
            self,
            files={name: folder / path.name for name, path in self.files.items()},
            record=folder / self.record.name,
            areas_file=None if self.areas_file is None else folder / self.areas_file.name,
            beside=tuple(folder / path.name for path in self.beside),
            parts=tuple(folder / path.relative_to(self.record.parent) for path in self.parts),
        )

    def __getitem__(self, name: str) -> Path:
        """Return the file of a product.

        Raises:
            UnknownNameError: The product was not written.
        """
        if name not in self.files:
            raise UnknownNameError(unknown_name("product of this map", name, self.files))
        return self.files[name]


@dataclass(frozen=True)
class Beside:
    """Further files of a map, which appear together with its products.

    Args:
        names: Of the files.
        write: Writes those of them that this map has into the folder of the products that it is
            given, and returns them. What cannot be drawn is warned of, and is no failure of the
            map; a full disk is.
    """

    names: tuple[str, ...]
    write: Callable[[Products], Sequence[Path]]


@contextmanager
def open_map(
    folder: Path,
    grid: Grid,
    scheme: ClassScheme,
    products: Sequence[Product],
    values: str | None = None,
    *,
    plan: UnitPlan,
    key: Mapping[str, Any] | None = None,
    resume: bool = False,
    settings: MapSettings | None = None,
    modalities: Sequence[str] = (),
    shard: Shard | None = None,
    abstains: bool = False,
    is_kept: bool = True,
) -> Iterator[MapWriter]:
    """Open a writer for the products of one scene.

    Finished units wait in the folder `units` inside the target. Once all are there, the products
    are written into a hidden folder and moved out together: a product that exists is whole, and all
    are of one call, even if it was killed. Earlier products stay until then. If the work is stopped
    or the disk is full, finished units stay where they are of use; after any other failure nothing
    does.

    Args:
        folder: Target folder; created if needed, and then removed again on failure.
        grid: The scene's grid, which every product has exactly.
        scheme: Names and colours of the classes.
        products: Which ones.
        values: Pixel values of the class map, as in `choose_values`.
        plan: Units of the scene.
        key: What units must have in common, as in `MapJob`.
        resume: True: go on with finished units.
        settings: What is abstained from, and the sieve.
        modalities: Of the model, in its order; bits of the product "sources".
        shard: Units of others stay in any case, until the map is finished.
        abstains: Whether pixels may be abstained from, also without the setting of that name.
        is_kept: Whether somebody can go on with finished units.

    Raises:
        ConfigError: Codes, or modalities, that a map cannot hold.
        NotEnoughMemoryError: The map is too large to be sieved.
        OutputError: The folder cannot be made or written, a link or device has the name of a
            product, or there are units of another map.
    """
    settings = settings or MapSettings(tuple(p.name for p in products))
    chosen = choose_values(scheme, values, abstains=abstains or settings.abstain is not None)
    if settings.sieve:
        check_sieve(grid.height, grid.width)
    for name in (RECORD, AREAS_CSV):
        refuse_special(folder / name)
    for product in products:
        _check_place(folder, product.name, tiled=settings.tiles is not None)
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    key = {**(key or {}), "values": chosen.kind, "products": [p.name for p in products]}
    job = MapJob(folder, plan, key["products"], key, shard=shard)
    job.look(resume=resume, hint="--resume would go on" if is_kept else None)
    try:
        with _reported(folder):
            folder.mkdir(parents=True, exist_ok=True)
        bits = settings.source_bits(modalities)
        writer = MapWriter(
            folder, job, grid, scheme, products, chosen,
            sieve=settings.sieve, bits=bits, tiles=settings.tiles,
        )  # fmt: skip
        if not writer.is_finished():
            job.begin()
        yield writer
        if not job.left or writer.is_finished():
            job.discard()
    except BaseException as error:
        is_resumable = is_kept and (
            isinstance(error, OutputError | WorkerError) or not isinstance(error, Exception)
        )
        if not shard and not (is_resumable and job.done):
            job.discard()
        for path in made:
            with suppress(OSError):  # never created, or not empty
                path.rmdir()
        if is_resumable and isinstance(error, OutputError | WorkerError) and job.done:
            then = "run it again" if shard else "add --resume"
            raise type(error)(f"{error}. Finished parts are kept; then {then}") from error
        raise


class MapWriter:
    """Writer that turns strips into products; created by `open_map`.

    The strips wanted are those of `job.tasks()`, one rectangle after the other.
    """

    def __init__(
        self,
        folder: Path,
        job: MapJob,
        grid: Grid,
        scheme: ClassScheme,
        products: Sequence[Product],
        values: ClassValues,
        *,
        sieve: int | None = None,
        bits: Mapping[str, int] | None = None,
        tiles: int | None = None,
    ) -> None:
        self.folder = folder
        self._sieve = sieve
        self._bits = bits or {}
        self._tiling = Tiling(grid.height, grid.width, tiles) if tiles else None
        self.scheme = scheme
        self.values = values
        self._are_indices = values.is_index
        self.job = job
        self._grid = grid
        self._products = tuple(products)
        self._encodings = {
            p.name: p.encoding(values.nodata if p.is_class_map else p.nodata, scheme.num_classes)
            for p in products
        }
        # One whose pixels have data where they are mapped.
        self._telling = next((p for p in products if p.is_masked), products[0])
        self._levels = len(level_sizes(grid.height, grid.width))
        #: The unit being filled: its writers, its next row, and whether a pixel has data.
        self._writers: dict[str, BlockWriter] = {}
        self._row = 0
        self._has_data = False

    def is_finished(self) -> bool:
        """Whether another shard has written the products, or this one in an earlier run."""
        if self.job.shard is None:
            return False
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            is_same = record["job"] == self.job.digest
        except (OSError, ValueError, LookupError, TypeError):
            return False
        return is_same and all(path.exists() for path in chain(*self._files().values()))

    def existing(self, beside: Beside | None = None) -> Products:
        """The products that another shard has written, or will write.

        Args:
            beside: Further files of the map.
        """
        left = 0 if self.is_finished() else len(self.job.left)
        if left:
            return Products({}, self.folder / RECORD, self.values, waits_for=left)
        areas, files = self.folder / AREAS_CSV, self._files()
        further = (self.folder / name for name in (beside.names if beside else ()))
        return Products(
            {name: paths[0] for name, paths in files.items()},
            self.folder / RECORD,
            self.values,
            areas_file=areas if areas.exists() else None,
            beside=tuple(path for path in further if path.exists()),
            parts=tuple(chain(*(paths[1:] for paths in files.values()))),
            was_there=True,
        )

    def _files(self) -> dict[str, list[Path]]:
        """Files of each product: the raster, and its parts."""
        folder = self.folder
        if self._tiling is None:
            return {p.name: [folder / f"{p.name}.tif"] for p in self._products}
        has_coarse = self._levels > OWN_LEVELS
        return {
            p.name: [
                folder / f"{p.name}.vrt",
                *([folder / f"{p.name}.vrt.ovr"] if has_coarse else []),
                *(folder / name for name in self._tiling.names(p.name).values()),
            ]
            for p in self._products
        }

    def write(self, strip: Strip) -> None:
        """Write the next rows of a rectangle.

        Raises:
            OutputError: The disk is full or fails.
        """
        height = next(iter(strip.layers.values())).shape[-2]
        done = 0
        while done < height:
            unit = self.job.plan.unit_at(strip.row + done, strip.col)
            if not self._writers:
                self._begin(unit)
            assert self._row == strip.row + done, (self._row, strip.row, done)
            taken = min(height - done, unit.row_stop - self._row)
            self._add({name: x[..., done : done + taken, :] for name, x in strip.layers.items()})
            done += taken
            self._row += taken
            if self._row == unit.row_stop:
                blocks = {name: writer.finish() for name, writer in self._writers.items()}
                self.job.commit(unit, blocks, self._has_data)
                self._writers = {}

    def write_empty(self, numbers: Iterable[int]) -> None:
        """Keep units without any data, as if they had been mapped.

        Raises:
            OutputError: The disk is full or fails.
        """
        made: dict[tuple[int, int], dict[str, dict[str, NDArray[Any]]]] = {}
        for number in sorted(numbers):
            unit = self.job.plan.window(number)
            shape = unit.height, unit.width
            if shape not in made:  # there are four at most
                made[shape] = {
                    name: empty_block(*shape, self._levels, encoding)
                    for name, encoding in self._encodings.items()
                }
            self.job.commit(unit, made[shape], has_data=False)

    def drop(self) -> None:
        """Forget the rows of a unit that was not finished."""
        self._writers = {}

    def __reduce__(self) -> tuple[Any, ...]:
        names = [product.name for product in self._products]
        return _rebuild, (
            self.folder, self.job, self._grid, self.scheme, names, self.values,
        )  # fmt: skip

    def _begin(self, unit: Window) -> None:
        self._row, self._has_data = unit.row, False
        self._writers = {
            name: BlockWriter(unit.width, self._levels, encoding)
            for name, encoding in self._encodings.items()
        }

    def _add(self, rows: Mapping[str, NDArray[Any]]) -> None:
        telling = self._telling
        self._has_data = self._has_data or telling.has_data(rows[telling.name])
        for product in self._products:
            values = rows[product.name]
            if product.is_class_map and not self._are_indices:
                values = self.values.lookup[values]
            self._writers[product.name].write(values)

    def finish(
        self,
        facts: Mapping[str, Any] | None = None,
        *,
        areas: bool = False,
        profile: MapProfile | None = None,
        beside: Beside | None = None,
    ) -> Products:
        """Assemble the products of all units.

        Args:
            facts: Further facts for `prediction.json`.
            areas: Also write the area of each class.
            profile: What mapping took, for `prediction.json`; assembling is added.
            beside: Further files. Those of an earlier map go, if this one does not have them.

        Raises:
            OutputError: The disk is full or fails.
        """
        for name in beside.names if beside else ():
            refuse_special(self.folder / name)
        with _reported(self.folder), partial_folder(self.folder, "map") as partial:
            profile, facts = profile or MapProfile(), dict(facts or {})
            with profile.timed("assembling"):
                made = {product.name: self._make(product, partial) for product in self._products}
                if self._sieve:
                    facts["sieved_pixels"] = self._sieve_class_map(made["class_map"][0])
            count = AreaCount(self._grid) if areas else None
            abstains = self.values.abstained is not None
            if count is not None:
                count.add_map(made["class_map"][0], self.values.lookup)
                facts["areas_by"] = count.by or None
            found = tuple(count.result(self.scheme, abstains=abstains)) if count else ()
            if self.values.abstained is not None:
                abstained = count_pixels(made["class_map"][0], self.values.abstained)
                facts["abstained_pixels"] = abstained
            profile.end()
            record = partial / RECORD
            described = {product.name: self._describe(product) for product in self._products}
            write_json(record, {
                "format": RECORD_FORMAT, **facts, "products": described,
                "job": self.job.digest, "profile": profile.to_dict(),
            })  # fmt: skip
            whole = Products(
                {name: paths[0] for name, paths in made.items()},
                record,
                self.values,
                found,
                write_areas(partial, found) if areas else None,
                facts.get("abstained_pixels"),
                profile.to_dict(),
                parts=tuple(chain(*(paths[1:] for paths in made.values()))),
            )
            if beside is not None:
                whole = replace(whole, beside=tuple(beside.write(whole)))
            for name in set(beside.names if beside else ()) - {path.name for path in whole.beside}:
                (self.folder / name).unlink(missing_ok=True)  # of an earlier map
            moves = {path: self.folder / path.relative_to(partial) for path in whole.paths()}
            replace_together(moves, self._stale(set(moves.values())))
            return whole.moved_to(self.folder)

    def _stale(self, new: set[Path]) -> list[Path]:
        """Files of earlier products of these names that the new ones do not replace."""
        every = (path for p in self._products for path in product_files(self.folder, p.name))
        kept = new | {path.with_name(path.name + SIDE_CAR) for path in new}
        return [path for path in every if path not in kept and path.is_file()]

    def _sieve_class_map(self, path: Path) -> int:
        """Sieve the finished class map; return how many pixels were changed."""
        assert self._sieve
        values, product = self.values, next(p for p in self._products if p.is_class_map)
        kept = {values.nodata, values.abstained} - {None}
        pixels, changed = sieve_map(path, self._sieve, {int(value or 0) for value in kept})
        if changed:
            writer = BlockWriter(self._grid.width, self._levels, self._encodings[product.name])
            writer.write(pixels)
            whole = path.with_name("sieved")
            save_file(writer.finish(), whole)
            block = Block(whole, Window(0, 0, self._grid.height, self._grid.width))
            self._make(product, path.parent, [[block]])
            whole.unlink()
        return changed

    def _describe(self, product: Product) -> dict[str, Any]:
        """Its line in `prediction.json`."""
        own = product.to_dict()
        if self._tiling is not None:
            own["file"] = f"{product.name}.vrt"
            names = self._tiling.names(product.name).values()
            own["tiles"] = {"size": self._tiling.size, "files": list(names)}
        if bits := self._bits_of(product):
            return own | {"bits": bits}
        if product.tells == "one":
            return own | {"values": {name: v for v, name in self._category_names(product).items()}}
        if product.per_class:
            return own | {"bands": list(self.scheme.names)}
        if not product.is_class_map:
            return own
        content = "code of the class" if self.values.kind == "code" else "class index"
        return own | {"content": content, "nodata": self.values.nodata} | self.values.to_dict()

    def _make(
        self, product: Product, folder: Path, blocks: Sequence[Sequence[Block]] | None = None
    ) -> list[Path]:
        """Build a finished product, of the units' blocks unless others are given.

        Returns:
            The raster, and the files that it is made of if it is a VRT.
        """
        blocks = blocks or self.job.blocks(product.name)
        whole = Window(0, 0, self._grid.height, self._grid.width)
        encoding = self._encodings[product.name]
        if self._tiling is None:
            path = folder / f"{product.name}.tif"
            self._write_template(product, path, whole)
            assemble(path, blocks, encoding, path)
            self._name_categories(product, path)
            return [path]
        (folder / product.name).mkdir(exist_ok=True)
        names = self._tiling.names(product.name)
        # Small ones at the edges have the levels that the file of coarser overviews lacks, too.
        least = min(self._levels, OWN_LEVELS)
        for tile, name in names.items():
            path = folder / name
            self._write_template(product, path, tile)
            assemble(path, cut_blocks(blocks, tile), encoding, path, least=least)
            self._name_categories(product, path)
        mosaic, template = folder / f"{product.name}.vrt", folder / "template.tif"
        self._write_template(product, template, whole)
        write_mosaic(mosaic, template, names, self._category_names(product))
        made = [mosaic]
        if self._levels > OWN_LEVELS:
            made.append(folder / f"{product.name}.vrt.ovr")
            assemble(template, blocks, encoding, made[-1], first=OWN_LEVELS)
        return [*made, *(folder / name for name in names.values())]

    def _write_template(self, product: Product, path: Path, window: Window) -> None:
        """Write a raster without pixels: a part of the scene, with all that the product says."""
        encoding = self._encodings[product.name]
        transform = self._grid.transform * Affine.translation(window.col, window.row)
        place = {"crs": self._grid.crs, "transform": transform}
        profile = {**encoding.profile, **place}
        with (
            without_warnings(),
            write_template(path, window.height, window.width, profile) as template,
        ):
            if product.is_class_map:
                named = self.values.named(self.scheme)
                template.write_colormap(1, {v: (*color, 255) for v, (_, color) in named.items()})
                template.update_tags(**self.values.tags(self.scheme.names))
            if product.scale is not None:
                template.scales = (product.scale,) * encoding.bands
            if product.per_class:
                template.descriptions = self.scheme.names
            if bits := self._bits_of(product):
                of = "class_bits" if "class_sets" in product.needs else "modalities"
                template.update_tags(**{of: json.dumps(bits, ensure_ascii=False)})
            if product.tells == "one":
                names = self._category_names(product)
                template.write_colormap(1, {v: (*channels(_PLACE_COLORS[v]), 255) for v in names})
                template.update_tags(modalities=json.dumps(names, ensure_ascii=False))

    def _name_categories(self, product: Product, path: Path) -> None:
        names = self._category_names(product)
        if names:
            _add_category_names(path, names)

    def _category_names(self, product: Product) -> dict[int, str]:
        """Pixel value → its name; none for products of numbers."""
        if product.is_class_map:
            return {v: name for v, (name, _) in self.values.named(self.scheme).items()}
        if product.tells == "one":
            return dict(enumerate([NONE_ALONE, *self._bits]))
        if bits := self._bits_of(product):
            sets = {v: [n for n, bit in bits.items() if v & bit] for v in range(2 ** len(bits))}
            return {value: "+".join(names) or "none" for value, names in sets.items()}
        return {}

    def _bits_of(self, product: Product) -> Mapping[str, int]:
        """Name → its bit, for products of bits."""
        if product.tells != "sets":
            return {}
        if "class_sets" in product.needs:
            return {name: 1 << k for k, name in enumerate(self.scheme.names)}
        return self._bits


def _rebuild(
    folder: Path,
    job: MapJob,
    grid: Grid,
    scheme: ClassScheme,
    products: list[str],
    values: ClassValues,
) -> MapWriter:
    """A writer in another process; what products compute cannot be sent, but their names can."""
    return MapWriter(folder, job, grid, scheme, find_products(products), values)


def _check_place(folder: Path, product: str, *, tiled: bool) -> None:
    """Refuse to write a product where something has its names that is no file of a map.

    Raises:
        OutputError: A link, folder or device; or, for tiles, a folder with files of others.
    """
    for path in product_files(folder, product):
        refuse_special(path)
    own = folder / product
    if tiled and not is_own_folder(own, is_tile):
        raise OutputError(
            f"'{own}' is needed for the tiles of a map, and is no folder of such tiles. Choose "
            "another --out, or move it"
        )


def _add_category_names(path: Path, by_value: Mapping[int, str]) -> None:
    """Names of the values of band 1, for GDAL: GeoTIFF itself has no place for them."""
    side_car = path.with_name(path.name + SIDE_CAR)
    # GDAL has already written one if the CRS cannot be expressed in GeoTIFF keys.
    tree = ElementTree.parse(side_car) if side_car.exists() else None  # noqa: S314
    root = tree.getroot() if tree else ElementTree.Element("PAMDataset")
    add_categories(ElementTree.SubElement(root, "PAMRasterBand", band="1"), by_value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(side_car, encoding="utf-8")


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Report write failures as `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except _FAILURES as error:
        raise OutputError(
            f"the map cannot be written to '{folder}': {write_failure(error, folder)}"
        ) from error
