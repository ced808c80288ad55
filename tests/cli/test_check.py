"""`terrafuse data check`: what it prints, and what it suggests."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import yaml

from terrafuse import api
from terrafuse.data import load_manifest
from terrafuse.doctor import Finding
from terrafuse.landscape import make_landscape

pytestmark = pytest.mark.usefixtures("without_figures")

RUN = {
    "data": {"manifest": "elsewhere.yaml", "crop_size": 32, "batch_size": 2, "workers": 0},
    "method": {
        "name": "late_fusion",
        "backbone": "resnet10t",
        "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 50, "accelerator": "cpu"},
}


@pytest.fixture
def folder(tmp_path):
    """A landscape whose holes in the surface model are filled with 0."""
    make_landscape(tmp_path, size=96, train=7, val=1, test=1)
    for number in range(1, 8):
        with rasterio.open(tmp_path / "dsm" / f"train_{number}.tif", "r+") as dataset:
            heights = dataset.read(1)
            heights[20:26, 30:40] = 0
            dataset.write(heights, 1)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    return tmp_path


def test_findings_name_place_reason_and_remedy(folder, command_line):
    code, out, _ = command_line("data", "check", folder / "dataset.yaml")
    assert code == 0  # warnings are no errors
    assert "warning [elevation-holes] train_1 · rows 20–26, columns 30–40" in out
    assert "holes filled with 0" in out
    assert "→ Set 'nodata: 0' on the modality" in out
    assert "… and 2 more [elevation-holes], in scenes train_6, train_7 (--json: all)" in out
    assert "0 errors, 7 warnings" in out


def test_suggestions_mend_the_manifest(folder, command_line):
    path = folder / "dataset.yaml"
    code, out, _ = command_line("data", "check", path, "--fix-suggestions")
    assert code == 0
    text = out[out.index("modalities:") :]
    assert yaml.safe_load(text) == {"modalities": {"dsm": {"nodata": 0}}}
    values = yaml.safe_load(path.read_text())
    values["modalities"]["dsm"] |= yaml.safe_load(text)["modalities"]["dsm"]
    path.write_text(yaml.safe_dump(values))
    code, out, _ = command_line("data", "check", path, "--fix-suggestions", "--workers", 2)
    assert "0 errors, 0 warnings" in out
    assert "no change of dataset.yaml would fix this" in out


def test_json_is_a_list_or_with_more_an_object(folder, command_line):
    path = folder / "dataset.yaml"
    listed = json.loads(command_line("data", "check", path, "--json")[1])
    holes = [finding for finding in listed if finding["code"] == "elevation-holes"]
    assert len(holes) == 7
    assert holes[0]["window"] == {"row": 20, "col": 30, "height": 6, "width": 10}
    assert holes[0]["fix"] == {"modalities.dsm.nodata": 0}
    more = json.loads(command_line("data", "check", path, "--json", "--fix-suggestions")[1])
    assert more["findings"] == listed
    assert more["fixes"] == {"modalities": {"dsm": {"nodata": 0}}}


def test_quick_looks_only_for_what_stops_training(folder, command_line):
    out = command_line("data", "check", folder / "dataset.yaml", "--quick")[1]
    assert "0 errors, 0 warnings, 0 notes" in out


def test_a_mended_copy_is_written_beside_the_manifest(folder, command_line):
    """In another folder, with the holes of the surface model and the offset of one scene mended."""
    with rasterio.open(folder / "optical" / "train_2.tif", "r+") as dataset:
        stored, tag = dataset.read(), dataset.scales[0]
        fill = (stored == 0).all(axis=0)
        dataset.write(np.where(fill, 0, stored + 1000))
    assert tag == 0.0001
    path, out = folder / "dataset.yaml", folder / "new" / "fixed.yaml"
    before = path.read_bytes()
    code, said, _ = command_line("data", "check", path, "--fix", out)
    assert code == 0
    assert f"wrote {out} with them" in said
    assert "value_offset: {optical: -0.1}" in said
    assert path.read_bytes() == before
    values = yaml.safe_load(out.read_text())
    assert values["modalities"]["dsm"]["nodata"] == 0
    changed = [s for s in values["scenes"] if "value_offset" in s]
    assert [(s["id"], s["value_offset"]) for s in changed] == [("train_2", {"optical": -0.1})]
    sample = load_manifest(out).scene("train_2")
    found = sample.read(sample.full_window).images["optical"].numpy()
    np.testing.assert_allclose(found, np.where(fill, np.nan, stored * tag), atol=1e-7)
    code, said, _ = command_line("data", "check", out)  # the remedies are gone with their causes
    assert "0 errors, 0 warnings" in said
    code, _, error = command_line("data", "check", path, "--fix", out)
    assert code == 2
    assert "exists; choose another name" in error
    assert f"nothing to write to {folder / 'x.yaml'}" in command_line(
        "data", "check", out, "--fix", folder / "x.yaml"
    )[1]  # fmt: skip
    assert not (folder / "x.yaml").exists()


def test_a_page_with_pictures(folder, command_line):
    page = folder / "page.html"
    out = command_line("data", "check", folder / "dataset.yaml", "--html", page)[1]
    assert f"wrote {page}" in out
    text = page.read_text(encoding="utf-8")
    assert "elevation-holes" in text
    assert "data:image/png;base64" in text


def test_what_a_run_will_take(folder, command_line):
    words = ("data", "check", folder / "dataset.yaml", "--run", folder / "run.yaml")
    expected = json.loads(command_line(*words, "--json")[1])["run"]
    assert expected["steps"] == 50
    assert expected["samples"] == 100
    assert expected["scenes"] == {"train": 7, "val": 1, "test": 1}  # of the checked data
    assert expected["passes"] == pytest.approx(100 * 32**2 / (7 * 96**2))
    assert expected["memory_bytes"] > 1e6
    assert expected["seconds"] == pytest.approx(50 * expected["seconds_per_step"])
    out = command_line(*words)[1]
    assert "50 steps, 100 crops, 1.59 times the pixels of the training scenes" in out
    assert "s per step on this machine without data loading" in out


def test_the_first_of_several_fixes_counts():
    findings = [
        Finding("warning", "a", "x", fix={"modalities.m.nodata": 0, "void": [1]}),
        Finding("warning", "a", "y", fix={"modalities.m.nodata": 255, "modalities.n.scale": 2.0}),
    ]
    assert api.suggested_fixes(findings) == {
        "modalities": {"m": {"nodata": 0}, "n": {"scale": 2.0}},
        "void": [1],
    }
    assert api.suggested_fixes([]) == {}
    scenes = [{"a.b": {"value_scale": {"m": 2}}}, {"a.b": {"value_offset": {"m": 1}}}, {"c": {}}]
    findings = [Finding("warning", "a", "x", fix={"scenes": own}) for own in scenes]
    both = {"value_scale": {"m": 2}, "value_offset": {"m": 1}}
    assert api.suggested_fixes(findings) == {"scenes": {"a.b": both, "c": {}}}
