"""What every method keeps. A new line in METHODS is tested here without further work.

A method whose defaults are too large for a test adds small options to `SMALL`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from terrafuse.classes import ClassScheme
from terrafuse.errors import MissingModalityError, ModelError, UnknownNameError
from terrafuse.methods import (
    METHODS,
    create_segmenter,
    describe_run,
    list_methods,
    load_segmenter,
)
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.options import option_names
from terrafuse.segmenter import Segmenter
from terrafuse.weights import save_model

RESNET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]},
    "decoder": "upernet",
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
    },
    "decoder": "segformer",
    "decoder_options": {"channels": 8},
}  # fmt: skip
DOFA: dict[str, Any] = VIT | {
    "backbone": "dofa_base_patch16",
    "backbone_options": VIT["backbone_options"] | {"dynamic_embed_dim": 8},
}
TINY_SAM: dict[str, Any] = {
    "backbone": "samvit_base_patch16",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
        "window_size": 3, "global_attn_indexes": [1],
    },
    "decoder_options": {"channels": 8, "num_heads": 2, "window_size": 2},
}  # fmt: skip
SYNERGY: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64},
    "vem": {"dim": 8, "heads": 2},
    "decoder": "upernet",
    "neck_channels": 8,
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
SYNERGY_DOFA: dict[str, Any] = SYNERGY | {
    "backbone": "dofa_base_patch16",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "dynamic_embed_dim": 16,
    },
}  # fmt: skip
STRUCTURE: dict[str, Any] = {
    "backbone": "vit_base_patch14_reg4_dinov2",
    "backbone_options": {"embed_dim": 64, "depth": 1, "num_heads": 2, "img_size": 28},
    "channels": [8, 12],
    "depths": [1, 2],
    "num_heads": [1, 2],
    "mlp_ratios": [2, 1],
    "decoder_options": {"channels": 8},
}
MCANET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": RESNET["backbone_options"],
    "low_channels": 6,
    "high_channels": 8,
}
MIT: dict[str, Any] = {
    "backbone": "mit_b0",
    "backbone_options": {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]},
    "decoder_options": {"channels": 8},
}
CROMA: dict[str, Any] = {
    "backbone_options": {"embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8},
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
DFORMER: dict[str, Any] = {
    "backbone": "dformer_tiny",
    "backbone_options": {
        "channels": [8, 8, 12, 16], "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4],
        "mlp_ratios": [2, 2, 1, 1], "layer_scale_init": 0.5,
    },
    "decoder_options": {"channels": 8, "ham_channels": 8, "rank": 4},
}  # fmt: skip
DECUR: dict[str, Any] = {
    "backbone_options": {"channels": [4, 4, 8, 16], "layers": [1, 1, 1, 1]},
    "channels": [4, 6, 8],
}
AMMFUSENET: dict[str, Any] = {
    "backbone": "resnet18",
    "backbone_options": RESNET["backbone_options"],
    "projection_channels": 4,
    "context_channels": 6,
    "hidden_channels": 8,
}
SSLVIT: dict[str, Any] = {
    "backbone_options": {
        "embed_dim": 8, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4,
        "img_size": 64,
    },
}  # fmt: skip
GALILEO: dict[str, Any] = {
    "backbone": "galileo_nano",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8, "patch_size": 8,
        "scaling": "data",
    },
    "decoder_options": {"channels": 8},
}  # fmt: skip
GALILEO_UPSEG: dict[str, Any] = {
    "backbone": "galileo_nano",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "scaling": "data",
    },
}  # fmt: skip
TINY_DECODER: dict[str, Any] = {"decoder_options": {"channels": 8, "num_heads": 2}}

#: Per method, small options to test it with; a method that is not here is tested with its defaults.
SMALL: dict[str, list[dict[str, Any]]] = {
    "dformer": [
        DFORMER,
        DFORMER | {"backbone": "dformer_v2_base", "tuning": "lora"},
        DFORMER | {"backbone": "dformer_v2_small", "norm": "group"},
        DFORMER | {"norm": "group", "decoder": "segformer", "decoder_options": {"channels": 8}},
    ],
    "cmx": [
        MIT,
        RESNET | {"aux": True, "norm": "group", "reduction": 2},
        MIT | {"tuning": "lora"},
    ],
    "sslvit": [SSLVIT, SSLVIT | {"tuning": "lora"}],
    "decur": [
        DECUR,
        DECUR | {"attention": True, "tuning": "norms"},
        DECUR | {"decoder": "upernet", "decoder_options": {"channels": 8, "bins": [1, 2]}},
    ],
    "croma": [CROMA, CROMA | {"features": "concat", "tuning": "lora", "aux": False}],
    "single": [RESNET, VIT | {"tuning": "prompt"}, DOFA | {"tuning": "lora"}],
    "ammfusenet": [
        AMMFUSENET,
        AMMFUSENET | {"output_stride": 8, "rates": [2, 4], "tuning": "bitfit"},
        AMMFUSENET | {"output_stride": 32, "norm": "group"},
    ],
    "early_fusion": [
        RESNET | {"tuning": "norms"},
        VIT | {"validity_channels": True},
        DOFA | {"tuning": "frozen", "validity_channels": True},
    ],
    "late_fusion": [
        RESNET,
        VIT | {"fusion": "gated", "tuning": "adapter+lora"},
        RESNET | {"fusion": "concat", "aux": True, "tuning": "bitfit"},
        DOFA,
        GALILEO | {"decoder": "segformer", "tuning": "lora"},
    ],
    "galileo": [
        GALILEO,
        GALILEO | {"fusion": "gated", "tuning": "lora"},
        GALILEO
        | {
            "fusion": "concat",
            "tuning": "prompt",
            "aux": True,
            "backbone_options": GALILEO["backbone_options"]
            | {"subtract_reference": True, "stem_channels": 4, "final_norm": False},
        },
        GALILEO
        | {
            "fusion": "sum",
            "tuning": "frozen",
            "decoder": "linear",
            "decoder_options": {},
            "backbone_options": GALILEO_UPSEG["backbone_options"]
            | {"neck": "none", "taps": [-1], "subtract_reference": True},
        },
    ],
    "mcanet": [
        MCANET,
        MCANET | {"renormalized": True, "scaled": True, "output_stride": 16, "tuning": "norms"},
        MCANET | {"attention": "none", "output_stride": 32, "norm": "group"},
    ],
    "mfnet": [
        TINY_SAM | {"tuning": "adapter"},
        TINY_SAM | {"tuning": "lora"},
        VIT | {"tuning": "dora", "decoder": "segformer"},
        RESNET | {"tuning": "full", "decoder": "unetformer"} | TINY_DECODER,
        TINY_SAM | {"tuning": "frozen", "deep_fusion": False},
        DOFA | {"tuning": "adapter"},
        GALILEO | {"tuning": "lora", "decoder": "segformer"},
    ],
    "pagnet": [
        {"variant": "mobile", "channels": 8, "key_channels": 4, "num_heads": 2},
        {"channels": 8, "key_channels": 4, "views": 2, "tuning": "norms"},
        {"variant": "mobile", "gate": "replaced", "graph": False},
    ],
    "upseg": [
        SYNERGY,
        SYNERGY_DOFA,
        SYNERGY_DOFA | {"tuning": "lora", "interact_stages": [1], "decoder": "light"},
        SYNERGY | GALILEO_UPSEG | {"tuning": "lora"},
        SYNERGY_DOFA | {"tuning": "full", "grid": "own", "wave_delta": True},
        SYNERGY
        | {"grid": "own", "prompt": {"pool": 2}, "tuning": "lora", "interact_stages": [1, 2]},
        SYNERGY
        | {"vem": {"kind": "content", "dim": 8}, "prompt": {"kind": "summary"}, "aux": False},
        SYNERGY | {"vem": {"kind": "differential", "dim": 8}, "fusion": "concat1x1"},
        SYNERGY | {"vem": {"kind": "project", "dim": 8}, "schedule": "two-pass", "tuning": "full"},
        SYNERGY | {"interact_stages": [], "fusion": "mean_unique", "gate": {"scope": "shared"}},
        SYNERGY | {"vem": {"kind": "none"}, "prompt": {"source": "self"}, "fusion": "mean"},
        SYNERGY
        | {
            "prompt": {"kind": "aligned", "hosts": ["rgb"]},
            "decoder": "segformer",
            "decoder_options": {"channels": 8},
        },
    ],
    "vsgnet": [
        STRUCTURE,
        STRUCTURE
        | {
            "backbone": {"image": "vit_tiny_patch16_224", "structure": None},
            "softmax": "plain",
            "spatial_gate": "sigmoid",
            "tokens": "raw",
            "norm": "group",
            "channels": [8, 12, 16],
            "depths": [1, 1, 1],
            "num_heads": [1, 1, 2],
            "mlp_ratios": [2, 2, 1],
        },
    ],
}
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
        segmenter.set_statistics(_statistics(segmenter.modalities))
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


def _statistics(modalities: tuple[Modality, ...]) -> dict[str, BandStatistics]:
    result = {}
    for m in modalities:
        n = len(m.bands)
        result[m.name] = BandStatistics((3.0,) * n, (2.0,) * n, (0.0,) * n, (9.0,) * n, (1,) * n)
    return result


def _images(
    modalities: tuple[Modality, ...], size: tuple[int, int], batch: int = 2, seed: int = 1
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        m.name: 3 + 2 * torch.randn(
            batch, len(m.bands), m.size_at(size[0]), m.size_at(size[1]), generator=generator
        )
        for m in modalities
    }  # fmt: skip


@each_method
@pytest.mark.parametrize("size", [(32, 32), (34, 46), (2, 70), (96, 64)])
def test_logits_have_the_shape_of_the_window(case: Case, size: tuple[int, int]) -> None:
    segmenter = case.make()
    with torch.no_grad():
        output = segmenter(_images(case.modalities, size))
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
        logits = segmenter(_images(modalities, (60, 60))).logits
    assert logits.shape == (2, K, 60, 60)
    assert logits.isfinite().all()


@each_method
def test_the_output_depends_on_every_modality(case: Case) -> None:
    segmenter = case.make()
    images = _images(case.modalities, (64, 64))
    with torch.no_grad():
        logits = segmenter(images).logits
        for m in case.modalities:
            changed = segmenter(images | {m.name: images[m.name].flip(0)}).logits
            assert (changed - logits).abs().max() > 1e-4, m.name


@each_method
def test_samples_do_not_depend_on_their_neighbours(case: Case) -> None:
    segmenter = case.make()
    images = _images(case.modalities, (64, 64), batch=3)
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
    images = _images(case.modalities, (64, 64), batch=batch)
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
    images = _images(case.modalities, (64, 64))
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
    images = _images(case.modalities, (64, 64))
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
    output = segmenter(_images(case.modalities, (64, 64), batch=batch))
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
    images = _images(case.modalities, (64, 64))
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
        statistics=_statistics(case.modalities),
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
    images = _images(case.modalities, (50, 38))
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
    images = _images(case.modalities, (64, 64))
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
