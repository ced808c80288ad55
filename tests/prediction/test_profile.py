"""What mapping took, as `prediction.json` and `--profile` say it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from array_scene import ArrayScene, Identity
from terrafuse.classes import ClassScheme
from terrafuse.prediction import MapProfile, ScenePredictor, WindowSettings, describe_profile
from terrafuse.prediction import profile as module


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass at each look at the clock, in order."""
    passing: list[float] = []
    now = [100.0]

    def look() -> float:
        now[0] += passing.pop(0) if passing else 0.0
        return now[0]

    monkeypatch.setattr(module.time, "perf_counter", look)
    return passing


def test_numbers_by_hand(clock: list[float]) -> None:
    profile = MapProfile(workers=2)
    clock += [0, 1, 2, 1, 2, 4, 10]
    profile.begin(3_000_000)
    waited: list[float] = []
    with profile.model(2, 500_000, lambda: waited.append(module.time.perf_counter())):  # 1 s to 4 s
        assert not waited
    with profile.timed("writing"):  # from 6 s to 10 s
        pass
    profile.end()  # at 20 s
    assert waited == [103.0]  # within the time of the model
    found = profile.to_dict()
    assert found["seconds"] == 20
    assert found["scene_mpix_per_s"] == 0.15
    assert found["model_mpix_per_s"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["window_pixels_per_scene_pixel"] == pytest.approx(1 / 3, abs=1e-3)
    assert found["share_of_model_speed"] == 0.075  # 3 s of 20 s in two workers
    assert found["stage_seconds"] == {"model": 3, "writing": 4}
    assert found["windows_run"] == 2


def test_what_another_process_did_is_added() -> None:
    own = MapProfile(2, 100, 1, 10, 5.0, {"model": 1.0}, 7, 50, 4)
    own.add(MapProfile(1, 999, 2, 20, 9.0, {"model": 0.5, "reading": 2.0}, 3, 80, 5))
    assert (own.scene_pixels, own.windows, own.model_pixels, own.clock_seconds) == (100, 3, 30, 5.0)
    assert own.seconds == {"model": 1.5, "reading": 2.0}
    assert (own.bytes_read, own.peak_bytes, own.lacking) == (10, 80, 9)
    unknown = MapProfile()
    unknown.add(MapProfile())
    assert unknown.bytes_read is None
    assert unknown.peak_bytes is None


def test_a_profile_without_anything_can_be_shown() -> None:
    rows = {row["what"]: row["figure"] for row in describe_profile(MapProfile().to_dict())}
    assert rows["scene"] == rows["of model-only speed after overlap"] == "–"
    assert rows["bytes from files"] == "unknown here"


def test_a_map_says_what_it_took(tmp_path: Path) -> None:
    scheme = ClassScheme(("a", "b"))
    image = np.random.default_rng(0).normal(size=(2, 40, 30)).astype(np.float32)
    image[:, :17, :17] = np.nan  # the first window has no data
    scene = ArrayScene({"a": image}, scheme=scheme)
    windows = WindowSettings(16, 0, batch_size=2)
    made = ScenePredictor(Identity(scene.modalities), windows, device="cpu").predict(
        scene, tmp_path
    )
    found = json.loads(made.record.read_text())["profile"]
    assert found == json.loads(json.dumps(made.profile))
    assert found["windows_run"] == 6  # five of 3 × 2, and one of them again to fill a batch
    assert found["window_pixels_per_scene_pixel"] == round(6 * 256 / 1200, 3)
    stages = {"reading", "model", "writing", "assembling", "waiting for reading"}
    assert stages <= set(found["stage_seconds"])
    assert 0 < found["share_of_model_speed"] < 1
    assert len(describe_profile(found)) >= 10
