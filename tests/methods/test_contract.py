"""What every method keeps. A new line in METHODS is tested here without further work.

A method whose defaults are too large for a test adds small options to `small_methods.SMALL`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small_methods import SMALL, random_images, statistics_of
from terrafuse.classes import ClassScheme
from terrafuse.config.options import option_names
from terrafuse.errors import MissingModalityError, ModelError, UnknownNameError
from terrafuse.methods import (
    METHODS,
    create_segmenter,
    describe_run,
    list_methods,
    load_segmenter,
)
from terrafuse.modalities import Modality
from terrafuse.segmenter import Segmenter
from terrafuse.weights import save_model

#: Per method, names of parameters that by design get no gradient.
WITHOUT_GRADIENT: dict[str, tuple[str, ...]] = {}
#: Per method that divides by sums which may be as small as rounding, how far results may differ, in
#: parts of the largest logit. In float64 they are the same.
ROUNDING: dict[str, float] = {"pagnet": 2e-4}

K = 3
MODALITIES = (
    Modality("rgb", ("r", "g", "b"), kind="optical", wavelengths_um=(0.665, 0.56, 0.49)),
    Modality("sar", ("vv", "vh"), kind="sar", scale=2.0),
    Modality("dsm", ("z",), kind="elevation", scale=0.5),
)


@dataclass(frozen=True)
class Case:
    """A method with small options and as many modalities as it takes."""

    method: str
    options: dict[str, Any]
    modalities: tuple[Modality, ...]

    def make(self, modalities: tuple[Modality, ...] | None = None, seed: int = 0) -> Segmenter:
        torch.manual_seed(seed)
        segmenter = create_segmenter(
            self.method, modalities or self.modalities, K, self.options
        ).eval()
        # Values that training would reach: at its start a norm or a gate may hide a mistake.
        for name, parameter in segmenter.named_parameters():
            if parameter.ndim == 1:
                # Scales around 1: many of one half in a row would hide what comes in.
                mean = 0.5 if name.endswith("bias") else 1.0
                torch.nn.init.normal_(parameter, mean=mean, std=0.2)
            elif name.endswith((".up", ".gates", ".aligned.up.weight")):  # start as 0
                torch.nn.init.normal_(parameter, std=0.2)
        segmenter.set_statistics(statistics_of(segmenter.modalities))
        return segmenter


def _cases() -> list[Any]:
    cases = []
    for name, method in METHODS.items():
        _, most = method.num_modalities
        modalities = MODALITIES[: min(most or 2, len(MODALITIES))]
        for number, options in enumerate(SMALL.get(name, [{}])):
            cases.append(pytest.param(Case(name, options, modalities), id=f"{name}-{number}"))
    return cases


each_method = pytest.mark.parametrize("case", _cases())


@each_method
@pytest.mark.parametrize("size", [(32, 32), (34, 46), (2, 70), (96, 64)])
def test_logits_have_the_shape_of_the_window(case: Case, size: tuple[int, int]) -> None:
    segmenter = case.make()
    with torch.no_grad():
        output = segmenter(random_images(case.modalities, size))
    assert output.logits.shape == (2, K, *size)
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()
    for auxiliary in output.aux_logits:
        assert auxiliary.shape == (2, K, *size)


@each_method
@pytest.mark.parametrize("scale", [0.5, 2.0, 3.0, 20.0])
def test_modalities_may_have_any_scale(case: Case, scale: float) -> None:
    *others, last = case.modalities
    modalities = (*others, replace(last, scale=scale))
    segmenter = case.make(modalities)
    with torch.no_grad():
        logits = segmenter(random_images(modalities, (60, 60))).logits
    assert logits.shape == (2, K, 60, 60)
    assert logits.isfinite().all()


@each_method
def test_the_output_depends_on_every_modality(case: Case) -> None:
    segmenter = case.make()
    images = random_images(case.modalities, (64, 64))
    with torch.no_grad():
        logits = segmenter(images).logits
        for m in case.modalities:
            changed = segmenter(images | {m.name: images[m.name].flip(0)}).logits
            assert (changed - logits).abs().max() > 1e-4, m.name


@each_method
def test_samples_do_not_depend_on_their_neighbours(case: Case) -> None:
    segmenter = case.make()
    images = random_images(case.modalities, (64, 64), batch=3)
    with torch.no_grad():
        together = segmenter(images).logits
        atol = max(1e-5, ROUNDING.get(case.method, 0) * float(together.abs().max()))
        for i in range(3):
            alone = segmenter({m: x[i : i + 1] for m, x in images.items()}).logits
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=atol)


@each_method
def test_samples_that_lack_modalities_do_not_change_their_neighbours(case: Case) -> None:
    segmenter = case.make()
    if not segmenter.supports_missing:
        pytest.skip("needs every modality")
    batch = 1 + len(case.modalities)
    images = random_images(case.modalities, (64, 64), batch=batch)
    for i, m in enumerate(case.modalities):  # sample 0 has all, sample i + 1 lacks the i-th
        images[m.name][i + 1] = torch.nan
    with torch.no_grad():
        together = segmenter(images).logits
        for i in range(batch):
            alone = segmenter({m: x[i : i + 1] for m, x in images.items()}).logits
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@each_method
def test_missing_modalities_are_supported_or_named(case: Case) -> None:
    segmenter = case.make()
    images = random_images(case.modalities, (64, 64))
    if len(case.modalities) == 1:
        pytest.skip("nothing would be left")
    for m in case.modalities:
        left = {name: x for name, x in images.items() if name != m.name}
        if not segmenter.supports_missing:
            with pytest.raises(MissingModalityError, match=m.name):
                segmenter(left)
            continue
        with torch.no_grad():
            absent = segmenter(left).logits
            blank = segmenter(images | {m.name: torch.full_like(images[m.name], torch.nan)}).logits
            # Whatever lies under an invalid mask plays no part.
            valid = {m.name: torch.zeros(2, *images[m.name].shape[-2:], dtype=torch.bool)}
            masked = segmenter(images, valid).logits
        assert absent.isfinite().all()
        assert torch.equal(absent, blank)
        assert torch.equal(absent, masked)


@each_method
def test_gaps_give_finite_output(case: Case) -> None:
    segmenter = case.make()
    images = random_images(case.modalities, (64, 64))
    for x in images.values():
        x[0, 0, : x.shape[-2] // 2] = torch.nan  # one band, half of the window
        x[1, :, :, : x.shape[-1] // 4] = torch.nan  # all bands, a quarter
    with torch.no_grad():
        assert segmenter(images).logits.isfinite().all()
    if segmenter.supports_missing:
        nothing = {name: torch.full_like(x, torch.nan) for name, x in images.items()}
        with torch.no_grad():
            assert segmenter(nothing).logits.isfinite().all()


@each_method
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_reach_every_parameter_that_learns(case: Case, batch: int) -> None:
    segmenter = case.make().train()
    output = segmenter(random_images(case.modalities, (64, 64), batch=batch))
    terms = [output.logits, *output.aux_logits]
    (sum(x.square().mean() for x in terms) + sum(output.losses.values())).backward()
    for name, parameter in segmenter.named_parameters():
        if name in WITHOUT_GRADIENT.get(case.method, ()):
            assert parameter.grad is None, f"{name} is said to get none"
        else:
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


@each_method
def test_a_step_with_gaps_and_missing_modalities_trains(case: Case) -> None:
    segmenter = case.make().train()
    images = random_images(case.modalities, (64, 64))
    for i, x in enumerate(images.values()):
        x[:, :, :5] = torch.nan
        if segmenter.supports_missing and i > 0:
            x[:] = torch.nan  # for the whole batch
    segmenter(images).logits.square().mean().backward()
    for name, parameter in segmenter.named_parameters():
        # Distributed training waits for the gradient of every parameter that ever has one.
        if name not in WITHOUT_GRADIENT.get(case.method, ()) and "aux" not in name:
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert all(buffer.isfinite().all() for buffer in segmenter.buffers())


@each_method
def test_saved_and_loaded_it_is_the_same(case: Case, tmp_path: Path) -> None:
    segmenter = case.make()
    scheme = ClassScheme(tuple("abc"[:K]))
    info = describe_run(
        segmenter,
        scheme=scheme,
        statistics=statistics_of(case.modalities),
        crop_size=64,
        overlap=16,
        rules={m.name: {"nodata": 0} for m in case.modalities},
        grid=case.modalities[0].name,
    )
    save_model(tmp_path / "run", segmenter.state_dict(), info)
    loaded, found = load_segmenter(tmp_path / "run")
    assert found == info
    assert not loaded.training
    assert loaded.method_name == case.method
    images = random_images(case.modalities, (50, 38))
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, segmenter(images).logits)


@each_method
def test_statistics_are_part_of_the_state(case: Case) -> None:
    state = case.make().state_dict()
    for m in case.modalities:
        assert state[f"mean_{m.name}"].tolist() == [3.0] * len(m.bands)
        assert state[f"std_{m.name}"].tolist() == [2.0] * len(m.bands)


@each_method
def test_mixed_precision(case: Case) -> None:
    segmenter = case.make().train()
    images = random_images(case.modalities, (64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = segmenter(images).logits
    logits.float().square().mean().backward()
    assert logits.isfinite().all()


@each_method
def test_backbones_are_found(case: Case) -> None:
    segmenter = case.make()
    owned = {id(p) for backbone in segmenter.backbones() for p in backbone.parameters()}
    assert owned
    assert owned < {id(p) for p in segmenter.parameters()}


@pytest.mark.parametrize("name", METHODS)
def test_the_constructor_is_as_agreed(name: str) -> None:
    method = METHODS[name]
    for key in option_names(method):
        default = inspect.signature(method).parameters[key].default
        assert default is not inspect.Parameter.empty, f"option '{key}' has no default"
        assert f"{key}: " in (method.__doc__ or ""), f"option '{key}' is not documented"
    assert method.title
    least, _ = method.num_modalities
    defaults = create_segmenter(name, MODALITIES[:least], K)
    assert isinstance(defaults, method)
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
