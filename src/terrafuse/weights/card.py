"""The model card of a run: `README.md` of its repository, for people and for the hub's search.

Reference: https://huggingface.co/docs/hub/model-cards (keys of the front matter).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from terrafuse.version import VERSION

_TASK = "image-segmentation"
#: Scores in the front matter: ours → the hub's type and name.
_METRICS = {
    "miou": ("mean_iou", "mIoU"),
    "oa": ("accuracy", "overall accuracy"),
    "mf1": ("f1", "mean F1"),
    "mpa": ("mean_accuracy", "mean accuracy of classes"),
}
_COLUMNS = {
    "oa": "OA", "mpa": "mPA", "miou": "mIoU", "mf1": "mF1", "kappa": "kappa",
    "fwiou": "FWIoU", "boundary_f1": "boundary F1",
}  # fmt: skip


def write_card(
    repository: str,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    sums: Mapping[str, str],
    *,
    licence: str | None = None,
    calibrated: bool = False,
) -> str:
    """Return a card made of what a run folder says.

    Args:
        repository: "owner/name".
        model: Content of `model.json`.
        metrics: Content of `metrics.json`, if the run was evaluated.
        config: Content of `config.yaml`.
        sums: SHA-256 by file.
        licence: Identifier of the licence of the weights.
        calibrated: Whether its confidence is calibrated.
    """
    parts = [
        f"---\n{yaml.safe_dump(_front(repository, model, metrics, licence), sort_keys=False)}---",
        f"# {repository.partition('/')[2]}",
        _what(model),
        "## Inputs",
        _inputs(model),
        "## Classes",
        _classes(model),
        "## Scores",
        _scores(metrics),
        "## Data",
        _data(config, metrics),
        "## Licence",
        _licence(model, licence),
        "## Limits",
        _limits(model, metrics, calibrated),
        "## Use",
        _use(repository, model),
        "## Files",
        _table(("file", "SHA-256"), sorted((f"`{n}`", f"`{s}`") for n, s in sums.items())),
        f"Written by `terrafuse push` of version {VERSION}.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(
    repository: str,
    model: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
    licence: str | None,
) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "terrafuse",
        "pipeline_tag": _TASK,
        "tags": [_TASK, "remote-sensing", "land-cover", "multimodal", model["method"]["name"]],
    }
    if licence:
        front["license"] = licence
    results = _results(metrics)
    if results:
        front["model-index"] = [{"name": repository.partition("/")[2], "results": results}]
    return front


def _results(metrics: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Scores of every subset of modalities as the hub lists results."""
    if metrics is None:
        return []
    found = []
    for subset, values in metrics["subsets"].items():
        scores = [
            {"type": kind, "name": name, "value": round(float(values["scores"][key]), 6)}
            for key, (kind, name) in _METRICS.items()
            if _is_number(values["scores"].get(key))
        ]
        data = {"type": "own", "name": f"own data ('{metrics['split']}'), from {subset}"}
        if scores:
            task = {"type": _TASK, "name": "land-cover segmentation"}
            found.append({"task": task, "dataset": data, "metrics": scores})
    return found


def _what(model: Mapping[str, Any]) -> str:
    options = model["method"]["options"]
    backbone = options.get("backbone")
    stands_on = f" on `{backbone}`" if isinstance(backbone, str) else ""
    names = ", ".join(m["name"] for m in model["modalities"])
    return (
        f"A land-cover segmentation model of terrafuse: method `{model['method']['name']}`"
        f"{stands_on}, {model['total_parameters']:,} values, from {names} to "
        f"{len(model['classes'])} classes."
    )


def _inputs(model: Mapping[str, Any]) -> str:
    rows = []
    for modality in model["modalities"]:
        statistics = model["statistics"][modality["name"]]
        waves = modality.get("wavelengths_um") or [None] * len(modality["bands"])
        for i, band in enumerate(modality["bands"]):
            rows.append(
                (
                    f"`{modality['name']}`",
                    modality["kind"],
                    band,
                    modality["unit"],
                    "" if waves[i] is None else f"{waves[i]:g}",
                    f"{modality.get('scale', 1):g}",
                    *(_number(statistics[key][i]) for key in ("mean", "std", "low", "high")),
                )
            )
    head = (
        "modality", "kind", "band", "unit", "wavelength (µm)", "pixel size, of the grid's",
        "mean", "standard deviation", "low", "high",
    )  # fmt: skip
    return (
        "Bands in this order, in these units; statistics are those of the training pixels "
        "(low and high: 2nd and 98th percentile). Values of another scale are refused, or have to "
        f"be converted.\n\n{_table(head, rows)}\n\n"
        f"Windows of {model['crop_size']} pixels with {model['overlap']} shared by neighbours."
    )


def _classes(model: Mapping[str, Any]) -> str:
    rows = [
        (str(i), _plain(c["name"]), str(c.get("code", i)), f"`{c['color']}`")
        for i, c in enumerate(model["classes"])
    ]
    return _table(("index", "class", "code", "colour"), rows)


def _scores(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "The run was not evaluated: nothing is known of how good it is."
    rows = [
        (f"`{subset}`", *(_number(values["scores"].get(key)) for key in _COLUMNS))
        for subset, values in metrics["subsets"].items()
    ]
    full = metrics["subsets"][metrics["full"]]
    each = [
        (_plain(name), *(_number(own.get(key)) for key in ("iou", "f1", "recall", "precision")),
         f"{own['pixels']:,}")
        for name, own in full["per_class"].items()
    ]  # fmt: skip
    left_out = "" if len(metrics["subsets"]) > 1 else " Subsets of modalities were not scored."
    return (
        f"On split '{metrics['split']}': {metrics['scenes']} scenes, {metrics['pixels']:,} "
        f"labelled pixels.{left_out}\n\n{_table(('modalities', *_COLUMNS.values()), rows)}\n\n"
        f"Classes, from {metrics['full']}:\n\n"
        f"{_table(('class', 'IoU', 'F1', 'recall', 'precision', 'pixels'), each)}"
    )


def _data(config: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    data, training = config.get("data", {}), config.get("training", {})
    splits = ", ".join(map(str, data.get("train_splits", ()))) or "unknown"
    lines = [
        f"- Manifest: `{data.get('manifest', 'unknown')}` (the data themselves are not here)",
        f"- Trained on split: {splits}; {training.get('steps', '?')} steps, "
        f"seed {training.get('seed', '?')}",
        f"- Validated on split: {training.get('validation_split', 'unknown')}",
    ]
    if metrics is not None:
        chosen = metrics["settings"].get("selected_on")
        lines.append(f"- Weights chosen by the score on split: {chosen or 'none; the last ones'}")
    return "\n".join(lines)


def _licence(model: Mapping[str, Any], licence: str | None) -> str:
    own = licence or "not stated by their owner"
    lines = [f"- These weights: {own}"]
    lines += [
        f"- They started from `{base['backbone']}` ({base['source']}): {base['licence']}"
        for base in model["base_weights"]
    ]
    if not model["base_weights"]:
        lines.append("- They started from random values, not from pretrained ones")
    lines.append("- Code: Apache-2.0")
    return "\n".join(lines)


def _limits(model: Mapping[str, Any], metrics: Mapping[str, Any] | None, calibrated: bool) -> str:
    lines = ["- Learned on the data named above: of other places, seasons and sensors nothing is "
             "known until it is evaluated there."]  # fmt: skip
    if metrics is not None and metrics["split"] != "test":
        lines.append(f"- Scores are of split '{metrics['split']}', not of a test split.")
    unseen = [] if metrics is None else _never_right(metrics)
    if unseen:
        lines.append(f"- Classes without a right pixel in the scores: {', '.join(unseen)}.")
    if not calibrated:
        lines.append("- The confidence is not calibrated: 0.9 does not mean right in nine of ten.")
    if model["base_values_sha256"]:
        lines.append(
            "- Only what was tuned is stored: the base weights named above are needed beside it, "
            "in the run folder or at their place."
        )
    if model.get("code"):
        names = ", ".join(f"`{name}`" for name in model["code"])
        lines.append(f"- Needs code from outside terrafuse, which is not here: {names}.")
    return "\n".join(lines)


def _never_right(metrics: Mapping[str, Any]) -> list[str]:
    full = metrics["subsets"][metrics["full"]]["per_class"]
    return [_plain(name) for name, own in full.items() if own.get("iou") in (0, None)]


def _use(repository: str, model: Mapping[str, Any]) -> str:
    names = [m["name"] for m in model["modalities"]]
    rasters = ", ".join(f'"{name}": "{name}.tif"' for name in names)
    words = " ".join(f"-r {name}={name}.tif" for name in names)
    return (
        "```bash\n"
        "pip install terrafuse\n"
        f"terrafuse predict hf://{repository} {words} --out map\n"
        "```\n\n"
        "```python\n"
        "import terrafuse\n\n"
        f'run = terrafuse.load("hf://{repository}")  # "…@revision" pins a commit\n'
        f'run.predict("map", rasters={{{rasters}}})\n'
        "```\n\n"
        "Files are compared with `SHA256SUMS` when they are fetched, as `sha256sum -c SHA256SUMS` "
        "does."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if _is_number(value) else "–"


def _plain(text: str) -> str:
    """A name that ends no cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
