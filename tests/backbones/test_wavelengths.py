"""What DOFA is told of bands: the table of sensors, the neighbours, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrafuse.backbones import band_codes, snap_wavelength
from terrafuse.backbones.wavelengths import SEEN_UM, SENSORS
from terrafuse.errors import ModelError
from terrafuse.modalities import Modality

ROWS = [(s, b, *values) for s, bands in SENSORS.items() for b, values in bands.items()]


@pytest.mark.parametrize(("sensor", "band", "centre", "told"), ROWS)
def test_centres_in_the_table_give_what_it_says(
    sensor: str, band: str, centre: float | None, told: float
) -> None:
    assert snap_wavelength(told) == told, (sensor, band)
    if centre is not None:
        assert snap_wavelength(centre) == told, (sensor, band)
        assert abs(centre - told) <= 0.03


@pytest.mark.parametrize(
    ("um", "told"),
    [
        (0.482, 0.49),  # Landsat's blue: 8 nm away
        (0.655, 0.665),
        (0.836, 0.83),  # between two: the nearer
        (0.837, 0.842),
        (0.695, 0.705),
        (0.52, 0.49),  # 30 nm
        (0.5205, 0.5205),  # further than that
        (0.94, 0.94),
        (1.375, 1.375),
        (1.64, 1.61),
        (10.9, 10.9),
    ],
)
def test_others_go_to_the_nearest_of_pretraining_up_to_30_nm(um: float, told: float) -> None:
    assert snap_wavelength(um) == told
    assert snap_wavelength(um, "exact") == um


@given(st.floats(0.3, 15))
def test_snapping_moves_30_nm_at_most_and_once(um: float) -> None:
    told = snap_wavelength(um)
    assert abs(told - um) <= 0.0305
    assert snap_wavelength(told) == told
    if told != um and told not in SEEN_UM:
        assert told in (0.445, 0.864, 0.944, 1.375, 3.75)


@pytest.mark.parametrize("um", [0.0, -0.5, 490.0, 55500.0, float("nan"), float("inf")])
@pytest.mark.parametrize("policy", ["snap", "exact"])
def test_what_is_no_wavelength_is_refused(um: float, policy: str) -> None:
    with pytest.raises(ModelError, match=r"Give micrometres \(490 nm are 0\.49\)"):
        snap_wavelength(um, policy)  # type: ignore[arg-type]


def test_codes_of_modalities() -> None:
    optical = Modality("ms", ("B", "NIR"), "optical", wavelengths_um=(0.485, 0.835))
    assert band_codes(optical) == (0.49, 0.83)
    assert band_codes(optical, policy="exact") == (0.485, 0.835)
    # Radar has a placeholder, whatever is written down for it.
    sar = Modality("sar", ("VV", "VH"), "sar", wavelengths_um=(55500.0, 55500.0))
    assert band_codes(sar) == (3.75, 3.75)
    assert band_codes(sar, version=2) == (5.405, 5.405)
    for kind in ("elevation", "structure", "other"):
        assert band_codes(Modality("m", ("a", "b"), kind)) == (None, None)  # type: ignore[arg-type]
    assert band_codes(Modality("m", ("a",), "other", wavelengths_um=(0.66,))) == (0.665,)


def test_a_missing_wavelength_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"'ms' has no wavelengths.*\(B2, B3\)\. Add wavelengths_"):
        band_codes(Modality("ms", ("B2", "B3"), "optical"))
