"""Terminal tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from terrafuse.modalities import BandStatistics, Modality

if TYPE_CHECKING:
    from terrafuse.evaluation import AreaEstimates, Estimate

_MOST_SCENES = 20


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a row per mapping, with the keys as header; the first is a name to be copied."""
    table = Table(title=title)
    for position, key in enumerate(rows[0] if rows else []):
        heading = str(key).replace("_", " ")
        table.add_column(heading, no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    Console().print(table)


def print_statistics(
    modalities: Mapping[str, Modality], statistics: Mapping[str, BandStatistics]
) -> None:
    """Print the statistics, a row per band."""
    table = Table(title="statistics over pixels with data")
    for column in ("modality", "band", "unit", "mean", "std", "2 %", "98 %", "pixels"):
        table.add_column(column, justify="left" if column in ("modality", "band") else "right")
    for name, values in statistics.items():
        rows = zip(
            modalities[name].bands, values.mean, values.std, values.low, values.high, values.count,
            strict=True,
        )  # fmt: skip
        for band, *numbers, count in rows:
            cells = [f"{number:.5g}" for number in numbers]
            table.add_row(name, band, modalities[name].unit, *cells, f"{count:,}")
    Console().print(table)


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Print scores per modality subset, then per class for all modalities."""
    from terrafuse.evaluation import SCORES  # torch and rasterio take seconds to import

    table = Table(title=f"split '{metrics['split']}', {metrics['pixels']:,} pixels, in %")
    table.add_column("modalities")
    for kind in SCORES.values():
        table.add_column(kind.label, justify="right")
    for name, subset in metrics["subsets"].items():
        scores = subset["scores"]
        table.add_row(name, *(kind.text(scores.get(key)) for key, kind in SCORES.items()))
    Console().print(table)
    per_class = metrics["subsets"][metrics["full"]]["per_class"]
    table = Table(title=f"per class, {metrics['full']}, in %")
    for column in ("class", "IoU", "F1", "recall", "precision", "pixels"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, row in per_class.items():
        cells = [_percent(row[key]) for key in ("iou", "f1", "recall", "precision")]
        table.add_row(name, *cells, f"{row['pixels']:,}")
    Console().print(table)
    _print_scenes(metrics["per_scene"])
    _print_further(metrics)
    _print_calibration(metrics)


def _print_further(metrics: Mapping[str, Any]) -> None:
    """Tables of scores that were asked for."""
    if "objects" in metrics:
        table = Table(title=f"objects, {metrics['full']}; shares in %")
        table.add_column("class")
        for column in ("objects", "mapped", "precision", "recall", "F1 = RQ", "SQ", "PQ"):
            table.add_column(column, justify="right")
        for name, row in metrics["objects"]["per_class"].items():
            shares = [_percent(row[key]) for key in ("precision", "recall", "f1", "sq", "pq")]
            table.add_row(name, f"{row['objects']:,}", f"{row['mapped']:,}", *shares)
        Console().print(table)
    for key, inner, first, title, unit in (
        ("trimap", "within_px", "within", "near boundaries", " px"),
        ("regions", "per_region", "region", "per region", ""),
    ):
        if key in metrics:
            table = Table(title=f"{title}, {metrics['full']}, in %")
            table.add_column(first)
            for column in ("mIoU", "OA", "pixels"):
                table.add_column(column, justify="right")
            for name, row in metrics[key][inner].items():
                scores = [_percent(row["miou"]), _percent(row["oa"])]
                table.add_row(f"{name}{unit}", *scores, f"{row['pixels']:,}")
            Console().print(table)


def _print_calibration(metrics: Mapping[str, Any]) -> None:
    """A line on how sure the map is, and one on its class sets."""
    if "calibration" not in metrics:  # scores of an earlier version
        return
    console = Console(soft_wrap=True, highlight=False)
    full = metrics["full"]
    own = metrics["calibration"]["subsets"][full]
    if own["pixels"]:
        is_calibrated = "calibrated" if metrics["settings"]["calibration"] else "as the model is"
        console.print(
            f"confidence ({is_calibrated}): ECE {_with_interval(own['ece']['20'])} %, mean "
            f"confidence {_percent(own['mean_confidence'])} %, accuracy "
            f"{_percent(own['accuracy'])} %; of the surest 90 % of pixels "
            f"{_with_interval(own['selective_risk']['0.9'])} % are wrong; from every "
            f"{metrics['calibration']['every_rows']}th row, 95 % intervals over "
            f"{metrics['calibration']['blocks']} blocks",
            markup=False,
        )
    if "class_sets" in metrics:
        sets = metrics["class_sets"]["subsets"][full]
        console.print(
            f"class sets: {100 * sets['coverage']:g} % wanted, a block holds "
            f"{_with_interval(sets['covered_per_block'])} %; mean size "
            f"{sets['mean_size']['value']:.2f}",
            markup=False,
        )


def _with_interval(found: Mapping[str, float | None]) -> str:
    """A share in %, with its 95 % interval if it has one."""
    if found["low"] is None:
        return _percent(found["value"])
    ends = f"{_percent(found['low'])} to {_percent(found['high'])}"
    return f"{_percent(found['value'])} ({ends})"


def print_areas(found: AreaEstimates) -> None:
    """Print areas and accuracies with their intervals, then what is to be known of them."""
    level = f"{100 * found.confidence:g} %"
    table = Table(title=f"areas in {found.unit}, accuracies in %, with {level} intervals")
    table.add_column("class")
    for column in ("mapped", "estimated", "user's", "producer's", "points"):
        table.add_column(column, justify="right")
    for one in found.classes:
        mapped = "–" if one.mapped_area is None else f"{one.mapped_area:,.1f}"
        area = f"{one.area.value:,.1f} [{one.area.low:,.1f}, {one.area.high:,.1f}]"
        accuracies = [_estimate_text(one.users), _estimate_text(one.producers)]
        # Brackets would be markup.
        cells = [Text(cell) for cell in (one.name, mapped, area, *accuracies)]
        table.add_row(*cells, f"{one.mapped_points} / {one.reference_points}")
    console = Console()
    console.print(table)
    lines = [f"overall accuracy {_estimate_text(found.overall)} %"]
    if found.overall_of_classed is not None:
        of_classed = _estimate_text(found.overall_of_classed)
        lines.append(f"that of the pixels with a class {of_classed} %")
    lines.append(
        f"{found.points} labelled points for {found.total:,.1f} {found.unit}; points: mapped as "
        "the class / truly of it"
    )
    for line in (*lines, *(f"note: {note}" for note in found.notes)):
        console.print(line, markup=False, highlight=False)


def _estimate_text(found: Estimate | None) -> str:
    from terrafuse.reports.tables import points

    return "–" if found is None else points(asdict(found))


def _print_scenes(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """A row per scene; in large splits those with the lowest scores."""
    if len(rows) < 2:
        return
    ids = list(rows)
    title = "per scene, in %"
    if len(ids) > _MOST_SCENES:
        ids = sorted(ids, key=lambda id: -1 if rows[id]["miou"] is None else rows[id]["miou"])
        ids = ids[:_MOST_SCENES]
        title += f": the lowest {_MOST_SCENES} of {len(rows)}; metrics.json has all"
    table = Table(title=title)
    for column in ("scene", "mIoU", "OA", "pixels", "unmapped"):
        table.add_column(column, justify="left" if column == "scene" else "right")
    for id in ids:
        row = rows[id]
        counts = [f"{row[key]:,}" for key in ("pixels", "unmapped")]
        table.add_row(id, _percent(row["miou"]), _percent(row["oa"]), *counts)
    Console().print(table)


def print_model(overview: Mapping[str, Any]) -> None:
    """Print a model's parts with their parameters, weights, cost and scores."""
    console = Console(soft_wrap=True, highlight=False)
    inputs = "; ".join(f"{name} ({', '.join(b)})" for name, b in overview["modalities"].items())
    classes = overview["classes"]
    console.print(f"{overview['method']} on {inputs}", markup=False)
    console.print(f"{len(classes)} classes: {', '.join(classes)}", markup=False)
    for base in overview["backbones"]:
        console.print(_base_line(base), markup=False)
    for modality, share in overview.get("gates", {}).items():
        console.print(f"{modality} keeps {share:.2f} of its own part", markup=False)
    for subset, scores in overview.get("scores", {}).items():
        console.print(f"scores of {subset} in %: {_scores_line(scores)}", markup=False)
    for line in overview["alike_bands"]:
        console.print(line, markup=False)
    console.print(_parts_table(overview))
    console.print(f"saved in a run folder: {overview['saved_values']:,} values, with buffers")
    _print_cost(console, overview["cost"])
    console.print("random augmentation of training samples, at most:")
    for line in overview["augmentation"]:
        console.print(f"  {line}", markup=False)


def print_parameter_groups(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print learning rate and weight decay, a row per group of parameters."""
    table = Table(title="learning rate and weight decay")
    table.add_column("why")
    for column in ("lr factor", "lr", "decay", "parameters", "values"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("for instance")
    for row in rows:
        rates = [f"{row[key]:.4g}" for key in ("lr_factor", "lr", "weight_decay")]
        counts = [f"{row[key]:,}" for key in ("parameters", "values")]
        table.add_row(row["why"], *rates, *counts, row["names"][0])
    Console().print(table)


def _scores_line(scores: Mapping[str, float | None]) -> str:
    from terrafuse.evaluation import SCORES

    found = [f"{k.label} {k.text(scores[name])}" for name, k in SCORES.items() if name in scores]
    return ", ".join(found)


def _base_line(base: Mapping[str, Any]) -> str:
    tuning = f", tuning {base['tuning']}" if base["tuning"] else ""
    note = f"; {base['note']}" if base["note"] else ""
    weights = f"weights '{base['source']}' (licence: {base['licence']}{note})"
    start = weights if base["source"] else "from scratch"
    return f"{base['part']}: {base['backbone']}{tuning}, {start}"


def _parts_table(overview: Mapping[str, Any]) -> Table:
    table = Table(title="parameters")
    table.add_column("part")
    table.add_column("")
    for column in ("parameters", "trainable", "frozen"):
        table.add_column(column, justify="right", no_wrap=True)
    last = None
    for row in overview["parts"]:
        is_new = last is None or row["part"] != last["part"]
        if last is not None and is_new and (row["piece"] or last["piece"]):
            table.add_section()
        table.add_row(row["part"] if is_new else "", row["piece"], *_counts(row))
        last = row
    table.add_section()
    table.add_row("total", "", *_counts(overview["total"]), style="bold")
    return table


def _counts(row: Mapping[str, int]) -> list[str]:
    return [f"{row[key]:,}" for key in ("parameters", "trainable", "frozen")]


def _print_cost(console: Console, cost: Mapping[str, Any]) -> None:
    if "error" in cost:
        said = f"FLOPs and memory could not be derived from shapes alone: {cost['error']}"
        console.print(said, style="yellow", markup=False)
        return
    size = cost["crop_size"]
    table = Table(title=f"training memory, batches of {cost['batch_size']}")
    table.add_column("")
    table.add_column("MiB", justify="right")
    for name, count in cost["training_bytes"].items():
        if name == "total":
            table.add_section()
        if count:
            table.add_row(name, f"{count / 2**20:,.1f}", style="bold" if name == "total" else None)
    console.print(table)
    console.print(
        f"a sample of {size} × {size} px: {cost['flops'] / 1e9:,.2f} GFLOPs forward, "
        f"{cost['activation_bytes_per_sample'] / 2**20:,.1f} MiB of activations kept in training"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)
