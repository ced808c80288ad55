"""Pictures of findings' places, and contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import yaml
from PIL import Image

from terrafuse.api import data_preview
from terrafuse.data import load_manifest
from terrafuse.doctor import Finding
from terrafuse.errors import ConfigError, SceneNotFoundError
from terrafuse.landscape import make_landscape
from terrafuse.reports.thumbnails import SIDE, finding_views
from terrafuse.samples import Window


@pytest.fixture
def landscape(tmp_path):
    return make_landscape(tmp_path / "land", seed=1, size=128, train=4, val=1, test=1)


def finding(**values):
    return Finding("warning", values.pop("code", "x"), "message", **values)


def test_a_place_is_shown_in_every_modality_its_own_first(landscape):
    manifest = load_manifest(landscape)
    window = Window(40, 60, 8, 10)
    found = finding(scene="train_1", modality="dsm", window=window, fix={"a": 1}, remedy="do")
    (view,) = finding_views(manifest, [found])
    assert list(view.pictures) == ["dsm", "optical", "sar", "labels"]
    assert (view.code, view.remedy, view.fix) == ("x", "do", {"a": 1})
    for picture in view.pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert SIDE // 2 <= max(picture.shape[:2]) <= 2 * SIDE
        # The whole scene is 128 pixels: the place is outlined in it.
        assert (picture == (255, 64, 160)).all(axis=2).any()


def test_only_so_many_of_a_kind_have_pictures(landscape):
    manifest = load_manifest(landscape)
    found = [finding(scene="train_1") for _ in range(4)] + [finding(code="y", scene="val_1")]
    found.insert(0, finding())
    views = finding_views(manifest, found, most=2)
    assert [bool(view.pictures) for view in views] == [False, True, True, False, False, True]


def test_what_cannot_be_read_has_no_pictures(landscape):
    manifest = load_manifest(landscape)
    (landscape.parent / "sar/train_1.tif").write_bytes(b"broken")
    with rasterio.open(landscape.parent / "labels/train_2.tif", "r+") as dataset:
        dataset.write(np.full((1, 128, 128), 77, np.uint8))
    broken, unknown = finding_views(
        manifest, [finding(scene="train_1"), finding(scene="train_2", code="labels")]
    )
    assert broken.pictures == {}
    assert list(unknown.pictures) == ["optical", "sar", "dsm"]


def test_large_places_are_shown_in_small(make_raster, tmp_path):
    image = np.zeros((1, 1500, 1500), np.uint8)
    image[0, 700:, 1000:] = 200
    make_raster(tmp_path / "a.tif", image)
    values = {
        "classes": [{"name": "a", "code": 0}],
        "modalities": {"m": {"bands": ["x"]}},
        "scenes": [{"id": "s", "m": "a.tif"}],
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    manifest = load_manifest(tmp_path / "dataset.yaml")
    whole, part = finding_views(
        manifest,
        [finding(scene="s"), finding(scene="s", window=Window(0, 300, 1400, 1200), code="y")],
    )
    assert max(whole.pictures["m"].shape) <= 2 * SIDE
    assert part.pictures["m"].shape[0] < 2 * SIDE
    middle = whole.pictures["m"].shape[0] // 2
    assert whole.pictures["m"][middle, -5].max() > whole.pictures["m"][middle, 0].max()


def test_a_preview_shows_scenes_evenly(landscape, tmp_path):
    out = tmp_path / "sub/preview.png"
    assert data_preview(landscape, out, scenes=3) == ["train_1", "train_3", "test_1"]
    with Image.open(out) as picture:
        colors = np.asarray(picture.convert("RGB"))
    assert colors.shape[0] > 500
    assert colors.std() > 20
    assert data_preview(landscape, out, split="val") == ["val_1"]
    assert not list(out.parent.glob("*.partial"))


def test_a_scene_on_another_scale_stands_out(landscape, tmp_path, monkeypatch):
    seen = {}
    from terrafuse.reports import contact

    original = contact.contact_sheet

    def spy(rows, *args, **kwargs):
        seen.update(rows)
        return original(rows, *args, **kwargs)

    monkeypatch.setattr(contact, "contact_sheet", spy)
    with rasterio.open(landscape.parent / "sar/train_2.tif", "r+") as dataset:
        dataset.write(dataset.read() + 60)
    data_preview(landscape, tmp_path / "p.png", split="train")
    brightness = {id: row["sar"].mean() for id, row in seen.items()}
    assert brightness["train_2"] > 1.5 * max(v for k, v in brightness.items() if k != "train_2")


def test_wrong_requests_are_explained(landscape, tmp_path):
    with pytest.raises(SceneNotFoundError, match=r"'tran'.*train"):
        data_preview(landscape, tmp_path / "a.png", split="tran")
    with pytest.raises(ConfigError, match=r"\.png file, not 6 in"):
        data_preview(landscape, tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="one scene or more"):
        data_preview(landscape, tmp_path / "a.png", scenes=0)
