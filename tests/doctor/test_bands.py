from __future__ import annotations

import numpy as np
import pytest

from terrafuse.doctor.bands import check_bands, infrared_and_red
from terrafuse.modalities import Modality

RNG = np.random.default_rng(0)
SIZE = 48
BANDS = ("blue", "green", "red", "nir")
LEAVES, SOIL = (300, 600, 400, 3500), (900, 1200, 1500, 2200)


def landscape(order: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[np.ndarray, np.ndarray]:
    """Image (4, H, W), forest above and soil below, and labels (1, H, W)."""
    labels = np.ones((1, SIZE, SIZE), np.uint8)
    labels[:, : SIZE // 2] = 0
    image = np.where(labels == 0, np.reshape(LEAVES, (4, 1, 1)), np.reshape(SOIL, (4, 1, 1)))
    noisy = image * RNG.normal(1, 0.1, (4, SIZE, SIZE))
    return noisy[list(order)].astype(np.uint16), labels


def check(look_at, order, classes=("forest", "soil"), **values):
    image, labels = landscape(order)
    kept = {"kind": "optical", "bands": BANDS} | values
    return list(check_bands(look_at(labels=labels, classes=classes, m=(image, kept, {}))))


def test_the_right_order(look_at):
    assert check(look_at, (0, 1, 2, 3)) == []


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (3, 0, 1, 2), (0, 1, 3, 2)])
def test_wrong_orders_and_what_mends_them(look_at, order):
    (finding,) = check(look_at, order)
    assert (finding.severity, finding.code, finding.modality) == ("warning", "band-order", "m")
    assert "labelled 'forest'" in finding.message
    mended = finding.fix["modalities.m.read_bands"]
    assert check(look_at, order, read_bands=tuple(mended)) == []


def test_names_that_are_no_plants(look_at):
    for name, severity in (("no forest", "note"), ("deforested", "note"), ("low_trees", "warning")):
        (finding,) = check(look_at, (3, 2, 1, 0), classes=(name, "soil"))
        assert finding.severity == severity


def test_leafless_plants_are_a_note(look_at):
    labels = np.zeros((1, SIZE, SIZE), np.uint8)
    image = np.repeat(RNG.integers(100, 110, (1, SIZE, SIZE)), 4, axis=0)
    image[2] += 5
    kept = {"kind": "optical", "bands": BANDS}
    case = look_at(labels=labels, classes=("trees", "b"), m=(image.astype(np.uint8), kept, {}))
    (finding,) = check_bands(case)
    assert (finding.severity, finding.fix) == ("note", {})


def test_without_labels_darkness_everywhere_is_a_note(look_at):
    image, _ = landscape((3, 2, 1, 0))
    kept = {"kind": "optical", "bands": BANDS}
    (finding,) = check_bands(look_at(m=(image, kept, {})))
    assert (finding.severity, finding.code) == ("note", "band-order")
    assert list(check_bands(look_at(m=(landscape()[0], kept, {})))) == []


def test_which_bands_are_meant():
    by_name = Modality("m", ("Red", "green", "NIR"), "optical")
    assert infrared_and_red(by_name) == (2, 0)
    names = ("B02", "B03", "B04", "B07", "B08")
    waves = Modality("m", names, "optical", wavelengths_um=(0.49, 0.56, 0.665, 0.783, 0.842))
    assert infrared_and_red(waves) == (4, 2)
    assert infrared_and_red(Modality("m", ("a", "b"), "optical")) is None
