"""A run folder as version 0.1.0 wrote it, whole and interrupted, and the rasters it learned from.

`python tests/helpers/stored_run.py FOLDER` with that version's sources makes what
`tests/golden/stored_run` holds.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import yaml
from rasterio.transform import from_origin

SIDE, STEPS, STOPPED = 32, 6, 4
WHOLE = Path(__file__).parents[1] / "golden" / "stored_run" / "whole"
#: With a key by the name that it had then.
BACKBONE = {
    "patch_size": 8, "embed_dim": 8, "depth": 4, "num_heads": 2, "img_size": 32,
    "taps": [0, 1, 2, 3],
}  # fmt: skip


def make_data(folder: Path) -> Path:
    """Three scenes of two modalities with labels; their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number, split in enumerate(("train", "train", "val")):
        rng = np.random.default_rng(number)
        labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        s2 = (
            rng.normal(100, 10, (4, SIDE, SIDE)) + labels * np.array([20, 0, -15, 5])[:, None, None]
        )
        s1 = rng.normal(-10, 2, (1, SIDE, SIDE)) - 4 * labels
        entry: dict[str, Any] = {"id": f"scene{number}", "split": split}
        for name, values in (("s2", s2), ("s1", s1), ("labels", labels[None])):
            entry[name] = f"{name}_{number}.tif"
            kind = np.uint8 if name == "labels" else np.float32
            with rasterio.open(
                folder / entry[name], "w", driver="GTiff", count=len(values), height=SIDE,
                width=SIDE, dtype=kind, crs="EPSG:32633",
                transform=from_origin(500_000 + 1_000 * number, 5_000_000, 10, 10),
            ) as file:  # fmt: skip
                file.write(values.astype(kind))
        scenes.append(entry)
    manifest = {
        "classes": [{"name": "bare", "code": 0}, {"name": "wet", "code": 1}],
        "modalities": {
            "s2": {"kind": "optical", "bands": ["blue", "green", "red", "nir"]},
            "s1": {"kind": "sar", "bands": ["vv"], "unit": "db"},
        },
        "scenes": scenes,
    }
    path = folder / "dataset.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


def place_run(folder: Path) -> Path:
    """The whole run folder, in `folder`/run, with its data beside it."""
    manifest = make_data(folder / "data")
    run = folder / "run"
    shutil.copytree(WHOLE, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["manifest"] = str(manifest)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


def write_config(folder: Path, manifest: Path) -> Path:
    """The run's settings, as a user of 0.1.0 wrote them."""
    config = {
        "data": {"manifest": str(manifest), "crop_size": 32, "batch_size": 2, "workers": 0},
        "method": {
            "name": "upseg", "backbone": "vit_tiny_patch16_224", "backbone_options": BACKBONE,
            "tuning": "full", "neck_channels": 8, "decoder": "linear", "aux": False,
            "vem": {"dim": 8, "heads": 2}, "prompt": {"adapter_dim": 4, "align_dim": 4},
        },
        "training": {"steps": STEPS, "lr": 1e-3, "warmup_steps": 2, "validate_every": 3},
    }  # fmt: skip
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def _make(folder: Path) -> None:
    """Train one run to the end, and one that is stopped; map a scene with the first."""
    import signal

    from terrafuse import api
    from terrafuse.errors import StoppedError
    from terrafuse.training.task import SegmentationTask

    work = folder / "work"
    config = write_config(work, make_data(work))
    whole, stopped = folder / "whole", folder / "stopped"
    api.train(config, whole, progress=False)
    api.predict(whole, folder / "map", rasters={"s2": work / "s2_2.tif", "s1": work / "s1_2.tif"})
    original = SegmentationTask.on_train_batch_start

    def start(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        original(self, batch, batch_idx)
        if batch_idx == STOPPED - 1:
            self.trainer.callbacks[-1]._request_stop(signal.SIGINT, None)

    SegmentationTask.on_train_batch_start = start
    with contextlib.suppress(StoppedError):
        api.train(config, stopped, progress=False)
    shutil.rmtree(work)


if __name__ == "__main__":
    _make(Path(sys.argv[1]).resolve())
