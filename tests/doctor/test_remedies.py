"""What a message says to do, done: the fault is gone.

Others are beside what they are about: parts of containers in tests/data/test_names.py, pages in
tests/data/test_pages.py, layers, polygons elsewhere and void null in
tests/data/test_polygons_elsewhere.py, splits in tests/splits/test_content.py, shifts in
tests/doctor/test_registration.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from terrafuse.classes import ClassScheme
from terrafuse.data import load_manifest, scene_from_rasters
from terrafuse.doctor import check_manifest
from terrafuse.errors import BandError, GridMismatchError, LabelError, exact_number
from terrafuse.modalities import Modality

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "doctor"
sys.path.insert(0, str(BENCHMARK))
try:
    from faults import CATALOGUE
    from faulty_data import make_faulty, make_sound
finally:
    sys.path.remove(str(BENCHMARK))

MakeRaster = Callable[..., Path]


def set_keys(path: Path, keys: dict[str, Any]) -> None:
    """Set dotted keys of a manifest."""
    values = yaml.safe_load(path.read_text())
    for dotted, value in keys.items():
        place = values
        *parents, last = dotted.split(".")
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_sound(folder, seed=0)
    return folder


#: Faults of the catalogue that a key of the manifest mends.
FIXED = [
    "near infrared stands first in the file", "transform with twice the pixel size",
]  # fmt: skip


@pytest.mark.parametrize(
    "fault", [f for f in CATALOGUE.faults if f.name in FIXED], ids=lambda fault: fault.name
)
def test_a_suggested_fix_mends_what_it_is_suggested_for(
    fault: Any, sound: Path, tmp_path: Path
) -> None:
    path = make_faulty(sound, tmp_path / "faulty", fault, seed=0)
    told = [f for f in check_manifest(load_manifest(path)) if fault.is_told_by(f)]
    fixes = [f for f in told if f.fix]
    assert fixes
    set_keys(path, dict(fixes[0].fix))
    left = [(f.code, f.scene, f.modality) for f in check_manifest(load_manifest(path))]
    assert (fixes[0].code, fixes[0].scene, fixes[0].modality) not in left


@pytest.mark.parametrize("value", [-32767.25, -9999.9, -3.4028234663852886e38, 1234567.75])
def test_nodata_as_it_is_printed(make_raster: MakeRaster, tmp_path: Path, value: float) -> None:
    rng = np.random.default_rng(0)
    heights = (300 + rng.normal(0, 5, (1, 64, 64)).cumsum(1)).astype(np.float32)
    heights[0, 10:20, 30:40] = value
    for name, split in (("a", "train"), ("b", "val")):
        make_raster(tmp_path / f"{name}.tif", heights)
        make_raster(tmp_path / f"{name}_l.tif", rng.integers(0, 2, (1, 64, 64)).astype(np.uint8))
        assert split
    path = tmp_path / "dataset.yaml"
    path.write_text(
        "classes: [{name: a, code: 0}, {name: b, code: 1}]\n"
        "modalities: {h: {kind: elevation, unit: m, bands: [z]}}\n"
        "scenes: [{id: a, split: train, h: a.tif, labels: a_l.tif}]\n"
    )
    (finding,) = [f for f in check_manifest(load_manifest(path)) if f.code == "elevation-fill"]
    (printed,) = re.findall(r"Set '(nodata: \S+)' on the modality", finding.remedy)
    # As a person types it.
    path.write_text(path.read_text().replace("bands: [z]", f"bands: [z], {printed}"))
    assert "elevation-fill" not in {f.code for f in check_manifest(load_manifest(path))}
    scene = load_manifest(path).scene("a")
    image = scene.read(scene.grid.window).images["h"][0]
    assert int(np.isnan(image.numpy()).sum()) == 100


def test_numbers_are_written_whole() -> None:
    written = {
        0.0: "0", -9999.0: "-9999", 1234567.0: "1234567", 1e20: "1.0e+20", 0.1: "0.1",
        -9999.900390625: "-9999.9", -3.4028234663852886e38: "-3.4028235e+38",
        -1.7976931348623157e308: "-1.7976931348623157e+308", 123456.789: "123456.789",
    }  # fmt: skip
    for value, text in written.items():
        assert exact_number(value) == text
        read = yaml.safe_load(text)
        assert isinstance(read, int | float)
        assert read == pytest.approx(value, rel=1e-7)
    assert [yaml.safe_load(exact_number(v)) for v in (float("inf"), -float("inf"))] == [
        float("inf"), -float("inf"),
    ]  # fmt: skip


def test_large_label_codes_as_they_are_printed(make_raster: MakeRaster, tmp_path: Path) -> None:
    codes = np.full((1, 4, 4), 1_234_567, np.int32)
    path = make_raster(tmp_path / "l.tif", codes)
    image = make_raster(tmp_path / "i.tif", np.zeros((1, 4, 4), np.uint8))

    def read(scheme: ClassScheme) -> np.ndarray:
        scene = scene_from_rasters(
            [Modality("m", ("x",))], {"m": image}, labels=path, scheme=scheme
        )
        return scene.read_labels(scene.grid.window)

    with pytest.raises(LabelError, match="not in the class scheme") as error:
        read(ClassScheme(("a", "b")))
    (code,) = re.findall(r"scheme: (\S+) \(16 px", str(error.value))
    assert (read(ClassScheme(("a", "b"), codes=((0,), (int(code),)))) == 1).all()


def test_bands_of_a_file_for_a_trained_model(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.arange(4 * 16, dtype=np.uint16).reshape(4, 4, 4)
    path = make_raster(tmp_path / "i.tif", image)
    modalities = [Modality("m", ("r", "g", "b"))]
    with pytest.raises(BandError, match="wrong number of bands") as error:
        scene_from_rasters(modalities, {"m": path})
    (name,) = re.findall(r"as in '(vrt://.*)'", str(error.value))
    scene = scene_from_rasters(modalities, {"m": name})
    np.testing.assert_array_equal(scene.read(scene.grid.window).images["m"], image[:3])
    scene = scene_from_rasters(modalities, {"m": name.replace("1,2,3", "3,2,4")})
    np.testing.assert_array_equal(scene.read(scene.grid.window).images["m"], image[[2, 1, 3]])
    single = make_raster(tmp_path / "s.tif", image[:1])
    with pytest.raises(BandError, match="give the files of the other bands too"):
        scene_from_rasters(modalities, {"m": single})
    scene = scene_from_rasters(modalities, {"m": [single] * 3})
    assert scene.read(scene.grid.window).images["m"].shape == (3, 4, 4)


@pytest.mark.filterwarnings("ignore:.*the transform of")
@pytest.mark.parametrize(("scale", "pixels", "right"), [(2, 12, "1"), (1, 6, "2"), (3, 24, "0.5")])
def test_the_scale_that_sizes_have(
    make_raster: MakeRaster, tmp_path: Path, scale: float, pixels: int, right: str
) -> None:
    rasters = {
        "a": make_raster(tmp_path / "a.tif", np.zeros((1, 12, 12), np.uint8), crs=None),
        "b": make_raster(tmp_path / "b.tif", np.ones((1, pixels, pixels), np.uint8), crs=None),
    }

    def modalities(of_b: float) -> list[Modality]:
        return [Modality("a", ("x",)), Modality("b", ("x",), scale=of_b)]

    with pytest.raises(GridMismatchError) as error:
        scene_from_rasters(modalities(scale), rasters, grid="a")
    assert f"'scale' of modality 'b' is {scale:g}, these sizes are of" in str(error.value)
    (found,) = re.findall(r"'scale: (\S+)'", str(error.value))
    assert found == right
    scene = scene_from_rasters(modalities(float(found)), rasters, grid="a")
    assert scene.read(scene.full_window).images["b"].shape == (1, pixels, pixels)


def test_sizes_that_no_scale_fits_name_none(make_raster: MakeRaster, tmp_path: Path) -> None:
    rasters = {
        "a": make_raster(tmp_path / "a.tif", np.zeros((1, 12, 12), np.uint8), crs=None),
        "b": make_raster(tmp_path / "b.tif", np.ones((1, 6, 9), np.uint8), crs=None),
    }
    with pytest.raises(GridMismatchError, match=r"is 1; give sizes that fit, or georeference"):
        scene_from_rasters([Modality("a", ("x",)), Modality("b", ("x",))], rasters, grid="a")
