"""Intervals of comparisons hold their level on simulated, correlated errors; others do not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "compare_coverage.py"


@pytest.fixture(scope="module")
def coverage() -> Any:
    """The benchmark, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("compare_coverage", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare_coverage"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_simulated_fields_are_as_correlated_as_said(coverage: Any) -> None:
    rng = np.random.default_rng(0)
    for kind, at_length in (("gauss", np.exp(-1)), ("exponential", np.exp(-1))):
        field = coverage.field(rng, 400, 4.0, kind)
        assert field.shape == (400, 400)
        assert field.var() == pytest.approx(1, abs=0.1)
        assert (field[4:] * field[:-4]).mean() == pytest.approx(at_length, abs=0.06)
        assert abs((field[20:] * field[:-20]).mean()) < 0.06


def test_the_true_score_is_that_of_much_ground(coverage: Any) -> None:
    ground = coverage.draw_ground(np.random.default_rng(1), 64 * 256, 64.0, gain=0.1)
    for case, gain in (("equal", 0.0), ("gain", 0.1)):
        found = np.mean([coverage.influences(ground, run)[0] for run in ground.runs[case]])
        assert found == pytest.approx(coverage.true_miou(coverage.WRONG) + gain, abs=0.02)


def test_intervals_hold_and_those_of_pixels_and_seeds_do_not(coverage: Any) -> None:
    """Of forty draws; the benchmark, and the slow test below, make four hundred."""
    found = coverage.simulate(4096, 128, 40)
    assert found["equal compare"] >= 0.85
    assert found["gain compare"] >= 0.85
    assert found["score"] >= 0.85
    assert found["same different"] <= 0.125
    assert found["equal pixels"] <= 0.6
    assert found["equal seeds"] <= 0.92
    assert 1.15 < found["widening"] < 1.45


@pytest.mark.slow
@pytest.mark.parametrize("size", [4096, 8192])
@pytest.mark.parametrize("length", [64, 128, 256])
def test_intervals_cover_what_they_say(coverage: Any, size: int, length: float) -> None:
    found = coverage.simulate(size, length, 400)
    for name in ("equal compare", "gain compare", "score"):
        assert 0.93 <= found[name] <= 0.98, (name, found[name])
    assert found["same different"] <= 0.05
    assert found["equal different"] <= 0.07
    assert found["equal pixels"] < 0.7
    assert found["equal seeds"] < 0.92
    if length > 64:
        assert found["equal chips"] < 0.93
