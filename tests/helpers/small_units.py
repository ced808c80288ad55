"""A scene of many small units, and models that kill their worker; they can be sent to workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import terrafuse
from array_scene import ArrayScene, Identity
from terrafuse.prediction import ScenePredictor, WindowSettings, cog, units
from terrafuse.segmenter import Inputs, SegmenterOutput

TILE, UNIT = 16, 64


def make_units_small(unit: int = UNIT, put: Callable[[Any, str, int], None] = setattr) -> None:
    """Units of 64 pixels with tiles of 16, for good: call it in processes that end afterwards.

    Args:
        put: Sets an attribute; `monkeypatch.setattr`: for one test.
    """
    put(cog, "TILE", TILE)
    put(cog, "UNIT", unit)
    put(units, "UNIT", unit)
    put(units, "MOST_TWICE", 10)
    put(units, "_SUMS_BYTES", 0)


class UnitScene(ArrayScene):
    """A scene whose units are small in the process that receives it, too."""

    #: Side of its units there.
    unit = UNIT

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "windows_read": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        make_units_small(state.get("unit", UNIT))
        vars(self).update(state)


class Deadly(Identity):
    """Kills its own process, but not the test's, as often as files can be taken away."""

    supports_missing: ClassVar[bool] = True

    def __init__(self, modalities: Any, folder: Path | None = None, after: int = 3) -> None:
        super().__init__(modalities)
        self.folder, self.left, self.home = folder, after, os.getpid()

    def segment(self, inputs: Inputs) -> SegmenterOutput:
        self.left -= 1
        if self.left < 0 and self.folder and os.getpid() != self.home:
            for path in sorted(self.folder.glob("*.life")):
                try:
                    path.unlink()
                except FileNotFoundError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(inputs)


def show_actors_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nodes of Ray that are started from now on find this module and the package."""
    folders = [Path(__file__).parent, Path(terrafuse.__file__).parents[1]]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))


def scene_of(height: int = 210, width: int = 150) -> UnitScene:
    """Noise on blocks, with a hole."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.normal(size=(3, height // 8 + 1, width // 8 + 1)), np.ones((1, 8, 8)))
    image = image[:, :height, :width] + rng.normal(size=(3, height, width)) / 3
    image[:, 70:100, 20:90] = np.nan
    return UnitScene({"a": image.astype(np.float32)})


def predictor_of(segmenter: Any, **options: Any) -> ScenePredictor:
    """Windows of 32 pixels."""
    windows = WindowSettings(**({"crop_size": 32, "overlap": 8, "batch_size": 2} | options))
    return ScenePredictor(segmenter, windows, device="cpu")


def network_of(scene: Any) -> Any:
    """A small network, always the same."""
    from terrafuse.methods import create_segmenter

    torch.manual_seed(0)
    options = {"backbone": "resnet10t", "backbone_options": {"channels": [4, 4, 8, 8]}}
    return create_segmenter("single", list(scene.modalities), 3, options).eval()
