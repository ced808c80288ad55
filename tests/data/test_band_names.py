"""Names that files give their bands decide which band is which, and contradictions are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from terrafuse.data import ReadingRules, scene_from_rasters
from terrafuse.data.band_names import BandNamesWarning
from terrafuse.errors import BandError
from terrafuse.modalities import Modality

MakeRaster = Callable[..., Path]
BGRN = ("blue", "green", "red", "nir")


@pytest.fixture
def write(make_raster: MakeRaster, tmp_path: Path) -> Callable[..., Path]:
    """Function that writes bands that are 1, 2, 3 … everywhere, with descriptions or colours."""

    def make(
        count: int, names: list[str | None] | None = None, name: str = "a.tif",
        dtype: str = "uint16", first: int = 1, **profile: object,
    ) -> Path:  # fmt: skip
        values = np.arange(first, first + count, dtype=dtype)[:, None, None].repeat(2, 1)
        path = make_raster(tmp_path / name, values.repeat(3, 2), **profile)
        if names:
            with rasterio.open(path, "r+") as dataset:
                dataset.descriptions = tuple(names)
        return path

    return make


def read(bands: tuple[str, ...], path: Path | list[Path], rules: ReadingRules | None = None):
    sources = {"m": rules} if rules else None
    scene = scene_from_rasters([Modality("m", bands)], {"m": path}, sources=sources)
    return scene.read(scene.grid.window).images["m"][:, 1, 2].tolist()


def told(caught: pytest.WarningsRecorder) -> BandNamesWarning:
    (found,) = [w.message for w in caught if isinstance(w.message, BandNamesWarning)]
    return found


@pytest.mark.parametrize(
    ("bands", "names", "expected"),
    [
        (BGRN, ["nir", "red", "green", "blue"], [4, 3, 2, 1]),
        (BGRN, ["Green", "NIR", "Blue", "Red"], [3, 1, 4, 2]),
        (BGRN, ["B8", "B4", "B3", "B2"], [4, 3, 2, 1]),
        (BGRN, ["red (B4)", "B2 - blue", "B08", "Band 3: green"], [2, 4, 1, 3]),
        (BGRN, [None, "red", "green", "blue"], [4, 3, 2, 1]),  # what is left is the nir
        (
            ("B02", "B8A"),
            ["b8a, central wavelength 865 nm", "B2, central wavelength 490 nm"],
            [2, 1],
        ),
        (("red", "red_edge"), ["Red Edge", "Red"], [2, 1]),
        (("VV", "VH"), ["vh", "vv"], [2, 1]),
        (("r", "g", "b"), ["blue", "red", "green"], [2, 3, 1]),
        (("B1", "B2", "B3"), ["B3", "B1", "B2"], [2, 3, 1]),
        (("2020_nir", "2021_nir"), ["2021 nir", "2020 nir"], [2, 1]),
        (("nir",), ["nir", "red", "blue"], [1]),
        (("red", "nir"), ["blue", "green", "red", "nir"], [3, 4]),  # more than the modality has
    ],
)
def test_bands_are_taken_by_their_descriptions(write, bands, names, expected) -> None:
    with pytest.warns(BandNamesWarning, match="taken by name as") as caught:
        assert read(bands, write(len(names), names)) == expected
    warning = told(caught)
    said = str(warning)
    assert "a.tif" in said
    assert ", ".join(map(str, expected)) in said
    assert not warning.is_doubtful
    if len(names) == len(bands):
        as_they_come = list(range(1, len(bands) + 1))
        assert (
            read(bands, write(len(names), names), ReadingRules(band_names="ignore")) == as_they_come
        )


@pytest.mark.parametrize(
    ("bands", "names"),
    [
        (BGRN, ["blue", "green", "red", "nir"]),
        (BGRN, ["B2", "B3", "B4", "B8"]),
        (BGRN, ["B2", "B3", "B4", "B5"]),  # Landsat 8
        (BGRN, ["Band 1", "Band 2", "Band 3", "Band 4"]),
        (BGRN, ["blue", None, None, None]),
        (("B1", "B2", "B3", "B4"), ["blue", "green", "red", "nir"]),  # counted, no sensor's
        (("B1", "B2", "B3", "B4"), ["B2", "B3", "B4", "B8"]),
        (("a", "b"), ["red", "nir"]),
        (("red", "dsm"), ["red", "alpha"]),
    ],
)
def test_names_that_agree_or_say_nothing_leave_the_order(write, bands, names) -> None:
    assert read(bands, write(len(names), names)) == list(range(1, len(bands) + 1))


@pytest.mark.parametrize(
    ("bands", "names", "said"),
    [
        (BGRN, ["VV", "VH", "HH", "HV"], "is 'VV' by its descriptions .* band 'blue'"),
        (BGRN, ["blue", "red", "red", "nir"], "is 'red' .* band 'green'"),
        (BGRN, ["B5", "B4", "B3", "B2"], "is 'B4' .* band 'green'"),
        (("nir",), ["red"], "is 'red' .* band 'nir'"),
    ],
)
def test_names_of_other_bands_are_refused(write, bands, names, said) -> None:
    with pytest.raises(BandError, match=said) as caught:
        read(bands, write(len(names), names))
    assert "'band_names: ignore' on the modality" in str(caught.value)
    rules = ReadingRules(band_names="ignore")  # the remedy
    assert read(bands, write(len(names), names), rules) == list(range(1, len(bands) + 1))


def test_colour_tags_name_bands_where_nothing_else_does(write) -> None:
    path = write(4, photometric="RGB")  # the fourth is undefined
    with pytest.warns(BandNamesWarning, match=r"colour tags \(red, green, blue, –\)"):
        assert read(BGRN, path) == [3, 2, 1, 4]
    assert read(("red", "green", "blue", "nir"), path) == [1, 2, 3, 4]
    assert read(BGRN, path, ReadingRules(band_names="descriptions")) == [1, 2, 3, 4]
    with pytest.warns(BandNamesWarning, match=r"descriptions \(nir, red, green, blue\)"):
        assert read(BGRN, write(4, ["nir", "red", "green", "blue"], photometric="RGB")) == [
            4,
            3,
            2,
            1,
        ]


def test_colour_tags_of_false_colours_say_nothing(write) -> None:
    path = write(3, dtype="uint8")  # red, green, blue unless the writer says otherwise
    assert read(("nir", "red", "green"), path) == [1, 2, 3]
    assert read(("B4", "B3", "B2"), path) == [1, 2, 3]
    assert read(("b0", "b1", "b2"), path) == [1, 2, 3]


def test_colour_tags_that_do_not_name_every_band_say_nothing(write) -> None:
    path = write(4, dtype="uint8")  # red, green, blue, alpha unless the writer says otherwise
    assert read(("red", "green", "blue", "nir"), path) == [1, 2, 3, 4]
    assert read(BGRN, path) == [1, 2, 3, 4]
    assert read(("nir", "red", "green", "blue"), path) == [1, 2, 3, 4]
    assert read(BGRN, path, ReadingRules(read_bands=(3, 2, 1, 4))) == [3, 2, 1, 4]


def test_doubtful_names_of_files_are_spoken_of(write) -> None:
    files = [write(1, name="red.tif", first=1), write(1, name="x.tif", first=2)]
    with pytest.warns(BandNamesWarning, match="do not suit the order") as caught:
        assert read(("blue", "green"), files) == [1, 2]
    assert told(caught).is_doubtful
    assert read(("blue", "green"), files, ReadingRules(band_names="ignore")) == [1, 2]


def test_files_are_taken_by_what_they_are_named_after(write) -> None:
    named = [write(1, name=f"T33_B{n}_10m.tif", first=i) for i, n in enumerate((8, 4, 3), 1)]
    with pytest.warns(BandNamesWarning, match=r"file names \(T33_B8_10m.tif, .* 3, 2, 1"):
        assert read(("B03", "B04", "B08"), named) == [3, 2, 1]
    with pytest.warns(BandNamesWarning, match="3, 2, 1"):
        assert read(("green", "red", "nir"), named) == [3, 2, 1]
    plain = [write(1, name=f"{n}.tif", first=i) for i, n in enumerate("ba", 1)]
    assert read(("green", "red"), plain) == [1, 2]
    with pytest.raises(BandError, match=r"is 'b4' by its file names"):
        read(("green", "red"), named[1::-1])


def test_descriptions_count_more_than_names_of_files(write) -> None:
    files = [write(1, ["nir"], "red.tif", first=1), write(1, ["red"], "nir.tif", first=2)]
    with pytest.warns(BandNamesWarning, match="descriptions"):
        assert read(("red", "nir"), files) == [2, 1]


def test_numbers_count_more_than_names_and_are_spoken_of(write) -> None:
    path = write(4, ["nir", "red", "green", "blue"])
    with pytest.warns(
        BandNamesWarning, match="band 1 as 'nir', which 'read_bands' takes as 'blue'"
    ):
        assert read(("blue", "green"), path, ReadingRules(read_bands=(1, 3))) == [1, 3]
    assert read(("blue", "green"), path, ReadingRules(read_bands=(4, 3))) == [4, 3]
    assert read(("blue", "green"), path, ReadingRules(read_bands=("nir", "green"))) == [1, 3]
