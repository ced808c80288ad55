import random
import statistics

import pytest

from terrafuse.evaluation import describe_runs, half_interval


def test_of_three_values_by_hand() -> None:
    # t(0.975, 2) = 4.3027; deviation 1; over √3.
    assert half_interval([1.0, 2.0, 3.0]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    # t(0.975, 1) = 12.7062; deviation √2 / 2; over √2.
    assert half_interval([0.0, 1.0]) == pytest.approx(12.7062 / 2, rel=1e-4)


def test_holds_the_true_mean_in_95_of_100_cases() -> None:
    generator = random.Random(0)
    held = 0
    for _ in range(2000):
        values = [generator.gauss(5, 2) for _ in range(3)]
        held += abs(statistics.mean(values) - 5) <= half_interval(values)
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_runs_in_a_cell() -> None:
    assert describe_runs([]) == "–"
    assert describe_runs([12.34]) == "12.3"
    assert describe_runs([12.34, -7.0], sign="+") == "+12.3, -7.0"
    # Deviation 1, t of two degrees of freedom 4.3027.
    assert describe_runs([1.0, 2.0, 3.0], digits=2) == "2.00 ± 2.48"
