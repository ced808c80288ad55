"""Is a second modality, drawn from the photo alone, worth anything?

    python benchmarks/structure.py [--steps 200] [--seeds 3] [--out runs/structure]

The landscape of the demo, of which only red, green and blue are kept. `terrafuse generate` draws
superpixels, which need no weights; models see the photo alone or both, for equal steps, from
scratch. Cells are means over seeds ± half of the 95 % interval, Δ run by run of the same seed. A
run that has its metrics is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml

from ladder import cell
from scores import columns, machine, metrics_of_run
from terrafuse import api
from terrafuse.data import load_manifest, write_manifest
from terrafuse.landscape import make_landscape

_CNN = {
    "backbone": "resnet10t",
    "backbone_options": {"strides": [2, 4, 8, 16]},
    "decoder_options": {"channels": 32},
}
_LATE = {"name": "late_fusion", "fusion": "concat", **_CNN}
_VSGNET = {
    "name": "vsgnet",
    "backbone": None,
    "channels": [24, 48, 72, 144],
    "depths": [1, 1, 2, 1],
    "decoder_options": {"channels": 64},
}
#: Title, encoding of the superpixels (None: without them), method.
ROWS: tuple[tuple[str, str | None, dict[str, Any]], ...] = (
    ("photo alone, `single`", None, {"name": "single", **_CNN}),
    ("photo and superpixels, `late_fusion`", "color", _LATE),
    ("the same, `encoding: mean_rgb`", "mean_rgb", _LATE),
    ("the same, `encoding: boundary`", "boundary", _LATE),
    ("photo and superpixels, `vsgnet`", "color", _VSGNET),
)


def make_data(folder: Path, encoding: str) -> Path:
    """The manifest of photos and their superpixels; the rasters are made once."""
    made = folder / f"rgb_{encoding}.yaml"
    if made.exists():
        return made
    path = folder / "dataset.yaml"
    if not path.exists():
        make_landscape(folder, seed=0)
    values = load_manifest(path).to_dict()
    optical = values["modalities"].pop("optical")
    values["modalities"] = {
        "rgb": {
            "kind": "optical",
            "bands": ["red", "green", "blue"],
            "read_bands": [3, 2, 1],
            "unit": optical["unit"],
            "nodata": optical["nodata"],
        }
    }
    values["grid"] = "rgb"
    for scene in values["scenes"]:
        scene["rgb"] = scene.pop("optical")
        for name in ("sar", "dsm"):
            scene.pop(name, None)
    photos = write_manifest(values, folder / "rgb.yaml")
    api.generate(photos, kind="superpixels", manifest=made, encoding=encoding)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/structure"))
    args = parser.parse_args()
    print(f"{machine()}; {args.steps} steps, {args.seeds} seeds")
    print("| what | mIoU | mPA | Δ mIoU |\n|---|---|---|---|")
    base: list[float] | None = None
    for title, encoding, method in ROWS:
        manifest = make_data(args.out / "data", encoding or "color").resolve()
        settings = {
            "data": {
                "manifest": str(manifest),
                "modalities": ["rgb", "structure"] if encoding else ["rgb"],
                "crop_size": 96,
                "batch_size": 8,
                "sampling": "balanced",
                "workers": 0,
            },
            "method": method,
            "training": {"steps": args.steps, "lr": 3e-3, "validate_every": args.steps},
            "prediction": {"crop_size": 256, "overlap": 64},
        }
        name = f"{method['name']}_{encoding}"
        config = args.out / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        found = [
            metrics_of_run(config, args.out / f"{name}-{args.steps}-{seed}", seed, args.steps)
            for seed in range(args.seeds)
        ]
        miou, mpa, _ = columns(found)
        base = base or miou
        gain = (
            "" if encoding is None else cell([a - b for a, b in zip(miou, base, strict=True)], "+")
        )
        print(f"| {title} | {cell(miou)} | {cell(mpa)} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
