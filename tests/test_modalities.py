import pytest

from terrafuse.errors import ConfigError
from terrafuse.modalities import BandStatistics, Modality, window_alignment


def modality(scale: float, name: str = "m") -> Modality:
    return Modality(name, ("a",), scale=scale)


@pytest.mark.parametrize(
    ("scale", "size", "pixels"),
    [(1, 96, 96), (2, 96, 48), (0.5, 96, 192), (3.5, 98, 28), (20, 320, 16)],
)
def test_sizes_follow_the_scale(scale, size, pixels):
    assert modality(scale).size_at(size) == pixels


def test_sizes_that_break_a_pixel_are_refused():
    with pytest.raises(ConfigError, match="multiple of 20"):
        modality(20).size_at(256)


def test_alignment_suits_every_scale():
    together = [modality(2, "a"), modality(1.5, "b"), modality(0.25, "c")]
    step = window_alignment(together)
    assert step == 6
    assert all(m.size_at(step) for m in together)


def test_a_third_is_understood():
    assert modality(0.33333).scale_ratio == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [0, -1, 3.14159, 65, 1e-9])
def test_scales_that_cannot_be_aligned_are_refused(scale):
    with pytest.raises(ConfigError, match="ratio of whole numbers"):
        modality(scale)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "a b", "bands": ("x",)}, "letters, digits"),
        ({"name": "a", "bands": ()}, "no bands"),
        ({"name": "a", "bands": ("x", "x")}, "twice"),
        ({"name": "a", "bands": ("x",), "kind": "radar"}, "optical, sar"),
        ({"name": "a", "bands": ("x",), "wavelengths_um": (0.5, 0.6)}, "one per band"),
    ],
)
def test_contradictions_are_refused(fields, text):
    with pytest.raises(ConfigError, match=text):
        Modality(**fields)


def test_dicts_and_back():
    whole = Modality("s2", ("B4", "B8"), "optical", (0.665, 0.842), "reflectance", 2.0)
    assert Modality.from_dict(whole.to_dict()) == whole
    statistics = BandStatistics((1.0,), (2.0,), (0.0,), (3.0,), (10,))
    assert BandStatistics.from_dict(statistics.to_dict()) == statistics


@pytest.mark.parametrize(
    ("bands", "wavelengths", "expected"),
    [
        (("Blue", "G", "RED"), None, (2, 1, 0)),
        (("B02", "B03", "B04", "B08"), None, (2, 1, 0)),
        (("a", "b1", "c", "d"), (0.842, 0.665, 0.56, 0.49), (1, 2, 3)),
        (("red", "green", "blue"), (0.49, 0.56, 0.665), (0, 1, 2)),  # names say more
        (("B4", "B3", "B2", "B1"), (0.835, 0.66, 0.56, 0.485), (1, 2, 3)),  # Landsat 7
        (("nir", "red", "green"), (0.84, 0.665, 0.56), None),
        (("a", "c", "d"), (0.61, 0.49, 0.80), None),  # one band cannot be two colours
        (("a", "c", "d"), (0.74, 0.56, 0.49), None),
        (("VV", "VH", "r"), None, None),
    ],
)
def test_bands_that_show_colours(bands, wavelengths, expected):
    assert Modality("m", bands, "optical", wavelengths_um=wavelengths).rgb_bands == expected
