"""Maps on disk: cloud-optimised GeoTIFFs on the scene's own grid, whole or not at all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # raised for failures inside GDAL
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from terrafuse.classes import ClassScheme
from terrafuse.errors import OutputError, UnknownNameError, unknown_name
from terrafuse.prediction.areas import AREAS_CSV, ClassArea, write_areas
from terrafuse.prediction.blending import Strip
from terrafuse.prediction.class_values import ClassValues, choose_values
from terrafuse.prediction.cog import Pyramid, assemble, write_template
from terrafuse.prediction.product_table import Product
from terrafuse.writing import failure, partial_folder, refuse_special, replace_together

if TYPE_CHECKING:
    from terrafuse.data.grid import Grid

#: File that lists the rasters beside it and how they were made.
RECORD = "prediction.json"
RECORD_FORMAT = 1
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
    """

    files: Mapping[str, Path]
    record: Path
    class_values: ClassValues
    areas: tuple[ClassArea, ...] = ()
    areas_file: Path | None = None

    @property
    def class_map(self) -> Path:
        """Codes or indices of classes (`class_values`), uint8; with colour table and names."""
        return self["class_map"]

    @property
    def confidence(self) -> Path:
        """Largest softmax probability, uint8; value / 254 (scale tag), 255 = no data."""
        return self["confidence"]

    def __getitem__(self, name: str) -> Path:
        """Return the file of a product.

        Raises:
            UnknownNameError: The product was not written.
        """
        if name not in self.files:
            raise UnknownNameError(unknown_name("product of this map", name, self.files))
        return self.files[name]


@contextmanager
def open_map(
    folder: Path,
    grid: Grid,
    scheme: ClassScheme,
    products: Sequence[Product],
    values: str | None = None,
) -> Iterator[MapWriter]:
    """Open a writer for the products of one scene.

    Everything is written into a hidden folder inside the target and moved out once it is complete:
    a product that exists is whole, and all are of one call, even if it was killed. Earlier products
    stay until then.

    Args:
        folder: Target folder; created if needed, and then removed again on failure.
        grid: The scene's grid, which every product has exactly.
        scheme: Names and colours of the classes.
        products: Which ones.
        values: Pixel values of the class map, as in `choose_values`.

    Raises:
        ConfigError: Codes that a map cannot hold.
        OutputError: The folder cannot be made or written, or a link or device has the name of a
            product.
    """
    chosen = choose_values(scheme, values)
    for name in (*(f"{product.name}.tif" for product in products), RECORD, AREAS_CSV):
        refuse_special(folder / name)
    with _partial_folder(folder) as partial:
        with _reported(folder):
            writer = MapWriter(folder, partial, grid, scheme, products, chosen)
        try:
            yield writer
        finally:
            writer.close()


class MapWriter:
    """Writer that turns strips, from top to bottom, into products; created by `open_map`."""

    def __init__(
        self,
        folder: Path,
        partial: Path,
        grid: Grid,
        scheme: ClassScheme,
        products: Sequence[Product],
        values: ClassValues,
    ) -> None:
        self.folder = folder
        self.scheme = scheme
        self.values = values
        #: Whether any pixel so far has data.
        self.has_data = False
        self._partial = partial
        self._products = tuple(products)
        self._files = {
            product.name: _Raster(partial, grid, product, scheme, values) for product in products
        }

    def write(self, strip: Strip) -> None:
        """Write the next rows.

        Raises:
            OutputError: The disk is full or fails.
        """
        first = self._products[0]
        self.has_data = self.has_data or first.has_data(strip.layers[first.name])
        with _reported(self.folder):
            for name, file in self._files.items():
                file.write(strip.layers[name])

    def finish(
        self, facts: Mapping[str, Any] | None = None, areas: Sequence[ClassArea] = ()
    ) -> Products:
        """Assemble the products from the written rows.

        Args:
            facts: Further facts for `prediction.json`.
            areas: Of the classes, for `areas.csv`; none: without that file.

        Raises:
            OutputError: The disk is full or fails.
        """
        with _reported(self.folder):
            made = {product.name: self._make(product) for product in self._products}
            record = self._partial / RECORD
            described = {product.name: self._describe(product) for product in self._products}
            text = json.dumps(
                {"format": RECORD_FORMAT, **(facts or {}), "products": described},
                indent=2,
                ensure_ascii=False,
            )
            record.write_text(text + "\n", encoding="utf-8")
            beside = [record]
            if areas:
                beside.append(write_areas(self._partial, areas))
            replace_together({p: self.folder / p.name for p in (*made.values(), *beside)})
            return Products(
                {name: self.folder / path.name for name, path in made.items()},
                self.folder / RECORD,
                self.values,
                tuple(areas),
                self.folder / AREAS_CSV if areas else None,
            )

    def _describe(self, product: Product) -> dict[str, Any]:
        """Its line in `prediction.json`."""
        if not product.is_class_map:
            return product.to_dict()
        content = "code of the class" if self.values.kind == "code" else "class index"
        own = {"content": content, "nodata": self.values.nodata}
        return product.to_dict() | own | self.values.to_dict()

    def _make(self, product: Product) -> Path:
        """Build a finished product, still in the partial folder."""
        path = self._files[product.name].finish()
        if product.is_class_map:
            _add_category_names(path, self.scheme.names, self.values.values)
        return path

    def close(self) -> None:
        """Discard what was not finished."""
        for file in self._files.values():
            with suppress(*_FAILURES):
                file.close()


class _Raster:
    """One product: the file with its tags, and the tiles that it will hold."""

    def __init__(
        self, folder: Path, grid: Grid, product: Product, scheme: ClassScheme, values: ClassValues
    ) -> None:
        self.path = folder / f"{product.name}.tif"
        self._lookup = values.lookup if product.is_class_map else None
        self._grid = grid
        self._row = 0
        encoding = product.encoding(values.nodata if product.is_class_map else product.nodata)
        tiles = folder / product.name
        tiles.mkdir()
        self._pyramid = Pyramid(tiles, grid.height, grid.width, encoding)
        place = {"crs": grid.crs, "transform": grid.transform}
        with (
            _no_georeference_allowed(),
            write_template(
                self.path, grid.height, grid.width, {**encoding.profile, **place}
            ) as template,
        ):
            if product.is_class_map:
                colors = zip(values.values, scheme.palette().tolist(), strict=True)
                template.write_colormap(1, {value: (*color, 255) for value, color in colors})
                template.update_tags(**values.tags(scheme.names))
            if product.scale is not None:
                template.scales = (product.scale,)

    def write(self, rows: NDArray[Any]) -> None:
        self._pyramid.write(rows if self._lookup is None else self._lookup[rows])
        self._row += len(rows)

    def finish(self) -> Path:
        assert self._row == self._grid.height, (self._row, self._grid.height)
        self._pyramid.finish()
        assemble(self.path, self._pyramid, self.path)
        return self.path

    def close(self) -> None:
        self._pyramid.close()


def _side_car(path: Path) -> Path:
    """Return the path of GDAL's side-car file, for metadata that the format cannot hold."""
    return path.with_name(f"{path.name}.aux.xml")


def _add_category_names(path: Path, names: tuple[str, ...], values: tuple[int, ...]) -> None:
    """Names of the values of band 1, for GDAL: GeoTIFF itself has no place for them."""
    side_car = _side_car(path)
    # GDAL has already written one if the CRS cannot be expressed in GeoTIFF keys.
    tree = ElementTree.parse(side_car) if side_car.exists() else None  # noqa: S314
    root = tree.getroot() if tree else ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    categories = ElementTree.SubElement(band, "CategoryNames")
    by_value = dict(zip(values, names, strict=True))
    for value in range(max(values) + 1):  # the position of a name is its value
        ElementTree.SubElement(categories, "Category").text = by_value.get(value, "")
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(side_car, encoding="utf-8")


@contextmanager
def _partial_folder(folder: Path) -> Iterator[Path]:
    """Create a folder inside `folder`; neither outlives a failure."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    opened = partial_folder(folder, "map")
    try:
        with ExitStack() as stack:
            with _reported(folder):
                partial = stack.enter_context(opened)
            yield partial
    except BaseException:
        for path in made:
            with suppress(OSError):  # never created, or not empty
                path.rmdir()
        raise


@contextmanager
def _reported(folder: Path) -> Iterator[None]:
    """Report write failures as `OutputError`."""
    try:
        yield
    except OutputError:
        raise
    except _FAILURES as error:
        raise OutputError(
            f"the map cannot be written to '{folder}': {failure(error, folder)}"
        ) from error


@contextmanager
def _no_georeference_allowed() -> Iterator[None]:
    """Silence rasterio's warning: a scene without CRS gives a map without CRS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
