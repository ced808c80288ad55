"""Very many scenes: a part of them is opened, and that is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse.data import handles
from terrafuse.errors import DataError
from terrafuse.layouts import describe, looking
from terrafuse.layouts.looking import FEW, SAMPLE, Look

MakeRaster = Callable[..., Path]
SCENES = 40
RARE = 9


@pytest.fixture
def many(make_raster: MakeRaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scenes of two bands with codes 0 and 1, and in one that is not opened a third."""
    monkeypatch.setattr(looking, "FEW", 20)
    monkeypatch.setattr(looking, "SAMPLE", 4)
    monkeypatch.setattr(looking, "PATIENCE", 6)
    ids = [f"{number:02d}" for number in range(SCENES)]
    rare = Look.at(ids, {}).order[-1]
    rows = ["scene,modality,path\n"]
    for number, id in enumerate(ids):
        codes = np.full((1, 4, 4), number % 2, np.uint8)
        codes[0, 0, 0] = RARE if id == rare else 0
        make_raster(tmp_path / f"set/labels/{id}.tif", codes)
        make_raster(tmp_path / f"set/s2/{id}.tif", np.ones((2, 4, 4), np.uint16))
        rows += [f"{id},s2,s2/{id}.tif\n", f"{id},labels,labels/{id}.tif\n"]
    (tmp_path / "set/rasters.csv").write_text("".join(rows))
    return tmp_path / "set"


def opened(root: Path, monkeypatch: pytest.MonkeyPatch, layout: str, **options: str) -> Any:
    """Values, and the number of different files opened."""
    seen, real = set(), handles.open_stored

    def note(spec: str) -> Any:
        seen.add(spec)
        return real(spec)

    monkeypatch.setattr(handles, "open_stored", note)
    return describe(root, layout, **options), len(seen)


@pytest.mark.parametrize("layout", ["folder", "items"])
def test_of_many_scenes_some_are_opened_unless_all_are_wanted(
    many: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    told = (
        "of 40 scenes, evenly spread ones were opened: 4 for bands and sizes and . for the values "
        "of labels, of which the last 6 had no new one. To open all: -O look=all"
    )
    with pytest.warns(UserWarning, match=told):
        some, count = opened(many, monkeypatch, layout)
    assert 4 + 6 <= count <= 4 + 10
    assert [item["code"] for item in some["classes"]] == [0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        every, count = opened(many, monkeypatch, layout, look="all")
    assert count == 2 * SCENES
    assert [item["code"] for item in every["classes"]] == [0, 1, RARE]
    assert some["scenes"] == every["scenes"]
    assert some["modalities"] == every["modalities"]
    with pytest.raises(DataError, match="-O look=none is not known; allowed are some, all"):
        describe(many, layout, look="none")


def test_labels_are_read_on_as_long_as_new_values_appear(
    many: Path, make_raster: MakeRaster
) -> None:
    for number in range(SCENES):
        path = many / f"labels/{number:02d}.tif"
        path.unlink()
        make_raster(path, np.full((1, 4, 4), number, np.uint8))
    with pytest.warns(UserWarning, match="4 for bands and sizes and 40 for the values"):
        values = describe(many, "folder")
    assert [item["code"] for item in values["classes"]] == list(range(SCENES))


@pytest.mark.parametrize("count", [FEW + 1, 4 * FEW + 7])
def test_scenes_that_are_opened_are_spread_evenly(count: int) -> None:
    ids = [str(number) for number in range(count)]
    look = Look.at(ids, {})
    assert sorted(look.order, key=int) == ids
    assert look.order[0] == "0"
    sides = sorted(int(id) for id in look.order[:SAMPLE])
    assert max(np.diff([*sides, count])) < 3 * count / SAMPLE
    assert Look.at(ids[:FEW], {}) == Look(tuple(ids[:FEW]))
    some = {id: id for id in ids[::2]}
    assert list(look.choose(some)) == [id for id in some if id in look.choose(some)]
    assert len(look.choose(some)) == SAMPLE
