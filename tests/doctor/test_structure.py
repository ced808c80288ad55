from __future__ import annotations

import numpy as np
from rasterio.transform import from_origin

from terrafuse.doctor.structure import check_structure

RNG = np.random.default_rng(0)


def noise(size: int = 32) -> np.ndarray:
    return RNG.random((1, size, size)).astype(np.float32)


def test_rasters_that_fit_say_nothing(look_at):
    case = look_at(m=(noise(), {}, {}), n=(noise(16), {"scale": 2.0}, {}))
    assert list(check_structure(case)) == []


def test_pixels_of_another_size_than_declared(look_at):
    twice = {"transform": from_origin(500_000, 5_000_000, 20, 20)}
    case = look_at(m=(noise(), {}, {}), n=(noise(16), {}, twice))
    (finding,) = check_structure(case)
    assert (finding.severity, finding.code, finding.modality) == ("warning", "pixel-size", "n")
    assert finding.fix == {"modalities.n.scale": 2.0}
    assert "20 m where the manifest expects 10 m" in finding.message


def test_rasters_that_cover_a_part(look_at):
    for rows, severity in ((10, "warning"), (28, "note")):
        case = look_at(m=(noise(), {}, {}), n=(noise()[:, :rows], {}, {}))
        (finding,) = check_structure(case)
        assert (finding.severity, finding.code, finding.modality) == (severity, "coverage", "n")
    assert "covers 88%" in finding.message


def test_another_crs_is_a_note(look_at):
    near = {"crs": "EPSG:32632", "transform": from_origin(970_150, 5_020_000, 10, 10)}
    case = look_at(m=(noise(64), {}, {}), n=(noise(4000), {}, near))
    codes = {(f.severity, f.code) for f in check_structure(case)}
    assert ("note", "crs") in codes
