"""Memory for decoded blocks while a scene is read window by window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rasterio._env import get_gdal_config

from array_scene import ArrayScene, Identity
from terrafuse.prediction import ScenePredictor, WindowSettings
from terrafuse.prediction.reading import cache_bytes
from terrafuse.samples import Sample, Window


def scene(**dtypes: tuple[float, list[tuple[str, ...]]]) -> Any:
    """A scene of modalities: name → scale and the dtypes of each file's bands."""
    return SimpleNamespace(
        modalities=[SimpleNamespace(name=name, scale=scale) for name, (scale, _) in dtypes.items()],
        files={
            name: [SimpleNamespace(dtypes=own) for own in files]
            for name, (_, files) in dtypes.items()
        },
    )


def test_cache_holds_the_blocks_under_a_row_of_windows_of_every_file() -> None:
    # A window of 256 lies within 256 + 2 · 512 rows of blocks; of half as many at scale 2.
    fine = (256 + 1024) * (4096 + 1024) * 3
    coarse = (128 + 1024) * (2048 + 1024) * (8 + 4)
    own = scene(
        a=(1.0, [("uint16",), ("uint8",)]), b=(2.0, [("complex_int16", "float32")])
    )  # fmt: skip
    assert cache_bytes(own, 256, 4096) == fine + coarse


@pytest.mark.parametrize(("width", "expected"), [(100, 2**24), (10**6, 2**28)])
def test_cache_has_a_least_and_a_greatest_size(width: int, expected: int) -> None:
    assert cache_bytes(scene(a=(1.0, [("float32",)])), 64, width) == expected


def test_a_scene_is_read_with_this_cache_and_what_follows_with_that_of_before() -> None:
    seen: list[int] = []

    class Looking(ArrayScene):
        def read(self, window: Window, **options: bool) -> Sample:
            seen.append(get_gdal_config("GDAL_CACHEMAX"))
            return super().read(window, **options)

    scene = Looking({"a": np.ones((2, 8, 8), np.float32)})
    before = get_gdal_config("GDAL_CACHEMAX")
    predictor = ScenePredictor(Identity(scene.modalities), WindowSettings(8, 0), device="cpu")
    list(predictor.stream(scene))
    assert seen == [2**24]
    assert get_gdal_config("GDAL_CACHEMAX") == before > 2**24
