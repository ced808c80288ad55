"""Fixtures that several rooms' tests use."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

DEFAULT_TRANSFORM = from_origin(500_000, 5_000_000, 10, 10)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Of tests/fuzz; here, as options of a folder below are not known in time."""
    parser.addoption(
        "--fuzz-inputs", type=int, help="Inputs per kind of the tests marked 'fuzz' (2000)."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the tests that are marked 'fuzz' how many inputs to try."""
    count = config.getoption("--fuzz-inputs")
    if count is not None:
        import fuzzing

        fuzzing.set_many(count)


def pytest_collection_finish() -> None:
    """Take what is imported out of the collector's sight.

    Every training ends in `gc.collect()`, which would go through it: half a second each time.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process free all; libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture
def make_raster() -> Callable[..., Path]:
    """Function that writes an array (C, H, W) as a GeoTIFF."""

    def write(
        path: Path,
        array: np.ndarray,
        *,
        crs: str | None = "EPSG:32633",
        transform: Any = DEFAULT_TRANSFORM,
        nodata: float | None = None,
        **profile: Any,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        count, height, width = array.shape
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width,
            dtype=array.dtype, crs=crs, transform=transform, nodata=nodata, **profile,
        ) as dataset:  # fmt: skip
            dataset.write(array)
        return path

    return write


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Function that runs `terrafuse WORDS` in this process: exit code, stdout, stderr."""
    from terrafuse.cli import main

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["terrafuse", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings draw no figures, which take longer than a few small steps; others look at them."""
    from terrafuse.training.pictures import SamplePicture

    monkeypatch.setattr(SamplePicture, "__call__", lambda *_: None)
    for name in ("train", "pretrain"):
        module = importlib.import_module(f"terrafuse.training.{name}")
        monkeypatch.setattr(module, "save_curves", lambda *_: None)
