"""Tiny models with random weights, saved as published ones are: real files, real pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_models import depth_config, save_depth, save_sam, save_sam2


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that models are saved in, once per session."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def sam(models: Path) -> Path:
    """Segment Anything of 40 000 parameters."""
    save_sam(models / "sam")
    return models / "sam"


@pytest.fixture(scope="session")
def sam2(models: Path) -> Path:
    """SAM 2 of half a million parameters."""
    save_sam2(models / "sam2")
    return models / "sam2"


@pytest.fixture(scope="session")
def depth_anything(models: Path) -> Path:
    """Depth Anything of 35 000 parameters."""
    folder = models / "depth_anything"
    save_depth(folder, depth_config())
    return folder
