"""Bands found by name and wavelength; kernels made for Sentinel's bands, for other bands."""

from __future__ import annotations

import pytest
import torch

from terrafuse.backbones import bands_in_turn, fit_bands
from terrafuse.backbones.sentinel import (
    BANDS_BY_NUMBER,
    SENTINEL1,
    SENTINEL2_L1C,
    SENTINEL2_L2A,
    adapt_bands,
    match_bands,
    scale_two_sigma,
)
from terrafuse.modalities import Modality


def test_the_order_of_bands_is_that_of_the_files() -> None:
    found = " ".join(SENTINEL2_L2A)
    assert found == "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B11 B12"
    assert set(SENTINEL2_L1C) - set(SENTINEL2_L2A) == {"B10"}
    assert SENTINEL2_L1C.index("B10") == 10
    assert set(BANDS_BY_NUMBER) == {2, 12, 13}


@pytest.mark.parametrize(
    ("bands", "waves", "expected"),
    [
        (("B04", "b3", "S2_B02", "B8A"), None, ["B4", "B3", "B2", "B8A"]),
        (("red", "G", "blue", "NIR"), None, ["B4", "B3", "B2", "B8"]),
        (("x", "y", "z"), (0.67, 0.86, 1.55), ["B4", "B8A", "B11"]),
        (("nir", "thermal"), (0.83, 10.9), ["B8", None]),
        (("red_edge_1", "nir_narrow", "SWIR2", "cirrus"), None, ["B5", "B8A", "B12", None]),
        (("VV", "height"), None, [None, None]),
    ],
)
def test_bands_are_found(
    bands: tuple[str, ...], waves: tuple[float, ...] | None, expected: list[str | None]
) -> None:
    modality = Modality("m", bands, "optical", waves)
    found = match_bands([modality], SENTINEL2_L2A)
    assert [None if i is None else SENTINEL2_L2A[i] for i in found] == expected


def test_radar_is_found_by_polarisation() -> None:
    modalities = [Modality("a", ("vh", "VV_db"), "sar"), Modality("b", ("hh",), "sar")]
    assert match_bands(modalities, SENTINEL1) == [1, 0, None]


def test_responses_keep_their_size() -> None:
    """An image whose bands are all alike gives the same whichever bands it has."""
    torch.manual_seed(0)
    kernels = torch.rand(5, 12, 3, 3)
    whole = kernels.sum(dim=1)
    assert torch.equal(adapt_bands(kernels, list(range(12))), kernels)
    few = adapt_bands(kernels.mean(dim=1, keepdim=True).expand(-1, 12, -1, -1), [3, None])
    torch.testing.assert_close(few.sum(dim=1), whole)
    unknown = adapt_bands(kernels, [None, None, None])
    torch.testing.assert_close(unknown.sum(dim=1), whole)


def test_bands_at_one_place_are_told_apart() -> None:
    """Two dates of B4, and two unknown bands; where they are equal, nothing has changed."""
    torch.manual_seed(1)
    kernels = torch.randn(6, 12, 2, 2)
    places = [3, None, 7, 3, None]
    plain = adapt_bands(kernels, places, tell_apart=False)
    found = adapt_bands(kernels, places)
    assert torch.equal(plain[:, 0], plain[:, 3])
    for first, second in ((0, 3), (1, 4)):
        assert (found[:, first] - found[:, second]).abs().mean() > 0.05 * plain.abs().mean()
        torch.testing.assert_close(
            found[:, first] + found[:, second], plain[:, first] + plain[:, second]
        )
    assert torch.equal(found[:, 2], plain[:, 2])
    with bands_in_turn():  # frozen first layers of before
        bands = Modality("m", ("B4_before", "B4_after"), "optical")
        again = fit_bands(torch.randn(3, 12, 2, 2), 2, [bands])
    assert torch.equal(again[:, 0], again[:, 1])


def test_known_bands_are_taken_by_name_and_others_in_turn() -> None:
    kernels = torch.arange(13.0).reshape(1, 13, 1, 1)
    modality = Modality("m", ("B12", "B2"), "optical")
    assert fit_bands(kernels, 2, [modality]).flatten().tolist() == [12 * 6.5, 6.5]
    assert fit_bands(kernels, 2).flatten().tolist() == [0, 6.5]
    # As many bands as kernels, in another order.
    turned = Modality("m", ("VH", "VV"), "sar")
    assert fit_bands(kernels[:, :2], 2, [turned]).flatten().tolist() == [1, 0]
    # Nothing is known of these, and colour images have no such order.
    nameless = Modality("m", ("p", "q"), "other")
    assert fit_bands(kernels, 2, [nameless]).flatten().tolist() == [0, 6.5]
    rgb = Modality("m", ("B4", "B3"), "optical")
    assert fit_bands(kernels[:, :3], 2, [rgb]).flatten().tolist() == [0, 1.5]


def test_two_deviations_fill_the_range() -> None:
    x = torch.tensor([-9.0, -2, -1, 0, 2, 9])
    assert scale_two_sigma(x).tolist() == [0, 0, 0.25, 0.5, 1, 1]
