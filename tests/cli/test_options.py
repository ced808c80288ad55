"""Help lists by hand what rooms offer, so that it imports none of them; the lists are theirs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, get_args

import pytest
import typer

from terrafuse.cli.app import app
from terrafuse.evaluation.sample_design import ALLOCATIONS
from terrafuse.evaluation.synergy.stress import TESTS
from terrafuse.prediction import PRODUCTS, Blending, EngineName, Precision, ValuesName
from terrafuse.prediction.tta import KINDS
from terrafuse.reports.comparison_tables import FORMS


@pytest.fixture(scope="module")
def told() -> Callable[[str, str], str]:
    """Function that returns the help of a verb's option, with its placeholder."""
    command: Any = typer.main.get_command(app)

    def find(verb: str, option: str) -> str:
        (found,) = (p for p in command.commands[verb].params if option in p.opts)
        return f"{found.help} {found.metavar or ''}"

    return find


@pytest.mark.parametrize(
    ("verb", "option", "names"),
    [
        ("predict", "--products", PRODUCTS),
        ("predict", "--tta", KINDS),
        ("predict", "--values", get_args(ValuesName)),
        ("predict", "--blending", get_args(Blending)),
        ("predict", "--precision", get_args(Precision)),
        ("predict", "--engine", get_args(EngineName)),
        ("evaluate", "--synergy-tests", TESTS),
        ("sample", "--allocation", ALLOCATIONS),
        ("compare", "--format", FORMS),
    ],
)
def test_every_name_is_listed(
    verb: str, option: str, names: Iterable[str], told: Callable[[str, str], str]
) -> None:
    words = re.findall(r"[\w-]+", told(verb, option))
    assert [name for name in names if name not in words] == []


def test_no_product_is_listed_that_does_not_exist(told: Callable[[str, str], str]) -> None:
    _, _, listed = told("predict", "--products").partition(": ")
    assert listed.partition(".")[0].split(", ") == list(PRODUCTS)
