"""Files that cannot be read as rasters: what the message says to do, done."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.control import GroundControlPoint
from rasterio.rio.main import main_group
from rasterio.transform import Affine, from_origin

from remedies import refused

VRT = """<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>
<VRTRasterBand dataType="Float32" band="1"><SimpleSource>
<SourceFilename relativeToVRT="1">train_b.tif</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def sound(place: Any) -> None:
    """Check that the scene is read, with all pixels of "b"."""
    np.testing.assert_array_equal(place.read()["b"], place.pixels("train", "b"))


def test_a_path_that_can_be_none(place: Any) -> None:
    place.entry()["b"] = "x" * 400 + ".tif"
    with refused("data.on_disk:obstacle | cannot be looked up"):
        place.open()
    place.entry()["b"] = "train_b.tif"
    sound(place)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_copied(place: Any) -> None:
    pipe = place.folder / "pipe.tif"
    os.mkfifo(pipe)
    place.entry()["b"] = "pipe.tif"
    with refused("data.on_disk:obstacle | are read from files. Copy what it gives to a file first"):
        place.open()
    content = (place.folder / "train_b.tif").read_bytes()
    thread = threading.Thread(target=pipe.write_bytes, args=(content,))
    thread.start()
    with pipe.open("rb") as given, (place.folder / "copy.tif").open("wb") as copy:
        shutil.copyfileobj(given, copy)
    thread.join()
    place.entry()["b"] = "copy.tif"
    sound(place)


def test_a_file_that_may_not_be_read(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ours = place.folder / "train_b.tif", os.access

    def access(file: Any, mode: int) -> bool:
        """As for an ordinary user, also where tests run as root."""
        return ours(file, mode) and bool(Path(file).stat().st_mode & stat.S_IRUSR)

    monkeypatch.setattr(os, "access", access)
    path.chmod(0o200)
    with refused("data.on_disk:obstacle | Change them with 'chmod +r', or ask its owner to") as e:
        place.open()
    subprocess.run([*e.find("with '(chmod .*?)'").split(), path], check=True)
    sound(place)


def test_a_size_that_no_raster_has(place: Any) -> None:
    place.entry()["b"] = "b.vrt"
    (place.folder / "b.vrt").write_text(VRT.format(size=4_000_000))
    with refused("data.raster_file:_check_size | Write the file again, or fetch it"):
        place.open()
    (place.folder / "b.vrt").write_text(VRT.format(size=32))
    sound(place)


@pytest.mark.parametrize("way", ["right", "removed"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_transform_that_places_no_pixel(place: Any, way: str) -> None:
    """Without one, the rasters of a scene are matched by pixel if none of them has a CRS."""
    for name in "abl":
        path = place.folder / f"train_{name}.tif"
        path.unlink()
        options = {"transform": Affine(0, 0, 500_000, 0, 0, 5_000_000)} if name == "b" else {}
        crs = "EPSG:32633" if way == "right" else None
        place.raster(path.name, place.pixels("train", name), crs=crs, **options)
        if way == "removed" and name != "b":
            edit("[1, 0, 0, 0, 1, 0]", path)
    with refused("data.raster_file:_check_transform | Write the right one into it (rio edit-") as e:
        place.open()
    form, none = e.find(r"--transform '(\[W.*?\])' FILE"), e.find(r"\(… '(\[1.*?\])' FILE\)")
    words = {"WIDTH": 10, "LEFT": 500_000, "HEIGHT": 10, "TOP": 5_000_000}
    for word, number in words.items():
        form = form.replace(word, str(number))
    edit(form if way == "right" else none, place.folder / "train_b.tif")
    sound(place)


def edit(transform: str, path: Path) -> None:
    words = ["edit-info", "--transform", transform, str(path)]
    result = CliRunner().invoke(main_group, words)
    assert result.exit_code == 0, result.output


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_through_which_no_grid_goes(place: Any) -> None:
    path = place.folder / "train_b.tif"
    corners = [(0, 0), (0, 32), (32, 0), (32, 32)]
    wrong = [GroundControlPoint(n, n, 3, 4) for n in range(4)]
    right = [GroundControlPoint(r, c, 500_000 + 10 * c, 5_000_000 - 10 * r) for r, c in corners]
    for points in (wrong, right):
        path.unlink()
        with rasterio.open(
            path, "w", driver="GTiff", width=32, height=32, count=1, dtype="float32"
        ) as dataset:
            dataset.write(place.pixels("train", "b"))
            dataset.gcps = (points, rasterio.CRS.from_epsg(32633))
        if points is wrong:
            with refused("data.raster_file:_check_transform | Correct the points (gdal_translate"):
                place.open()
    assert place.open().grid.transform == from_origin(500_000, 5_000_000, 10, 10)
    np.testing.assert_allclose(place.read()["b"], place.pixels("train", "b"))
