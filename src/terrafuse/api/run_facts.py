"""What a run was made of and what it cost, for its page."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from terrafuse.api.runs import Run
from terrafuse.config.base import STORED_CONFIG
from terrafuse.data import load_manifest
from terrafuse.data.painted import learnt_in
from terrafuse.describe import describe_model
from terrafuse.errors import TerrafuseError
from terrafuse.evaluation import Evidence
from terrafuse.modalities import Modality
from terrafuse.reports.tables import Cell
from terrafuse.weights import METRICS_JSON, STATE_FILE

_DIGITS = 16
_Facts = dict[str, dict[str, Cell]]


def run_facts(run: Run, evidence: Evidence | None = None, scores: str = METRICS_JSON) -> _Facts:
    """Facts of a run, in groups: what it learned from, how, what it cost, where all came from.

    Args:
        evidence: Of the scores on the page, for the digest of their labels.
        scores: Name of their file.

    Returns:
        Group → name → value; what cannot be told any more is left out.
    """
    described = describe_model(run.folder)
    return {
        "Trained on": _data(run),
        "Model": _model(run, described),
        "Training": _training(run),
        "Cost": _cost(run, described),
        "Provenance": _provenance(run, described, evidence, scores),
    }


def _data(run: Run) -> dict[str, Cell]:
    facts: dict[str, Cell] = {m.name: _in_words(m) for m in run.info.modalities}
    facts["classes"] = ", ".join(run.info.scheme.names)
    data = run.config.data
    facts["manifest"] = str(data.manifest)
    if data.manifest.exists():
        try:
            splits = load_manifest(data.manifest).splits
        except TerrafuseError as error:
            facts["scenes"] = f"the manifest cannot be read any more: {error}"
        else:
            facts["scenes"] = ", ".join(f"{name} {number}" for name, number in splits.items())
    facts["trained on splits"] = ", ".join(data.train_splits)
    if (painted := learnt_in(run.folder)) is not None:
        facts["painted polygons"] = f"{painted['polygons']} in {painted['scenes']} scenes"
    if data.label_share < 1:
        facts["share of the labels"] = data.label_share
    return facts


def _in_words(modality: Modality) -> str:
    unit = f", in {modality.unit}" if modality.unit else ""
    scale = "" if modality.scale == 1 else f", pixels of {modality.scale:g} scene pixels"
    return f"{modality.kind}: {', '.join(modality.bands)}{unit}{scale}"


def _model(run: Run, described: Mapping[str, Any]) -> dict[str, Cell]:
    method = run.config.method
    facts: dict[str, Cell] = {"method": method.name}
    options = {k: v for k, v in method.options.items() if isinstance(v, str | int | float | bool)}
    facts |= {name: str(value) for name, value in options.items()}
    for base in described["backbones"]:
        of = f" of {base['modality']}" if base["modality"] else ""
        source = base["source"] or "trained from scratch"
        tuning = f", tuning {base['tuning']}" if base["tuning"] else ""
        facts[f"backbone{of}"] = f"{base['backbone']}, {source}{tuning}"
    facts["parameters"] = described["total"]["parameters"]
    facts["of them trained"] = described["total"]["trainable"]
    return facts


def _training(run: Run) -> dict[str, Cell]:
    training, data = run.config.training, run.config.data
    losses = ", ".join(f"{loss.weight:g} x {loss.name}" for loss in training.losses)
    facts: dict[str, Cell] = {
        "steps": training.steps,
        "samples per step": f"{data.batch_size} x {training.accumulate}",
        "crop": f"{data.crop_size} x {data.crop_size} px",
        "optimiser": f"{training.optimizer}, learning rate {training.lr:g}, {training.schedule}",
        "loss": losses,
        "seed": training.seed,
        "modality dropout": str(data.modality_dropout),
    }
    if selected := _selected_step(run.folder / "log.csv", f"val_{training.monitor}"):
        facts["weights of step"] = f"{selected} (best {training.monitor} in validation)"
    return facts


def _selected_step(log: Path, column: str) -> str | None:
    """The step with the best value of a column; None without validation."""
    known = [row for row in _rows(log) if row.get(column)]
    return max(known, key=lambda row: float(row[column]))["step"] if known else None


def _rows(log: Path) -> list[dict[str, str]]:
    try:
        with log.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def _cost(run: Run, described: Mapping[str, Any]) -> dict[str, Cell]:
    facts: dict[str, Cell] = {}
    seconds = [row["seconds"] for row in _rows(run.folder / "log.csv") if row.get("seconds")]
    if seconds:
        facts["training"] = _duration(float(seconds[-1]))
    cost = described["cost"]
    if "flops" in cost:
        crop = cost["crop_size"]
        facts["operations of a window"] = f"{cost['flops'] / 1e9:.2f} GFLOP ({crop} x {crop} px)"
    state = run.folder / STATE_FILE
    if state.exists():
        facts["size of the model file"] = f"{state.stat().st_size / 2**20:.1f} MiB"
    return facts


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _provenance(
    run: Run, described: Mapping[str, Any], evidence: Evidence | None, scores: str
) -> dict[str, Cell]:
    info = run.info
    facts: dict[str, Cell] = {"trained by": f"terrafuse {info.version}"}
    if info.state_sha256:
        facts["weights, SHA-256"] = info.state_sha256
    facts["settings, SHA-256"] = _digest_of(run.folder / STORED_CONFIG)
    facts["manifest, SHA-256"] = _digest_of(run.config.data.manifest)
    if (painted := learnt_in(run.folder)) is not None:
        facts["painted polygons, digest"] = painted["digest"]
    facts["scores, SHA-256"] = _digest_of(run.folder / scores)
    if evidence is not None:
        facts["labels of the scored scenes"] = _digest(
            json.dumps([scene.id, scene.labels]) for scene in evidence.scenes
        )
    for base in described["backbones"]:
        if base["source"]:
            facts[f"licence of {base['backbone']}"] = base["licence"] or "unknown"
    for name, code in info.code.items():
        own = code.get("distribution") or code.get("file", "")
        facts[f"code of '{name}'"] = f"{own} ({code.get('sha256', '')[:_DIGITS]})"
    return facts


def _digest_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _digest(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()[:_DIGITS]
