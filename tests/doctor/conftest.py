"""Scenes that the doctor has looked at, from arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from rasterio.transform import from_origin

from terrafuse.classes import ClassScheme
from terrafuse.data import ReadingRules, scene_from_rasters
from terrafuse.doctor.scanning import observe
from terrafuse.doctor.summary import SceneSummary
from terrafuse.modalities import Modality


@pytest.fixture
def look_at(make_raster, tmp_path) -> Callable[..., SceneSummary]:
    """Function that writes modalities {name: (array (C, H, W), modality, tags)} and observes."""

    def look(
        labels: np.ndarray | None = None,
        classes: tuple[str, ...] = ("a", "b"),
        crs: str | None = "EPSG:32633",
        **given: tuple[np.ndarray, dict[str, Any], dict[str, Any]],
    ) -> SceneSummary:
        modalities, rasters, rules = [], {}, {}
        for name, (array, values, tags) in given.items():
            kept = dict(values)
            scale = kept.get("scale", 1.0)
            rule = {k: kept.pop(k) for k in ("nodata", "read_bands", "nodata_rule") if k in kept}
            bands = kept.pop("bands", None) or tuple(f"b{i}" for i in range(len(array)))
            modalities.append(Modality(name, tuple(bands), **kept))
            rules[name] = ReadingRules(**rule)
            pixel = 10 * scale
            place = {"crs": crs, "transform": from_origin(500_000, 5_000_000, pixel, pixel)}
            path = tmp_path / f"{name}.tif"
            rasters[name] = make_raster(path, array, **place | tags)
        path = None
        if labels is not None:
            transform = from_origin(500_000, 5_000_000, 10, 10)
            path = make_raster(tmp_path / "labels.tif", labels, crs=crs, transform=transform)
        scheme = ClassScheme(classes, void=(255,))
        scene = scene_from_rasters(
            modalities, rasters, labels=path, scheme=scheme, sources=rules, id="x"
        )
        return observe(scene, scheme, rules)

    return look
