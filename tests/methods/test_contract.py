"""What every method keeps. A new line in METHODS is tested here without further work.

The checks are the package's, so that `terrafuse check-method` holds others' methods to the same. A
method whose defaults are too large for a test adds small options to `small_methods.SMALL`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest

from small_methods import SMALL
from terrafuse.contract import CHECKS, MODALITIES, Case, Check, NotAsked
from terrafuse.errors import ModelError, UnknownNameError
from terrafuse.methods import METHODS, create_segmenter, list_methods
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter

#: Per method that divides by sums which may be as small as rounding, how far results may differ, in
#: parts of the largest logit. In float64 they are the same.
ROUNDING: dict[str, float] = {"pagnet": 2e-4}
#: Backbones to which modalities beside the first are but distances between pixels, mean over the
#: bands, as published for their one band of depth. Bands of X are alike then, and have no sign.
DISTANCES_ONLY = ("dformer_v2_",)
#: `test_influence` and `test_overfit` have what small models and single bands learn from;
#: `tests/exporting/test_every_method.py` makes graphs of all.
ELSEWHERE = {"learning", "exported"}
K = 3


class BuiltOnce(Case):
    """A case whose model most checks get as a copy: to build it takes longer than to run it."""

    def make(self, modalities: Sequence[Modality] | None = None) -> Segmenter:
        if modalities is not None:
            return super().make(modalities)
        if _built.get("case") is not self:
            _built.update(case=self, model=super().make())
        model: Segmenter = deepcopy(_built["model"])
        return model


#: The case that was built last, and its model.
_built: dict[str, Any] = {}


def _cases() -> list[Any]:
    cases = []
    for name in METHODS:
        for number, options in enumerate(SMALL.get(name, [{}])):
            case = BuiltOnce(
                name,
                options,
                rounding=ROUNDING.get(name, 0.0),
                sees_distances_only=str(options.get("backbone")).startswith(DISTANCES_ONLY),
            )
            cases.append(pytest.param(case, id=f"{name}-{number}"))
    return cases


@pytest.mark.parametrize(
    "check", [c for c in CHECKS if c.name not in ELSEWHERE], ids=lambda c: c.name
)
@pytest.mark.parametrize("case", _cases())
def test_the_contract_is_kept(case: Case, check: Check) -> None:
    try:
        check.run(case)
    except NotAsked as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", METHODS)
def test_defaults_build_a_model(name: str) -> None:
    method = METHODS[name]
    least, _ = method.num_modalities
    assert isinstance(create_segmenter(name, MODALITIES[:least], K), method)
    with pytest.raises(UnknownNameError, match=f"unknown option of method '{name}' 'backbnoe'"):
        create_segmenter(name, MODALITIES[:least], K, {"backbnoe": "resnet18"})


def test_methods_are_listed() -> None:
    rows = list_methods()
    assert [row.name for row in rows] == list(METHODS)
    single = rows[0]
    assert single.modalities == "1"
    assert not single.supports_missing


def test_a_misspelt_method_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'late_fuson'\. Did you mean 'late"):
        create_segmenter("late_fuson", MODALITIES[:2], K)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "product"}, r"option 'fusion' of method 'late_fusion' is 'product': .*'gated'"),
        ({"aux": "perhaps"}, r"option 'aux' .* is 'perhaps': .*boolean"),
        ({"backbone": 18}, r"option 'backbone' .* is 18: .*string"),
        ({"decoder_options": [8]}, r"option 'decoder_options' .* is \[8\]: .*dictionary"),
    ],
)
def test_values_of_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create_segmenter("late_fusion", MODALITIES[:2], K, options)
