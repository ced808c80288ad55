"""Sizes of units, workers, shards, engines and kills of processes: none shows in a map."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import small_units
from array_scene import Identity
from children import end_of, fork
from terrafuse.classes import ClassScheme
from terrafuse.prediction import Shard, WorkerSettings, cog, units

SCHEME = ClassScheme(("a", "b", "c"))
PRODUCTS = ("class_map", "probabilities", "probabilities_float32")
SIDES = (64, 128, 192)
#: A kill every time; more would add little.
MOMENTS = 26

pytestmark = pytest.mark.slow


def set_units(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    monkeypatch.setattr(cog, "TILE", small_units.TILE)
    monkeypatch.setattr(cog, "UNIT", side)
    monkeypatch.setattr(units, "UNIT", side)
    monkeypatch.setattr(units, "MOST_TWICE", 10)
    monkeypatch.setattr(units, "_SUMS_BYTES", 0)


def predict(out: Path, side: int, shards: int = 1, workers: WorkerSettings | None = None) -> Any:
    """Map by a network, one shard after the other."""
    scene = small_units.scene_of(330, 290)
    scene.unit = side
    predictor = small_units.predictor_of(small_units.network_of(scene))
    for number in range(1, shards + 1):
        made = predictor.predict(
            scene, out, scheme=SCHEME, products=PRODUCTS, workers=workers, resume=shards == 1,
            shard=Shard(number, shards) if shards > 1 else None,
        )  # fmt: skip
    return made


def files(folder: Path) -> dict[str, bytes]:
    """Everything in a folder; of prediction.json what it says of the map."""
    found = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    record = json.loads(found["prediction.json"])
    del record["profile"]
    return found | {"prediction.json": json.dumps(record).encode()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The map by one process in one unit."""
    with pytest.MonkeyPatch.context() as patch:
        set_units(patch, 1024)
        folder = tmp_path_factory.mktemp("whole")
        predict(folder, 1024)
        found = files(folder)
        assert len(found) == len(PRODUCTS) + 2  # prediction.json, and names beside the class map
        return found


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it may have threads
@pytest.mark.filterwarnings("ignore:there is work for:UserWarning")
@pytest.mark.parametrize(("side", "workers", "shards"), list(product(SIDES, (1, 2, 4), (1, 3))))
def test_every_cut_by_processes_gives_the_same_bytes(
    side: int, workers: int, shards: int, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    context = multiprocessing.get_context("fork")  # has everything imported
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    set_units(monkeypatch, side)
    predict(tmp_path / "map", side, shards, WorkerSettings(workers))
    assert files(tmp_path / "map") == whole


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of this machine for all cuts."""
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        small_units.show_actors_the_code(patch)
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, object_store_memory=10**8,
            log_to_driver=False, logging_level="error",
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
@pytest.mark.filterwarnings("ignore:there is work for:UserWarning")
@pytest.mark.parametrize(
    ("side", "workers", "shards"), [(64, 4, 1), (64, 1, 3), (128, 2, 3), (192, 2, 1), (192, 4, 3)]
)
def test_every_cut_by_actors_gives_the_same_bytes(
    side: int, workers: int, shards: int, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_units(monkeypatch, side)
    predict(tmp_path / "map", side, shards, WorkerSettings(workers, engine="ray"))
    assert files(tmp_path / "map") == whole


def units_in(folder: Path) -> int:
    """How many are finished."""
    return len([path for path in folder.glob("units/0*.json") if path.stem.isdigit()])


def kill_at(process: int, folder: Path, least: int, seconds: float) -> int:
    """Kill when so many units are finished, and a while has passed; how many there are then."""
    while units_in(folder) < least and not (folder / "prediction.json").exists():
        time.sleep(0.005)
    time.sleep(seconds)
    done = units_in(folder)
    os.kill(process, signal.SIGKILL)
    return done


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it may have threads
@pytest.mark.filterwarnings("ignore:there is work for 1 of 2 workers:UserWarning")
def test_a_run_with_two_workers_may_be_killed_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, and gone on with at once, while its workers may still be there."""
    draw = random.Random(0)
    set_units(monkeypatch, 64)
    spawn, fast = (multiprocessing.get_context(name) for name in ("spawn", "fork"))
    scene = small_units.scene_of()
    of = len(small_units.predictor_of(Identity(scene.modalities)).plan(scene))

    def run(out: Path, workers: int) -> None:
        predictor = small_units.predictor_of(Identity(scene.modalities))
        predictor.predict(
            scene, out, scheme=SCHEME, products=("class_map",), resume=True,
            workers=WorkerSettings(workers),
        )  # fmt: skip

    run(tmp_path / "whole", 1)
    whole = files(tmp_path / "whole")
    found: list[int] = []
    for moment in range(MOMENTS):
        # Spawned ones, as users have them, import everything, and few moments hit their work.
        context = spawn if moment % 13 == 12 else fast
        monkeypatch.setattr(multiprocessing, "get_context", lambda _, own=context: own)
        out = tmp_path / f"map{moment}"
        process = fork(lambda out=out: run(out, 2))
        # A quarter at any time from the start on, the others while units are being finished.
        least = 0 if moment % 4 == 0 else draw.randrange(1, of)
        longest = 2.0 if moment % 4 == 0 else 0.1
        found.append(kill_at(process, out, least, draw.uniform(0, longest)))
        assert end_of(process) in (-9, 0)
        monkeypatch.setattr(multiprocessing, "get_context", lambda _: fast)
        run(out, 2 if moment % 5 == 0 else 1)
        assert files(out) == whole, f"moment {moment}, {found[-1]} of {of} units"
        print(moment, found[-1], flush=True)
    print(f"{MOMENTS} kills of a run with 2 workers: equal bytes; finished of {of} units: {found}")
    assert len(set(found)) > MOMENTS / 4
