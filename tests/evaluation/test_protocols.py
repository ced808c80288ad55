"""A miniature of each published data set, from its files to the confusion matrix done by hand.

The map is the same for all: read on the grid of the labels, it says

    0 1 1 0
    0 1 0 2
    2 0 0 2

and the reference says (V: void or a boundary, L: a class of which only one pixel is there)

    0 0 1 V
    0 1 1 V
    2 2 0 L

so that of ten pixels with a class six are right. No other class is in either of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import published_sets as published
from array_scene import Identity
from terrafuse.config import EvaluationConfig
from terrafuse.data import Manifest, load_manifest, write_manifest
from terrafuse.evaluation import evaluate
from terrafuse.layouts import describe
from terrafuse.prediction import WindowSettings
from terrafuse.segmenter import Inputs, SegmenterOutput

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # miniatures are not complete

V, L = 255, 99
REFERENCE = np.array([[0, 0, 1, V], [0, 1, 1, V], [2, 2, 0, L]], np.uint8)
CLASS_MAP = np.array([[0, 1, 1, 0], [0, 1, 0, 2], [2, 0, 0, 2]], np.uint8)
#: Rows of classes 0, 1, 2 and of the one with a single pixel; columns of the map's classes 0, 1, 2.
ROWS, LAST = ([3, 1, 0], [1, 2, 0], [1, 0, 1]), [0, 0, 1]
# Class 0: 3 right, 1 missed, 2 too many; class 1: 2, 1, 1; class 2: 1, 1, 1; the last one: 0, 1, 0.
IOU, MEAN_IOU = (3 / 6, 2 / 4, 1 / 3), (3 / 6 + 2 / 4 + 1 / 3) / 4


class Tell(Identity):
    """The first band of the first modality is the class, plus 1 as 0 may be no data."""

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        band = inputs.images[self.modalities[0].name][:, 0]
        classes = torch.arange(1, self.num_classes + 1)[None, :, None, None]
        return SegmenterOutput((band[:, None] == classes).float())


def reference(last: int) -> np.ndarray:
    """The reference with the class of the single pixel."""
    return np.where(REFERENCE == L, last, REFERENCE).astype(np.uint8)


def image(bands: int, first: int = 0) -> np.ndarray:
    """A picture whose band `first` says the map."""
    pixels = published.numbers(bands, shape=REFERENCE.shape)
    pixels[first] = CLASS_MAP + 1
    return pixels


def matrix(classes: int, last: int | None = None) -> list[list[int]]:
    """The matrix by hand."""
    counts = np.zeros((classes, classes), int)
    counts[:3, :3] = ROWS
    if last is not None:
        counts[last, :3] = LAST
    return counts.tolist()


def judge(root: Path, layout: str, split: str = "test", **settings: Any) -> dict[str, Any]:
    """Scores of the map by our evaluation, through the manifest of the layout."""
    options = settings.pop("options", {})
    values = describe(root, layout, **options)
    manifest: Manifest = load_manifest(write_manifest(values, root / "dataset.yaml"))
    scenes = manifest.scenes(split)
    assert len(scenes) == 1
    model = Tell(scenes[0].modalities, num_classes=manifest.scheme.num_classes)
    config = EvaluationConfig(split=split, **settings)
    metrics = evaluate(
        model, scenes, manifest.scheme, config, WindowSettings(8, 0),
        device="cpu", boundary=False,
    )  # fmt: skip
    result: dict[str, Any] = metrics["subsets"][metrics["full"]]
    assert metrics["unmapped"] == 0
    return result


ALLOW = {"incomplete": "allow"}


def test_whu_opt_sar(tmp_path: Path) -> None:
    """Code 0 is no class: counted as one, it would add a row, and the mean would fall."""
    id = "NH49E001014"
    published.make_whu(tmp_path, [id], labels={id: reference(5)}, images={id: image(4)})
    got = judge(tmp_path, "whu-opt-sar", options=ALLOW)
    assert got["matrix"] == matrix(7, last=5)
    assert got["pixels"] == 10
    assert got["scores"]["oa"] == pytest.approx(0.6)
    assert got["scores"]["miou"] == pytest.approx(MEAN_IOU)
    assert [got["per_class"][name]["iou"] for name in ("farmland", "city", "village")] == (
        pytest.approx(list(IOU))
    )
    assert got["per_class"]["road"]["iou"] == 0  # there, and never found
    assert got["per_class"]["water"]["iou"] is None  # in neither: no part of the mean
    everything = MEAN_IOU * 4 / 5  # as with void among the classes
    assert got["scores"]["miou"] > everything


def test_gid5(tmp_path: Path) -> None:
    """Black is unlabelled; forest is cyan and not blue, which is water."""
    id = published.gid_ids()[0]
    labels = reference(4)
    published.make_gid5(tmp_path, [id], labels={id: labels}, images={id: image(4, first=1)})
    got = judge(tmp_path, "gid-5", options=ALLOW)
    assert got["matrix"] == matrix(5, last=4)
    assert got["scores"]["miou"] == pytest.approx(MEAN_IOU)
    assert list(got["per_class"]) == ["built-up", "farmland", "forest", "meadow", "water"]
    assert got["per_class"]["forest"]["pixels"] == 2


def test_gid15(tmp_path: Path) -> None:
    """Index 0 is no class, and the first class has index 1."""
    id = published.gid_ids()[0]
    codes = (reference(14) + 1).astype(np.uint8)  # 255 + 1 = 0
    published.save(tmp_path / f"GID/img_dir/val/{id}.tif", image(4, first=1))
    published.save(tmp_path / f"GID/ann_dir/val/{id}_15label.png", codes[None])
    got = judge(tmp_path, "gid-15", options=ALLOW)
    assert got["matrix"] == matrix(15, last=14)
    assert got["per_class"]["industrial land"]["pixels"] == 4


@pytest.mark.parametrize(
    ("layout", "make", "id", "bands"),
    [("vaihingen", published.make_vaihingen, "2", 3),
     ("potsdam", published.make_potsdam, "2_13", 4)],
)  # fmt: skip
def test_isprs(layout: str, make: Callable[..., Path], id: str, bands: int, tmp_path: Path) -> None:
    """Eroded boundaries drop out; clutter is in the matrix and in OA, and not in the means."""
    full = np.where(REFERENCE == V, 3, reference(5)).astype(np.uint8)
    pixels = image(bands)
    make(tmp_path, ids=[id], labels={id: full}, eroded={id: reference(5)}, images={id: pixels})
    five = ("impervious surface", "building", "low vegetation", "tree", "car")
    eroded = judge(tmp_path, layout, options=ALLOW, reference="labels_eroded", mean_over=five)
    assert eroded["matrix"] == matrix(6, last=5)
    assert eroded["scores"]["oa"] == pytest.approx(6 / 10)
    # Trees and cars are in neither: three classes make the mean.
    assert eroded["scores"]["miou"] == pytest.approx(MEAN_IOU * 4 / 3)

    with_clutter = judge(tmp_path, layout, options=ALLOW, reference="labels_eroded")
    assert with_clutter["matrix"] == eroded["matrix"]
    assert with_clutter["scores"]["miou"] == pytest.approx(MEAN_IOU)

    whole = judge(tmp_path, layout, options=ALLOW, reference="labels", mean_over=five)
    expected = np.array(matrix(6, last=5))
    expected[3, :3] = [1, 0, 1]  # the two pixels that the eroded labels leave out
    assert whole["matrix"] == expected.tolist()
    assert whole["scores"]["oa"] == pytest.approx(6 / 12)
    iou = (3 / 7, 2 / 4, 1 / 4, 0)  # class 0 and 2 lose one more each; trees are never found
    assert whole["scores"]["miou"] == pytest.approx(sum(iou) / 4)


def test_mmhunan(tmp_path: Path) -> None:
    """Raw 11 and 255 are ignored; raw 4 is forest, or ignored, after whose rule one counts."""
    codes = np.array([[1, 1, 2, 11], [1, 4, 2, 255], [3, 3, 1, 8]], np.uint8)
    id = "639"
    folder = tmp_path / "Hunan_Dataset/test"
    for name, pixels in (
        ("s2", image(13)), ("s1", image(2)), ("topo", image(2)), ("lc", codes[None]),
    ):  # fmt: skip
        published.save(folder / f"{name}/{name}_{id}.tif", pixels)
    got = judge(tmp_path, "mmhunan", options=ALLOW)
    assert got["matrix"] == matrix(7, last=6)  # raw 8 is built up
    assert got["scores"]["oa"] == pytest.approx(6 / 10)
    got = judge(tmp_path, "mmhunan", options={**ALLOW, "classes": "mfnet"})
    expected = np.array(matrix(7, last=5))  # its sixth class is raw 8
    expected[1, 1] -= 1  # the shrub, which was right
    assert got["matrix"] == expected.tolist()
    assert got["scores"]["oa"] == pytest.approx(5 / 9)


def test_forests(tmp_path: Path) -> None:
    """255 is ignored."""
    for name in ("a", "b"):
        published.save(tmp_path / f"RGB/{name}.png", image(3))
        published.save(tmp_path / f"SAM/{name}.png", image(1))
        published.save(tmp_path / f"labels/{name}.png", reference(3)[None])
    (tmp_path / "train.txt").write_text("RGB/a.png\n")
    (tmp_path / "test.txt").write_text("RGB/b.png\n")
    got = judge(tmp_path, "forests", options={"split": "official"})
    assert got["matrix"] == matrix(4, last=3)
    assert got["scores"]["miou"] == pytest.approx(MEAN_IOU)


def test_dfc2020(tmp_path: Path) -> None:
    """Savanna and snow are no classes, and codes have gaps: 1, 2, 4, 5, 6, 7, 9, 10."""
    codes = np.array([1, 2, 4, 5, 6, 7, 9, 10, 3])[np.minimum(reference(7), 8)]
    codes[1, 3] = 8
    for kind, pixels in (("s1", image(2)), ("s2", image(13)), ("dfc", codes[None])):
        name = f"ROIs0000_test_{kind}_0_p0.tif"
        published.save(tmp_path / f"ROIs0000_test/{kind}_0/{name}", pixels.astype(np.uint16))
    got = judge(tmp_path, "dfc2020")
    assert got["matrix"] == matrix(8, last=7)
    assert got["per_class"]["water"]["pixels"] == 1


#: Two classes: 2 counts as 1, and so does the single pixel.
BINARY = np.where(REFERENCE == V, V, np.minimum(REFERENCE, 1)).astype(np.uint8)


def binary_image(bands: int) -> np.ndarray:
    pixels = image(bands)
    pixels[0] = np.minimum(CLASS_MAP, 1) + 1
    return pixels


def test_sen1floods11(tmp_path: Path) -> None:
    """−1 is no class."""
    codes = np.where(BINARY == V, -1, BINARY.astype(np.int16))
    for name, pixels in (
        ("S1Hand", binary_image(2).astype(np.float32)),
        ("S2Hand", binary_image(13).astype(np.int16)),
        ("LabelHand", codes[None]),
    ):
        published.save(tmp_path / f"{name}/Bolivia_7_{name}.tif", pixels)
    got = judge(tmp_path, "sen1floods11")
    # Reference 0: four pixels, one mapped 1; reference 1: six, of which two mapped 0.
    assert got["matrix"] == [[3, 1], [2, 4]]
    assert got["scores"]["miou"] == pytest.approx((3 / 6 + 4 / 7) / 2)


def test_ombria(tmp_path: Path) -> None:
    """0 and 255 are both classes: nothing is ignored."""
    mask = np.where(BINARY == 1, 255, 0).astype(np.uint8)
    for sensor, bands in (("s1", 1), ("s2", 3)):
        for time in ("before", "after"):
            published.save(tmp_path / f"{sensor}_{time}/0096.png", binary_image(bands))
    published.save(tmp_path / "mask/0096.png", mask[None])
    got = judge(tmp_path, "ombria")
    # The two void pixels are dry here; one of them is mapped 0, one 1.
    assert got["matrix"] == [[4, 2], [2, 4]]
    assert got["pixels"] == 12
