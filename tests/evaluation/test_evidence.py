"""Evidence: cells, its file, sums over groups, and the blocks made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from terrafuse.errors import ScoresError
from terrafuse.evaluation.blocks import correlation_length, find_blocks
from terrafuse.evaluation.evidence import (
    CONFIDENCE_EDGES,
    MOST_CELLS,
    TABLES,
    Cells,
    Evidence,
    ScoredScene,
    cell_size,
    read_evidence,
    write_evidence,
)
from terrafuse.evaluation.resampling import MOST_GROUPS, BlockBootstrap

from ..helpers.small_evidence import correlated_field, evidence_of, scored_scene


def random_maps(seed: int = 0) -> Evidence:
    """Two scenes of unequal size, three subsets, holes in labels and maps."""
    rng = np.random.default_rng(seed)
    sizes = ((150, 70), (64, 130))
    labels = [rng.choice([0, 1, 2, 255], size).astype(np.uint8) for size in sizes]
    maps = [[rng.choice([0, 1, 2, 255], s).astype(np.uint8) for s in sizes] for _ in range(3)]
    sure = [[rng.uniform(0.3, 1, s).astype(np.float32) for s in sizes] for _ in range(3)]
    return evidence_of(labels, maps, sure, tolerance_px=1.0)


def test_cells_cover_a_scene_once() -> None:
    cells = Cells.of([(130, 64), (1, 65)])
    found = np.stack([cells.scene, cells.row, cells.col], axis=1).tolist()
    assert found == [[0, 0, 0], [0, 64, 0], [0, 128, 0], [1, 0, 0], [1, 0, 64]]
    assert set(cells.size.tolist()) == {64}


def test_large_scenes_have_larger_cells() -> None:
    side = int(MOST_CELLS**0.5) * 64
    assert cell_size(side, side) == 64
    assert cell_size(side, side + 1) == 128
    assert len(Cells.of([(side, side)])) == MOST_CELLS


def test_counts_of_groups_are_sums_of_cells() -> None:
    evidence = random_maps()
    assert len(evidence.cells) == 3 * 2 + 1 * 3
    cells = evidence.counts("confusion", subset=1)
    groups = np.array([1, 1, -1, 0, 1, 1, 0, 2, -1])
    summed = evidence.counts("confusion", groups, subset=1)
    assert (summed[0] == cells[3] + cells[6]).all()
    assert (summed[1] == cells[[0, 1, 4, 5]].sum(axis=0)).all()
    assert (summed[2] == cells[7]).all()
    assert not (cells == evidence.counts("confusion", subset=2)).all()


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    evidence = random_maps()
    path, again = tmp_path / "evidence.npz", tmp_path / "again.npz"
    write_evidence(path, evidence)
    found = read_evidence(path)
    write_evidence(again, found)
    assert path.read_bytes() == again.read_bytes()
    assert (found.scenes, found.subsets) == (evidence.scenes, evidence.subsets)
    assert found.facts == evidence.facts
    for name in TABLES:
        for subset in range(3):
            own = evidence.counts(name, subset=subset)
            assert own.any()
            assert (own == found.counts(name, subset=subset)).all()
    assert (found.correlation == evidence.correlation).all()
    assert (found.detection == evidence.detection).all()


def test_tables_that_are_not_read_are_named(tmp_path: Path) -> None:
    write_evidence(tmp_path / "evidence.npz", random_maps())
    found = read_evidence(tmp_path / "evidence.npz", ["confusion"])
    with pytest.raises(ScoresError, match="no table 'boundary'"):
        found.counts("boundary")


def test_a_missing_or_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "evidence.npz"
    with pytest.raises(ScoresError, match=r"there is no .*evaluate RUN"):
        read_evidence(path)
    write_evidence(path, random_maps())
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ScoresError, match="is damaged"):
            read_evidence(path)


def test_bins_of_confidence_add_up_to_equal_ones() -> None:
    assert np.allclose(CONFIDENCE_EDGES[:20], np.arange(20) / 20)
    assert (np.diff(CONFIDENCE_EDGES) > 0).all()
    assert CONFIDENCE_EDGES[-1] < 1


def wrong_where(field: NDArray[np.float64]) -> Evidence:
    """Errors where a field is high."""
    labels = np.zeros(field.shape, np.uint8)
    return evidence_of([labels], [[(field > 1).astype(np.uint8)]], classes=2, subsets=[("s1",)])


@pytest.mark.parametrize("length", [6.0, 40.0])
def test_correlation_length_is_that_of_the_field(length: float) -> None:
    field = correlated_field(np.random.default_rng(4), (900, 700), length)
    found = correlation_length(wrong_where(field))
    assert found is not None
    # Thresholded at one deviation, a field's correlation falls faster than its own.
    assert 0.6 * length < found < 1.05 * length


def test_without_errors_there_is_no_correlation_length() -> None:
    assert correlation_length(wrong_where(np.zeros((70, 70)))) is None


def test_the_side_follows_errors_or_the_window() -> None:
    field = correlated_field(np.random.default_rng(5), (900, 700), 40.0)
    evidence = wrong_where(field)
    blocks = find_blocks([evidence])
    assert blocks.correlation_px is not None
    assert blocks.side_px == round(5 * blocks.correlation_px)
    assert "correlation length" in blocks.reason
    wide = Evidence(**{**vars(evidence), "facts": {**evidence.facts, "crop_size": 512}})
    assert find_blocks([evidence, wide]).side_px == 512
    with pytest.raises(ScoresError, match=r"Choose 64 or more"):
        find_blocks([evidence], side_px=63)
    assert find_blocks([evidence], side_px=64).count == 14 * 11


def test_of_several_models_all_errors_count() -> None:
    """The length is the largest, whatever the order; what blocks leave outside is that of all."""
    near, far = (
        wrong_where(correlated_field(np.random.default_rng(8), (512, 512), length))
        for length in (6.0, 40.0)
    )
    for both in ([near, far], [far, near]):
        found = find_blocks(both)
        assert found.correlation_px == correlation_length(far)
        assert found.side_px == find_blocks([far]).side_px
        one, all_, other = (find_blocks(x, 64).widening for x in ([near], both, [far]))
        assert one + 0.1 < all_ < other - 0.01


def test_blocks_of_a_scene_have_about_equal_size() -> None:
    evidence = wrong_where(np.zeros((640, 300)))
    blocks = find_blocks([evidence], side_px=128)
    assert blocks.count == 5 * 2
    sizes = np.bincount(blocks.of_cell)
    assert sizes.max() <= 2 * 3
    assert sizes.min() >= 2 * 2


def chips(*scenes: ScoredScene) -> Evidence:
    labels = [np.zeros((s.height, s.width), np.uint8) for s in scenes]
    return evidence_of(labels, [labels], classes=2, subsets=[("s1",)], scenes=scenes)


def test_chips_join_by_place_or_stay_alone() -> None:
    small = np.zeros((64, 64), np.uint8)
    evidence = chips(
        scored_scene(0, small, place="delta"), scored_scene(1, small),
        scored_scene(2, small, place="delta"), scored_scene(3, small, place="coast"),
    )  # fmt: skip
    first, second, third, fourth = find_blocks([evidence], side_px=64).of_cell
    assert first == third
    assert len({first, second, fourth}) == 3


def test_chips_with_coordinates_join_their_neighbours_and_stay_whole() -> None:
    small = np.zeros((128, 128), np.uint8)

    def at(number: int, x: float, y: float, crs: str = "EPSG:32632") -> ScoredScene:
        return scored_scene(number, small, crs=crs, transform=(10.0, 0.0, x, 0.0, -10.0, y))

    evidence = chips(
        at(0, 0, 5120), at(1, 1280, 5120), at(2, 5120, 5120), at(3, 0, 5120, "EPSG:32633"),
        at(4, 4000, 5120),  # reaches over the border at 5120, its centre does not
    )  # fmt: skip
    blocks = find_blocks([evidence], side_px=512).of_cell.reshape(5, 4)
    assert (blocks == blocks[:, :1]).all()
    names = blocks[:, 0]
    assert names[0] == names[1] == names[4]
    assert len({names[0], names[2], names[3]}) == 3


def test_bootstrap_of_a_mean_has_the_known_width() -> None:
    rng = np.random.default_rng(0)
    counts = rng.normal(10, 2, (400, 1))
    bootstrap = BlockBootstrap(400)
    found = bootstrap.interval(counts.mean(), bootstrap.sums(counts)[:, 0] / 400)
    half = 1.96 * counts.std() / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.08)
    assert found.low < found.value < found.high


def test_many_blocks_are_grouped_without_losing_any() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 9, (3 * MOST_GROUPS + 5, 2))
    bootstrap = BlockBootstrap(len(counts), draws=300)
    sums = bootstrap.sums(counts)
    assert sums.shape == (300, 2)
    assert sums.mean(axis=0) == pytest.approx(counts.sum(axis=0), rel=0.01)
    spread = np.sqrt(len(counts)) * counts.std(axis=0)
    assert sums.std(axis=0) == pytest.approx(spread, rel=0.15)


def test_one_block_has_no_interval() -> None:
    bootstrap = BlockBootstrap(1)
    found = bootstrap.interval(0.5, bootstrap.sums(np.ones((1, 1)))[:, 0])
    assert np.isnan([found.low, found.high]).all()
    assert found.to_dict() == {"value": 0.5, "low": None, "high": None}


def test_what_blocks_leave_outside_widens() -> None:
    """Squares of 5 L hold (1 - 1 / 5√π)² of the variance of errors of exp(-d²/L²)."""
    evidence = wrong_where(correlated_field(np.random.default_rng(6), (1200, 1200), 48.0))
    length = correlation_length(evidence)
    assert length is not None
    wide = find_blocks([evidence], side_px=round(5 * length)).widening
    assert wide == pytest.approx((1 - 1 / (5 * np.pi**0.5)) ** -2, abs=0.15)
    assert find_blocks([evidence], side_px=64).widening > 1.4 * wide
    assert find_blocks([evidence], side_px=600).widening < 1.15
    assert find_blocks([evidence], side_px=1200).widening == 1


def test_chips_apart_are_not_widened() -> None:
    evidence = wrong_where(correlated_field(np.random.default_rng(7), (128, 128), 30.0))
    assert find_blocks([evidence], side_px=128).widening == 1


def test_errors_that_reach_farther_than_was_looked_have_blocks_as_large() -> None:
    """Whole chips are wrong or right."""
    labels = [np.zeros((64, 64), np.uint8)] * 4
    maps = [[np.full((64, 64), wrong, np.uint8) for wrong in (0, 1, 0, 1)]]
    evidence = evidence_of(labels, maps, classes=2, subsets=[("s1",)])
    assert correlation_length(evidence) == 48
    blocks = find_blocks([evidence])
    assert (blocks.side_px, blocks.count) == (5 * 48, 4)


def test_few_blocks_have_no_interval_and_more_a_wide_one() -> None:
    rng = np.random.default_rng(8)
    counts = rng.normal(10, 2, (8, 1))
    for widening, blocks in ((1.0, 5), (1.0, 8), (4.0, 8)):
        own = counts[:blocks]
        bootstrap = BlockBootstrap(blocks, widening=widening)
        found = bootstrap.interval(own.mean(), bootstrap.sums(own)[:, 0] / blocks)
        if blocks < 6:
            assert np.isnan(found.low)
            continue
        half = 2.365 * own.std(ddof=1) / 8**0.5 * widening**0.5
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.12)
