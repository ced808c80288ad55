"""What an exported model says about itself, for people; neither torch nor a runtime is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from terrafuse.weights.onnx_file import read_onnx
from terrafuse.weights.portable import PortableInfo


def describe_exported(path: str | Path) -> dict[str, Any]:
    """Describe an ONNX file that `terrafuse export` wrote.

    Returns:
        "file", its "bytes", and what it says: "format", "model" (content of `model.json`),
        "windows", "stride", "supports_missing", "calibration", "licence", "precision", "opset",
        "terrafuse_version", "checked" …

    Raises:
        WeightsError: There is no such file, or it is damaged, or not ours.
    """
    file = read_onnx(path)
    return {"file": str(path), "bytes": file.nbytes, **PortableInfo.of_onnx(file).to_dict()}


def exported_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of a table, to be printed, from what `describe_exported` returned."""
    model, windows = found["model"], found["windows"]
    rows = {
        "file": f"{found['file']} ({found['bytes'] / 1e6:,.1f} MB)",
        "method": model["method"]["name"],
        "classes": ", ".join(one["name"] for one in model["classes"]),
    }
    for one in model["modalities"]:
        scale = f", pixels of {one['scale']:g} × the scene's" if one["scale"] != 1 else ""
        rows[f"input {one['name']}"] = f"{', '.join(one['bands'])} in {one['unit']}{scale}"
    rows |= {
        "may lack modalities": "yes" if found["supports_missing"] else "no",
        "windows": f"{windows['crop_size']} pixels, overlap {windows['overlap']}, multiples of "
        f"{found['stride']}",
        "weights": found["precision"],
        "operators": "–" if found["opset"] is None else f"ONNX {found['opset']}",
        "confidence": "as it is" if found["calibration"] is None else "calibrated",
        "licence": found["licence"] or "unknown",
        "exported by": f"terrafuse {found['terrafuse_version']}",
    }
    rows |= {f"checked: {name}": str(value) for name, value in found["checked"].items()}
    return [{"what": name, "value": value} for name, value in rows.items()]
