"""Evidence that an evaluation writes: equal to plain counting, whatever the way to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from terrafuse.classes import ClassScheme
from terrafuse.config import EvaluationConfig
from terrafuse.errors import LabelError, ModelError
from terrafuse.evaluation import BoundaryScore, ConfusionMatrix, evaluate
from terrafuse.evaluation.boundary import boundaries
from terrafuse.evaluation.cell_counts import CellCounts, MapCounter
from terrafuse.evaluation.error_pairs import error_pairs
from terrafuse.evaluation.evidence import (
    CONFIDENCE_EDGES,
    CONFIDENCE_ROWS,
    CONFIDENCE_STEP,
    LAGS,
    MEASURES,
    TABLES,
    Cells,
    Evidence,
    read_evidence,
    write_evidence,
)
from terrafuse.prediction import MapSettings, ScenePredictor, Strip, WindowSettings

from ..helpers.array_scene import ArrayScene, Identity
from ..helpers.small_evidence import NAMES, evidence_of
from ..helpers.small_evidence import error_pairs as plain_error_pairs

SCHEME = ClassScheme(NAMES[:3])
WINDOWS = WindowSettings(crop_size=32, overlap=8, batch_size=3)
CONFIG = EvaluationConfig(split="any", boundary_tolerance_px=2)
SUBSETS = (("s1", "s2"), ("s1",), ("s2",))


class Sum(Identity):
    """Logits are the sum of what is there."""

    def segment(self, inputs: Any) -> Any:
        output = super().segment(inputs)
        output.logits = sum(inputs.images.values())
        return output


def scenes_of() -> list[ArrayScene]:
    """Three unlike scenes of several cells each: holes, a missing modality, few labels."""
    scenes = []
    for n, (height, width) in enumerate([(150, 70), (64, 130), (33, 20)]):
        rng = np.random.default_rng(n)
        labels = np.kron(rng.integers(0, 3, (height // 9 + 1, width // 9 + 1)), np.ones((9, 9)))
        labels = labels[:height, :width].astype(np.uint8)
        images = {
            name: 2 * rng.normal(size=(3, height, width))
            + np.stack([labels == k for k in range(3)])
            for name in ("s1", "s2")
        }
        images["s1"][:, 20:90, 10:40] = np.nan
        images["s2"][:, 60:, 30:] = np.nan
        labels[5:12, :] = 255
        labels[rng.random(labels.shape) < 0.05] = 255
        missing = frozenset({"s2"} if n == 2 else ())
        scene = ArrayScene(images, labels=labels, scheme=SCHEME, missing=missing, id=f"scene {n}")
        scene.place = "delta" if n else None
        scenes.append(scene)
    return scenes


def score(**how: Any) -> tuple[dict[str, Any], Evidence]:
    found: list[Evidence] = []
    scenes = scenes_of()
    model = Sum(scenes[0].modalities, 3)
    metrics = evaluate(
        model, scenes, SCHEME, CONFIG, WINDOWS, device="cpu", subsets=True,
        on_evidence=found.append, **how,
    )  # fmt: skip
    return metrics, found[0]


@pytest.fixture(scope="module")
def scored() -> tuple[dict[str, Any], Evidence]:
    return score()


def layers_of(subset: tuple[str, ...], scene: ArrayScene, name: str) -> NDArray[Any]:
    model = Sum(scene.modalities, 3)
    settings = MapSettings((name,))
    predictor = ScenePredictor(model, WINDOWS, device="cpu")
    strips = predictor.stream(scene, without={"s1", "s2"} - set(subset), settings=settings)
    return np.concatenate([strip.layers[name] for strip in strips])


@pytest.fixture(scope="module")
def plain() -> Evidence:
    """The same, counted pixel by pixel from finished maps."""
    scenes = scenes_of()
    return evidence_of(
        [scene.references["labels"] for scene in scenes],
        [[layers_of(subset, scene, "class_map") for scene in scenes] for subset in SUBSETS],
        [
            [layers_of(subset, scene, "confidence_float32") for scene in scenes]
            for subset in SUBSETS
        ],
        subsets=SUBSETS,
        rows_apart=CONFIDENCE_ROWS,
    )


def same_counts(one: Evidence, other: Evidence) -> bool:
    return (
        set(one.tables) == set(other.tables)
        and all((one.tables[name] != other.tables[name]).nnz == 0 for name in one.tables)
        and np.array_equal(one.correlation, other.correlation)
        and np.array_equal(one.detection, other.detection)
        and one.scenes == other.scenes
    )


def test_counts_are_those_of_plain_counting(scored: Any, plain: Evidence) -> None:
    evidence = scored[1]
    assert evidence.subsets == SUBSETS
    assert len(evidence.cells) == len(plain.cells) == 6 + 3 + 1
    for place in range(len(SUBSETS)):
        for table in ("confusion", "reliability"):
            own = evidence.counts(table, subset=place)
            assert own.any()
            assert np.array_equal(own, plain.counts(table, subset=place))
    assert np.array_equal(evidence.correlation, plain.correlation)
    assert np.array_equal(evidence.detection[:, 0], plain.detection[:, 0])
    assert [scene.labels for scene in evidence.scenes] == [scene.labels for scene in plain.scenes]


def test_scores_are_sums_of_cells(scored: Any) -> None:
    metrics, evidence = scored
    everything = np.zeros(len(evidence.cells), int)
    for place, subset in enumerate(SUBSETS):
        own = metrics["subsets"]["+".join(subset)]
        (confusion,) = evidence.counts("confusion", everything, place)
        assert own["matrix"] == confusion[:, :-1].tolist()
        assert own["unmapped"] == confusion[:, -1].sum() > 0
        (counts,) = evidence.counts("boundary", everything, place)
        score = BoundaryScore(3, 2)
        score.counts += counts
        f1 = [row["boundary_f1"] for row in own["per_class"].values()]
        assert f1 == score.f1().tolist()


@pytest.mark.parametrize("number", [0, 1])
def test_boundaries_match_over_the_borders_of_cells(scored: Any, number: int) -> None:
    """Each pixel is looked for in the whole scene, and counted where it lies."""
    scene, evidence = scenes_of()[number], scored[1]
    labels = scene.references["labels"]
    class_map = layers_of(SUBSETS[0], scene, "class_map")
    whole = BoundaryScore(3, 2)
    whole.update(labels, class_map)
    inside = evidence.cells.scene == number
    cells = evidence.counts("boundary")[inside]
    assert np.array_equal(cells.sum(axis=0), whole.counts)
    # A pixel counts where it lies: all but one cell void leave the others without reference.
    ignored = (labels == 255) | (class_map == 255)
    reference = boundaries(np.where(ignored, np.uint8(255), labels))
    near_ignored = ignored.copy()
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        shifted = np.roll(ignored, shift, (0, 1))
        edge = 0 if sum(shift) > 0 else -1
        shifted[(edge, slice(None)) if shift[0] else (slice(None), edge)] = False
        near_ignored |= shifted
    reference[near_ignored] = 255
    for cell, row, col in zip(
        cells, evidence.cells.row[inside], evidence.cells.col[inside], strict=True
    ):
        part = reference[row : row + 64, col : col + 64]
        assert cell[:, 3].tolist() == [(part == k).sum() for k in range(3)]
    clipped = BoundaryScore(3, 2)
    for row, col in zip(evidence.cells.row[inside], evidence.cells.col[inside], strict=True):
        part = np.s_[row : row + 64, col : col + 64]
        clipped.update(labels[part], class_map[part])
    assert not np.array_equal(clipped.counts, whole.counts)


def test_uncertainty_is_that_of_the_products(scored: Any) -> None:
    evidence, labels = scored[1], [s.references["labels"] for s in scenes_of()]
    for place, subset in enumerate(SUBSETS):
        maps = [layers_of(subset, scene, "class_map") for scene in scenes_of()]
        for measure in ("entropy", "margin", "disagreement"):
            layers = [layers_of(subset, scene, measure) for scene in scenes_of()]
            expected = np.zeros((255, 2), int)
            for truth, found, values in zip(labels, maps, layers, strict=True):
                for row in range(0, len(truth), CONFIDENCE_ROWS):
                    known = (truth[row] != 255) & (found[row] != 255)
                    levels = values[row][known].astype(int)
                    levels = 254 - levels if measure == "margin" else levels
                    np.add.at(expected, (levels, (truth[row] != found[row])[known].astype(int)), 1)
            assert np.array_equal(evidence.detection[place, MEASURES.index(measure)], expected)
    disagreeing = evidence.detection[0, MEASURES.index("disagreement")]
    assert (
        disagreeing[1:].sum() == 0
    )  # a model that looks at single pixels contradicts itself never


def test_facts_and_scenes(scored: Any) -> None:
    evidence = scored[1]
    facts = evidence.facts
    assert facts["classes"] == facts["scored_classes"] == list(SCHEME.names)
    assert (facts["split"], facts["reference"], facts["class_mean"]) == ("any", "labels", "present")
    assert (facts["crop_size"], facts["overlap"], facts["boundary_tolerance_px"]) == (32, 8, 2)
    first, _, third = evidence.scenes
    assert (first.id, first.height, first.width) == ("scene 0", 150, 70)
    assert first.crs == "EPSG:32633"
    assert first.transform == (10, 0, 500_000, 0, -10, 5_000_000)
    assert [scene.place for scene in evidence.scenes] == [None, "delta", "delta"]
    assert set(third.bytes) == {"s1"}
    assert len({scene.labels for scene in evidence.scenes}) == 3


def test_the_file_holds_what_was_scored(scored: Any, tmp_path: Path) -> None:
    path, again = tmp_path / "evidence.npz", tmp_path / "again.npz"
    write_evidence(path, scored[1])
    found = read_evidence(path)
    assert same_counts(found, scored[1])
    write_evidence(again, found)
    assert path.read_bytes() == again.read_bytes()


def test_without_boundaries_there_is_no_table_of_them() -> None:
    _, evidence = score(boundary=False)
    assert set(evidence.tables) == set(TABLES) - {"boundary"}


# Single parts


@pytest.mark.parametrize("shape", [(150, 70), (1, 1), (3, 700), (600, 2), (64, 64)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_error_pairs_are_those_of_plain_counting(shape: tuple[int, int], share: float) -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 255], shape, p=[0.8 * (1 - share), 0.2 * (1 - share), share])
    found = rng.choice([0, 1, 255], shape, p=[0.7, 0.2, 0.1])
    labels, found = labels.astype(np.uint8), found.astype(np.uint8)
    assert np.array_equal(error_pairs(labels, found), plain_error_pairs(labels, found))


def test_error_pairs_without_bit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, found = rng.choice([0, 1, 255], (2, 90, 130)).astype(np.uint8)
    expected = error_pairs(labels, found)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert np.array_equal(error_pairs(labels, found), expected)
    assert expected[LAGS.index(64)].all()


def strip_of(class_map: NDArray[np.uint8], confidence: NDArray[np.float32], row: int = 0) -> Strip:
    rows = slice(-row % CONFIDENCE_ROWS, None, CONFIDENCE_ROWS)
    levels = np.zeros_like(class_map[rows])
    sampled = {"confidence_float32": confidence[rows]}
    sampled |= dict.fromkeys(("entropy", "margin", "disagreement"), levels)
    return Strip(row, 0, {"class_map": class_map}, sampled)


def test_bins_are_exact_at_their_edges() -> None:
    edges = CONFIDENCE_EDGES.astype(np.float32)
    beside = [np.nextafter(edges, np.float32(x)) for x in (-1, 2)]
    steps = (CONFIDENCE_EDGES[:, None] + np.arange(-3, 4) / 2 * CONFIDENCE_STEP).ravel()
    values = np.concatenate([edges, *beside, steps.astype(np.float32), np.float32([1.0])])
    values = values[(values >= 0) & (values <= 1)]
    labels = np.zeros((1, len(values)), np.uint8)
    counter = MapCounter(labels, 2)
    counter.add(strip_of(labels, values[None]))
    found = counter.finish(labels).reliability
    bins = np.searchsorted(CONFIDENCE_EDGES, values, side="right") - 1
    total = np.zeros((len(Cells.of([labels.shape])), len(CONFIDENCE_EDGES)), int)
    np.add.at(total, (np.arange(len(values)) // 64, bins), 1)
    dense = np.zeros(total.size * 3, int)
    dense[found.places] = found.counts
    assert np.array_equal(dense.reshape(*total.shape, 3)[..., 0], total)


@pytest.mark.parametrize("heights", [[130], [1] * 130, [50, 3, 70, 7], [64, 66]])
@pytest.mark.parametrize("num_classes", [2, 250])
def test_counts_do_not_depend_on_strips(heights: list[int], num_classes: int) -> None:
    rng = np.random.default_rng(1)
    labels, class_map = rng.integers(0, num_classes, (2, 130, 200)).astype(np.uint8)
    labels[rng.random(labels.shape) < 0.2] = 255
    class_map[100:, :70] = 255
    confidence = rng.random(labels.shape).astype(np.float32)
    whole, parts = MapCounter(labels, num_classes), MapCounter(labels, num_classes)
    whole.add(strip_of(class_map, confidence))
    row = 0
    for height in heights:
        part = slice(row, row + height)
        parts.add(strip_of(class_map[part], confidence[part], row))
        row += height
    one, other = whole.finish(class_map), parts.finish(class_map)
    for found, expected in ((one.confusion, other.confusion), (one.reliability, other.reliability)):
        assert np.array_equal(found.places, expected.places)
        assert np.array_equal(found.counts, expected.counts)
    assert np.array_equal(one.detection, other.detection)
    matrix = ConfusionMatrix(num_classes)
    matrix.update(labels, class_map)
    assert np.array_equal(one.confusion.total((num_classes, num_classes + 1)), matrix.counts)


def test_classes_that_do_not_exist_are_refused() -> None:
    labels, class_map = np.zeros((2, 3, 4), np.uint8)
    sure = np.ones(labels.shape, np.float32)
    with pytest.raises(ModelError, match="the map holds class 7; allowed are 0 to 1"):
        MapCounter(labels, 2).add(strip_of(class_map + np.uint8(7), sure))
    with pytest.raises(LabelError, match="labels hold class 2; allowed are 0 to 1"):
        MapCounter(labels + np.uint8(2), 2).add(strip_of(class_map, sure))


def test_counts_survive_a_line_of_a_file() -> None:
    rng = np.random.default_rng(3)
    for largest in (1, 300, 2**40):
        table = rng.integers(0, largest + 1, 5000) * (rng.random(5000) < 0.01)
        counts = CellCounts.of_table(table)
        again = CellCounts.from_text(counts.to_text(), 5000)
        assert np.array_equal(again.places, counts.places)
        assert np.array_equal(again.counts, counts.counts)
        assert again.total((2, 5)).sum() == table.sum()
    nothing = CellCounts.of_table(np.zeros(9, int))
    assert len(CellCounts.from_text(nothing.to_text(), 9).places) == 0
    for broken, told in (
        (counts.to_text()[:-9], "padding|decompress"), ("1:1:1:" + "A" * 8, "decompress"),
        ("x", "values to unpack"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            CellCounts.from_text(broken, 5000)
    with pytest.raises(ValueError, match="do not fit"):
        CellCounts.from_text(counts.to_text(), 40)
