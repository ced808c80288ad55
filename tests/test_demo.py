import re

import pytest
import rasterio

from terrafuse.data import load_manifest
from terrafuse.demo import run_demo
from terrafuse.errors import OutputError


def test_the_whole_path_in_small(tmp_path):
    out = tmp_path / "demo"
    (out / "runs" / "of another version").mkdir(parents=True)  # an earlier demo is replaced
    (out / ".terrafuse-demo").touch()
    said: list[str] = []
    report = run_demo(out, steps=2, size=192, say=said.append)
    page = report.read_text(encoding="utf-8")
    dataset = load_manifest(out / "data" / "dataset.yaml")
    for name in (*dataset.modalities, *dataset.scheme.names, "confidence", "mIoU"):
        assert name in page
    assert not re.search(r'(src|href)="https?:', page)
    scene = dataset.scenes("test")[0]
    with rasterio.open(out / "map" / "class_map.tif") as class_map:
        assert class_map.transform == scene.grid.transform
        assert class_map.shape == (scene.grid.height, scene.grid.width)
    assert len(list((out / "runs").iterdir())) == 1 + len(dataset.modalities)
    assert said[-1].endswith("s in total")


def test_another_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an earlier demo"):
        run_demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
