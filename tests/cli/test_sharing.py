"""Shards and workers of `predict`, as a user asks for them."""

from __future__ import annotations

import json
import re
import shutil
import signal

import numpy as np
import pytest
import torch

import small_units
from terrafuse.prediction import cog, units
from terrafuse.prediction.job import MapJob
from terrafuse.stopping import Stopped

# The run was trained by an early version, whose folders say less.
pytestmark = pytest.mark.filterwarnings("ignore")
HEIGHT, WIDTH = 150, 100


@pytest.fixture
def call(tmp_path, make_raster, command_line, monkeypatch, request):
    """Function that maps a scene of 6 units with a stored run: exit code, stdout, stderr."""
    monkeypatch.setattr(cog, "TILE", small_units.TILE)
    monkeypatch.setattr(cog, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "UNIT", small_units.UNIT)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)
    rng = np.random.default_rng(0)
    s2, s1 = rng.normal(100, 10, (4, HEIGHT, WIDTH)), rng.normal(-10, 2, (1, HEIGHT, WIDTH))
    make_raster(tmp_path / "s2.tif", s2.astype(np.float32))
    make_raster(tmp_path / "s1.tif", s1.astype(np.float32))
    run = tmp_path / "run"
    shutil.copytree(request.config.rootpath / "tests" / "golden" / "stored_run" / "whole", run)
    rasters = ("-r", f"s1={tmp_path / 's1.tif'}", "-r", f"s2={tmp_path / 's2.tif'}")

    def call(out, *words):
        return command_line("predict", run, *rasters, "--out", tmp_path / out, *words)

    return call


def maps(folder):
    """Files of a map but item.json, which says when; of prediction.json what it says of the map."""
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    del found["item.json"]
    record = json.loads(found["prediction.json"])
    del record["profile"]
    return found | {"prediction.json": json.dumps(record).encode()}


def test_shards_of_one_scene(call, tmp_path, monkeypatch):
    code, _, told = call("whole")
    assert code == 0, told
    code, out, told = call("map", "--shard", "1/2")
    assert (code, told.count("error")) == (0, 0), told
    found = re.search(r"shard 1/2 is done; (\d+) units of other shards are missing\. The", out)
    assert found is not None, out
    assert 0 < int(found[1]) < 6
    assert not (tmp_path / "map" / "class_map.tif").exists()

    def stop(*_):
        raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MapJob, "commit", stop)
        code, out, told = call("map", "--shard", "2/2")
    assert code == 143
    assert "finished parts of the map are kept; run the same command again" in told
    code, out, told = call("map", "--shard", "2/2")  # as both messages say
    assert code == 0, told
    assert f"wrote {tmp_path / 'map' / 'class_map.tif'}" in out
    assert maps(tmp_path / "map") == maps(tmp_path / "whole")
    assert not (tmp_path / "map" / "units").exists()
    code, out, _ = call("map", "--shard", "1/2")
    assert (code, "is finished already" in out) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shard", "3/2"), "shard is '3/2'; allowed are 1/2 to 2/2"),
        (("--shard", "half"), "give its number and how many there are, such as 2/8"),
        (("--workers", "0"), "workers is 0; allowed are numbers from 1"),
        (("--devices", "2"), "devices is 2, but this machine has 0 CUDA devices. Leave out"),
        (("--engine", "dask"), "unknown engine 'dask'"),
        (("--ray-address", "head:6379"), "needs the engine 'ray' (--engine ray)"),
    ],
)
def test_what_cannot_be_shared_is_one_message(words, message, call, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    code, _, told = call("map", *words)
    assert code == 2
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    assert message in told
    assert not (tmp_path / "map").exists()


def test_many_scenes_have_no_shards_but_parts(tmp_path, command_line):
    words = ("predict", tmp_path, "--scenes", tmp_path / "dataset.yaml", "--out", tmp_path / "maps")
    code, _, told = command_line(*words, "--shard", "1/2")
    assert code == 2
    assert "let each job have a part of them: a manifest, a split or a STAC document" in told
