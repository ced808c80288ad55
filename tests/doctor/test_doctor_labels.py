from __future__ import annotations

import numpy as np
import pytest
import yaml
from scipy import ndimage

from terrafuse.data import load_manifest
from terrafuse.doctor import check_manifest
from terrafuse.doctor.labels import check_labels

RNG = np.random.default_rng(0)
SIZE = 96
COLORS = ("#ffffff", "#0000ff", "#00ff00", "#ffff00")


def fields(classes: int = 4, cell: int = 12) -> np.ndarray:
    """Square fields of random classes, (H, W)."""
    coarse = RNG.integers(0, classes, (SIZE // cell, SIZE // cell))
    return np.kron(coarse, np.ones((cell, cell), int)).astype(np.uint8)


def image(bands: int = 1) -> np.ndarray:
    return RNG.integers(1, 255, (bands, SIZE, SIZE)).astype(np.uint8)


def paint(codes: np.ndarray) -> np.ndarray:
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in COLORS], np.uint8)
    return np.moveaxis(table[codes], -1, 0)


def codes_of(case) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in check_labels(case)]


def test_labels_of_one_class_and_mostly_void(look_at):
    labels = np.full((1, SIZE, SIZE), 255, np.uint8)
    labels[:, :5] = 1
    case = look_at(labels=labels, m=(image(), {}, {}))
    assert codes_of(case) == [("note", "mostly-void"), ("note", "one-class")]
    messages = [finding.message for finding in check_labels(case)]
    assert "94.8% of the labels" in messages[0]
    assert "all class 'b' (480 px)" in messages[1]


def test_the_value_for_no_data_is_the_code_of_a_class(tmp_path, make_raster):
    labels = fields(3)[None] + 4
    make_raster(tmp_path / "x.tif", image())
    make_raster(tmp_path / "l.tif", labels, nodata=5)
    values = {
        "classes": [{"name": n, "code": c} for n, c in (("a", 4), ("b", 5), ("c", 6))],
        "modalities": {"x": {"bands": ["g"]}},
        "scenes": [{"id": "s", "split": "train", "x": "x.tif", "labels": "l.tif"}],
    }
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump(values))
    (finding,) = [f for f in check_manifest(load_manifest(path)) if f.code == "nodata-is-class"]
    assert finding.severity == "note"
    share = (labels == 5).mean()
    assert f"'b': {share:.1%} of the labelled pixels count as 'b'" in finding.message
    del values["classes"][1]  # as the remedy says
    path.write_text(yaml.safe_dump(values | {"void": [5]}))
    codes = {f.code for f in check_manifest(load_manifest(path))}
    assert not codes & {"nodata-is-class", "labels"}


def test_labels_among_the_inputs(look_at):
    labels = fields(2)[None]
    case = look_at(labels=labels, m=(labels * 3 + 5, {}, {}), n=(image(), {}, {}))
    (finding,) = check_labels(case)
    assert (finding.severity, finding.code, finding.modality) == ("error", "labels-as-input", "m")
    hint = np.where(RNG.random(labels.shape) < 0.9, labels, 1 - labels)  # only a good hint
    assert codes_of(look_at(labels=labels, m=(hint, {}, {}))) == []


def test_a_rare_class_does_not_make_a_hint_a_leak(look_at):
    labels = np.zeros((1, SIZE, SIZE), np.uint8)
    labels[0, :1, :20] = 1
    coarse = RNG.integers(0, 9, (1, SIZE, SIZE)).astype(np.uint8)
    assert codes_of(look_at(labels=labels, m=(coarse, {}, {}))) == []


def test_a_mask_where_an_image_should_be(look_at):
    picture = {"kind": "optical"}
    case = look_at(labels=fields()[None], classes=tuple("abcd"), m=(paint(fields()), picture, {}))
    assert ("error", "labels-over-image") in codes_of(case)
    case = look_at(labels=fields()[None], classes=tuple("abcd"), m=(image(3), picture, {}))
    assert codes_of(case) == []


@pytest.fixture
def unknown(make_raster, tmp_path):
    """Function that checks one scene with these labels; the first error."""

    def run(labels: np.ndarray, *, colors: bool, step: int = 1) -> str:
        make_raster(tmp_path / "labels.tif", labels)
        make_raster(tmp_path / "image.tif", image())
        codes = COLORS if colors else [step * i for i in range(4)]
        values = {
            "classes": [{"name": f"c{i}", "code": code} for i, code in enumerate(codes)],
            "modalities": {"m": {"bands": ["b"]}},
            "scenes": [{"id": "x", "split": "train", "m": "image.tif", "labels": "labels.tif"}],
        }
        path = tmp_path / "dataset.yaml"
        path.write_text(yaml.safe_dump(values))
        findings = check_manifest(load_manifest(path), workers=1)
        found = next(finding for finding in findings if finding.code == "labels")
        assert found.severity == "error"
        return str(found)

    return run


def test_colours_between_those_of_the_palette(unknown):
    painted = paint(fields())
    half = painted[:, ::2, ::2]
    blurred = ndimage.zoom(half, (1, 2, 2), order=1)
    assert "resized with interpolation" in unknown(blurred, colors=True)


def test_codes_between_those_of_the_scheme(unknown):
    codes = (fields() * 10)[None]
    blurred = ndimage.zoom(codes[:, ::2, ::2], (1, 2, 2), order=1)
    assert "resized with interpolation" in unknown(blurred, colors=False, step=10)


def test_a_photograph_in_place_of_labels(unknown):
    text = unknown(image(3), colors=True)
    assert "this is a picture, not labels" in text


def test_codes_that_are_simply_missing_are_only_counted(unknown):
    codes = fields()[None]
    codes[:, 20:40, 20:40] = 17
    text = unknown(codes, colors=False)
    assert "17 (400 px" in text
    assert "interpolation" not in text
    codes = fields(6)[None]  # two further classes, as fields of their own
    assert "interpolation" not in unknown(codes, colors=False)
