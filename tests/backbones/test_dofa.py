"""DOFA equals stored tensors of torchgeo's, and keeps what its extensions promise."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden_files import load_facts, load_tensors, part
from small_backbones import train_a_little
from terrafuse.backbones import DOFA, create_backbone, is_token_backbone, knows_modalities
from terrafuse.backbones.dofa import find_alike
from terrafuse.backbones.dofa.embedding import encode_wavelengths
from terrafuse.backbones.dofa.encoder import resize_positions, wave_positions
from terrafuse.backbones.wavelengths import SEEN_UM
from terrafuse.errors import InputShapeError, ModelError, UnknownNameError
from terrafuse.modalities import Modality
from terrafuse.tuning import apply_tuning

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2,
    "dynamic_embed_dim": 8, "neck_channels": 8,
}  # fmt: skip
RGB = (0.665, 0.56, 0.49)


@cache
def _golden() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """State, tensors of cases and settings."""
    state, cases = (load_tensors(f"dofa/p16_dyn16/{name}") for name in ("state_dict", "cases"))
    return state, cases, load_facts("dofa/index")["p16_dyn16"]


def _published(**band_sets: Any) -> DOFA:
    """The model of the golden files."""
    state, _, found = _golden()
    config = found["config"]
    sets = band_sets or {name: case["wavelengths_um"] for name, case in found["cases"].items()}
    sizes = {k: config[k] for k in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
    dofa = DOFA(
        "dofa_base_patch16", sets, neck="none", dynamic_embed_dim=config["dynamic_embed_dim"],
        repeat_single_sar=False, **sizes,
    )  # fmt: skip
    dofa.vit.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith(("fc_norm.", "head."))}
    )
    return dofa.eval()


def _tiny(band_sets: dict[str, Any] | None = None, **options: Any) -> DOFA:
    torch.manual_seed(0)
    dofa = DOFA("dofa_base_patch16", band_sets or {"rgb": RGB}, **TINY | options)
    return train_a_little(dofa)


@pytest.mark.parametrize("case", ["sar2", "opt4", "opt4_reversed", "interp"])
def test_every_golden_tensor(case: str) -> None:
    """1e-5: the same formulas in the same order."""
    state, cases, found = _golden()
    golden = part(cases, f"{case}/")
    dofa = _published()
    um = torch.tensor(found["cases"][case]["wavelengths_um"])
    width = found["config"]["dynamic_embed_dim"]
    with torch.no_grad():
        kernel, bias = dofa.kernel(case)
        patches = dofa.vit.patch_embed(golden["input"], kernel, bias)
        tokens, grid = dofa.embed(golden["input"], case)
        own = {
            "input": golden["input"],
            "wave_pe": encode_wavelengths(um, width),
            "wave_embed": dofa.vit.patch_embed.embed_wavelengths(um),
            "kernel": kernel,
            "kernel_bias": bias,
            "patch_tokens": patches.flatten(2).transpose(1, 2),
            "pos_embed": resize_positions(dofa.vit.pos_embed, grid),
            "tokens0": tokens,
        }
        for index in range(2):
            tokens = dofa.run_block(index, tokens, grid)
            own |= {f"block{index}": tokens, f"map{index}": dofa.to_map(tokens, grid)}
        norm = {k: state[f"fc_norm.{k}"] for k in ("weight", "bias")}
        own["pooled"] = F.layer_norm(tokens[:, 1:].mean(dim=1), (32,), **norm, eps=1e-6)
        own["logits"] = F.linear(own["pooled"], state["head.weight"], state["head.bias"])
        out_indices = dofa(golden["input"], case)
    golden.pop("legacy_layout_patch_tokens", None)
    assert set(golden) <= set(own)
    for name, value in golden.items():
        difference = (own[name] - value).abs() - 1e-5 * value.abs()
        assert difference.max() <= 1e-5, name
    for tap, name in zip(out_indices, ("map0", "map1"), strict=True):
        assert torch.equal(tap, own[name])


def test_kernels_belong_to_wavelengths_and_to_the_set() -> None:
    _, cases, _ = _golden()
    dofa = _published()
    with torch.no_grad():
        sar, _ = dofa.kernel("sar2")
        forwards, bias = dofa.kernel("opt4")
        backwards, other_bias = dofa.kernel("opt4_reversed")
        one, _ = _published(one=(3.75,)).kernel()
    assert torch.equal(sar[:, 0], sar[:, 1])
    torch.testing.assert_close(backwards.flip(1), forwards, atol=2e-7, rtol=0)
    torch.testing.assert_close(bias, other_bias, atol=2e-7, rtol=0)
    assert (sar[:, :1] - one).abs().max() > 1e-5, "a kernel depends on the other bands"
    # The layout of files published before September 2024 is another function.
    tokens = dofa.vit.patch_embed(cases["opt4/input"], forwards, bias)
    legacy = cases["opt4/legacy_layout_patch_tokens"]
    assert (tokens.flatten(2).transpose(1, 2) - legacy).abs().max() > 1e-2


def test_the_last_row_and_column_are_never_read() -> None:
    dofa = _tiny()
    image = torch.randn(1, 3, 32, 48)
    changed = image.clone()
    changed[..., -1, :] = 7
    changed[..., -1] = -7
    with torch.no_grad():
        tokens, _ = dofa.embed(image)
        assert torch.equal(tokens, dofa.embed(changed)[0])
        changed[..., 0, 0] = 7
        assert not torch.equal(tokens, dofa.embed(changed)[0])


def test_half_precision_keeps_the_code_of_wavelengths() -> None:
    """Of the golden README: 5e-2 for features; the kernel is not computed in half at all."""
    _, cases, _ = _golden()
    dofa = _published()
    image = cases["opt4/input"]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        kernel, _ = dofa.kernel("opt4")
        levels = dofa(image, "opt4")
    assert kernel.dtype == torch.float32
    torch.testing.assert_close(kernel, cases["opt4/kernel"], atol=1e-5, rtol=1e-5)
    pooled, golden = levels[-1].float().mean(dim=(2, 3)), cases["opt4/map1"].mean((2, 3))
    torch.testing.assert_close(pooled, golden, atol=5e-2, rtol=0)
    whole = copy.deepcopy(dofa).bfloat16()
    with torch.no_grad():
        tokens, _ = whole.embed(image.bfloat16(), "opt4")
        expected, _ = dofa.embed(image, "opt4")
    assert tokens.dtype == torch.bfloat16
    assert F.cosine_similarity(tokens.float().flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("seed", range(3))
def test_bands_may_come_in_any_order(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    um = [0.443, 0.49, 0.56, 0.665, 0.842, 1.61]
    order = torch.randperm(6, generator=generator).tolist()
    dofa = _tiny({"one": um, "other": [um[i] for i in order]}).eval()
    image = torch.randn(2, 6, 32, 32, generator=generator)
    with torch.no_grad():
        one, other = dofa(image, "one"), dofa(image[:, order], "other")
    for level, same in zip(one, other, strict=True):
        torch.testing.assert_close(level, same, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (16, 64), (48, 80), (8, 8)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    dofa = _tiny(neck="none").eval()
    with torch.no_grad():
        tokens, grid = dofa.embed(torch.randn(2, 3, *size))
        levels = dofa(torch.randn(2, 3, *size))
    assert grid == (size[0] // 8, size[1] // 8)
    assert tokens.shape == (2, 1 + grid[0] * grid[1], 16)
    assert [level.shape for level in levels] == [(2, 16, *grid)] * 3
    assert all(level.isfinite().all() for level in levels)


def test_the_pyramid_of_levels() -> None:
    dofa = _tiny().eval()
    assert (dofa.channels, dofa.strides, dofa.stride) == ((8,) * 4, (2, 4, 8, 16), 16)
    with torch.no_grad():
        levels = dofa(torch.randn(1, 3, 32, 48))
    assert [tuple(level.shape) for level in levels] == [
        (1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3),
    ]  # fmt: skip


def test_images_that_do_not_fit_are_refused() -> None:
    dofa = _tiny({"rgb": RGB, "sar": (3.75, 3.75)})
    for shape in ((1, 3, 33, 32), (1, 3, 32, 20), (1, 2, 32, 32), (3, 32, 32)):
        with pytest.raises(InputShapeError, match=r"\(N, 3, H, W\) with H and W multiples of 8"):
            dofa.embed(torch.zeros(shape), "rgb")
    with pytest.raises(ModelError, match=r"several sets of bands \(rgb, sar\); say which"):
        dofa(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UnknownNameError, match=r"unknown set of bands 'rbg'\. Did you mean 'rgb'"):
        dofa(torch.zeros(1, 3, 32, 32), "rbg")


def test_one_radar_band_is_shown_as_two() -> None:
    dofa = _tiny({"one": (3.75,), "two": (3.75, 3.75)}).eval()
    image = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        shown, _ = dofa.embed(image, "one")
        expected, _ = dofa.embed(torch.cat([image, image], dim=1) / 2**0.5, "two")
        torch.testing.assert_close(shown, expected, atol=1e-6, rtol=1e-6)
        assert dofa.kernel("one")[0].shape[1] == 2
        plain = _tiny({"one": (3.75,)}, repeat_single_sar=False).eval()
        assert plain.kernel()[0].shape[1] == 1
    # Only radar, and only alone.
    assert _tiny({"a": (0.49,), "b": (0.49, 3.75)}).repeated == set()


def test_wavelengths_are_drawn_to_those_of_pretraining() -> None:
    sets = {"gf": (0.485, 0.555, None)}
    assert _tiny(sets).band_sets == {"gf": (0.49, 0.56, None)}
    assert _tiny(sets, wavelengths="exact").band_sets == sets
    with pytest.raises(ModelError, match=r"a wavelength is 490 µm"):
        _tiny({"gf": (490,)})
    for wrong, message in (({}, "there are none"), ({"a": ()}, "set 'a' is empty")):
        with pytest.raises(ModelError, match=message):
            DOFA("dofa_base_patch16", wrong, **TINY)


def test_bands_without_wavelength_start_as_red_and_always_learn() -> None:
    torch.manual_seed(0)
    sets = {"red": (0.49, 0.665, 0.56), "height": (0.49, None, 0.56), "dsm": (None,)}
    dofa = DOFA("dofa_base_patch16", sets, **TINY)
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        same = dofa.embed(image, "height")[0] - dofa.embed(image, "red")[0]
    assert same.abs().max() < 1e-6
    assert {n: tuple(p.shape) for n, p in dofa.pseudo_bands.items()} == {
        "height": (1, 8), "dsm": (1, 8)
    }  # fmt: skip
    apply_tuning(dofa, "frozen")
    learns = {n for n, p in dofa.named_parameters() if p.requires_grad and "pyramid" not in n}
    assert learns == {"pseudo_bands.height", "pseudo_bands.dsm"} <= dofa.no_weight_decay()
    (dofa(image, "height")[0].sum() + dofa(image[:, :1], "dsm")[0].sum()).backward()
    for parameter in dofa.pseudo_bands.values():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert dofa.vit.cls_token.grad is None


def test_offsets_tell_bands_of_one_wavelength_apart() -> None:
    torch.manual_seed(0)
    sets = {"sar": (3.75, 3.75), "one": (0.49, 0.665)}
    dofa = DOFA("dofa_base_patch16", sets, wave_delta=True, **TINY)
    plain = DOFA("dofa_base_patch16", sets, **TINY)
    plain.load_state_dict(dofa.state_dict(), strict=False)
    image = torch.randn(2, 2, 32, 32)
    with torch.no_grad():
        # As published where bands differ by themselves, and the first of those that do not.
        assert torch.equal(dofa.embed(image, "one")[0], plain.embed(image, "one")[0])
        assert not dofa.wave_delta["one"].any()
        assert not dofa.wave_delta["sar"][0].any()
        tokens, published = dofa.embed(image, "sar")[0], plain.embed(image, "sar")[0]
        assert (tokens - dofa.embed(image.flip(1), "sar")[0]).abs().max() > 1e-3
        torch.testing.assert_close(published, plain.embed(image.flip(1), "sar")[0])
    apply_tuning(dofa, "frozen")
    (dofa(image, "sar")[0].sum() + dofa(image, "one")[0].sum()).backward()
    for name in ("sar", "one"):
        parameter = dofa.wave_delta[name]
        assert parameter.shape == (2, 8)
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("codes", "alike"),
    [
        ((0.49, 0.665), [False, False]),
        ((2.19, 0.865, 2.19, 2.19), [False, False, True, True]),
        ((None, 0.49, None), [False, False, True]),
        ((None, 0.665), [True, False]),  # starts as red light, and red is there
    ],
)
def test_offsets_come_by_themselves_where_bands_are_alike(
    codes: tuple[float | None, ...], alike: list[bool]
) -> None:
    assert find_alike(codes) == alike
    torch.manual_seed(0)
    known = [um for um in codes if um is not None]
    shares = len(set(known)) < len(known)
    dofa = DOFA("dofa_base_patch16", {"x": codes}, wave_delta=None, **TINY)
    assert ("x" in dofa.wave_delta) == shares
    kernel, _ = dofa.kernel("x")
    for i in range(len(codes)):
        for j in range(i):
            assert (kernel[:, i] - kernel[:, j]).abs().max() > 1e-4, (i, j)


def test_offsets_on_pretrained_weights_are_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = DOFA("dofa_base_patch16", {"x": (0.49,)}, **TINY)
    state = plain.vit.state_dict()
    torch.save(state, tmp_path / "dofa.pth")
    options = TINY | {"weights": str(tmp_path / "dofa.pth"), "wave_delta": None}
    sar = DOFA("dofa_base_patch16", {"sar": (3.75, 3.75)}, **options)
    with torch.no_grad():
        typical = (
            sar.vit.patch_embed.embed_wavelengths(torch.tensor(SEEN_UM)).square().mean().sqrt()
        )
    size = sar.wave_delta["sar"][1].detach().square().mean().sqrt()
    assert 0.03 < (size / typical).item() < 0.3


def test_everything_learns_but_fixed_positions() -> None:
    for name, fixed in (("dofa_base_patch16", True), ("dofa_v2_base_patch14", False)):
        dofa = DOFA(name, {"a": (0.49, None), "b": (None,)}, wave_delta=True, **TINY)
        apply_tuning(dofa, "full")
        image = torch.randn(1, 2, 32, 32)
        levels = [*dofa(image, "a"), *dofa(image[:, :1], "b")]
        sum(level.square().mean() for level in levels).backward()
        assert all(p.grad is not None and p.requires_grad for p in dofa.parameters())
        assert ("vit.pos_embed" not in dict(dofa.named_parameters())) == fixed
        groups = dofa.layer_groups()
        assert len(groups) == 1 + 3
        grouped = sorted(id(p) for group in groups for p in group)
        assert grouped == sorted(id(p) for p in dofa.vit.parameters())


def test_a_set_of_bands_without_wavelength_leaves_no_parameter_waiting() -> None:
    """Distributed training waits for a gradient of every parameter that learns."""
    dofa = _tiny({"dsm": (None, None)})
    sum(level.sum() for level in dofa(torch.randn(1, 2, 32, 32))).backward()
    assert all(p.grad is not None for p in dofa.parameters())


def test_version_2_has_layer_scale_patches_of_14_and_its_own_radar() -> None:
    modalities = [Modality("sar", ("VV", "VH"), "sar")]
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_embed_dim": 8, "neck": "none"}
    dofa = create_backbone("dofa_v2_base_patch14", 2, modalities=modalities, **small)
    assert isinstance(dofa, DOFA)
    assert dofa.band_sets == {"all": (5.405, 5.405)}
    assert dofa.patch_size == dofa.stride == 14
    assert dofa.vit.pos_embed.shape == (1, 1 + 16 * 16, 16)
    assert {"ls1.gamma", "ls2.gamma"} <= set(dofa.blocks[0].state_dict())
    assert dofa(torch.randn(1, 2, 28, 42))[0].shape == (1, 16, 2, 3)


def test_positions_are_waves_and_are_interpolated_as_agreed() -> None:
    table = wave_positions(8, 3)
    assert table.shape == (1, 10, 8)
    assert not table[:, 0].any()
    row, col = table[0, 1:].reshape(3, 3, 8)[1, 2].split(4)[::-1]
    for place, found in ((1, row), (2, col)):
        angles = torch.tensor([place, place / 100])
        torch.testing.assert_close(found, torch.cat([angles.sin(), angles.cos()]))
    assert resize_positions(table, (3, 3)) is table
    assert resize_positions(table, (2, 5)).shape == (1, 11, 8)


@pytest.mark.parametrize(
    ("name", "own", "total"),
    [("dofa_base_patch16", 768, 111_312_128), ("dofa_large_patch16", 1024, 337_105_408)],
)
def test_parameter_counts(name: str, own: int, total: int) -> None:
    """As counted for the published encoder, which also has a norm (2 D) before its classifier."""
    with torch.device("meta"):
        dofa = DOFA(name, {"rgb": RGB}, neck="none")
    assert sum(value.numel() for value in dofa.state_dict().values()) + 2 * own == total
    if name == "dofa_base_patch16":
        counts = {
            "blocks": sum(p.numel() for p in dofa.blocks.parameters()),
            "embedding": sum(p.numel() for p in dofa.vit.patch_embed.parameters()),
        }
        assert counts == {"blocks": 85_054_464, "embedding": 26_104_064}


def test_names_and_options() -> None:
    assert is_token_backbone("dofa_base_patch16")
    assert not knows_modalities("vit_tiny_patch16_224")
    rgb = [Modality("rgb", ("R", "G", "B"), "optical", wavelengths_um=RGB)]
    dsm = Modality("dsm", ("z",), "elevation")
    name = "dofa_small_patch16"
    dofa = create_backbone(name, 4, modalities=[*rgb, dsm], **TINY)
    assert isinstance(dofa, DOFA)
    assert dofa.band_sets == {"all": (*RGB, None)}
    each = create_backbone(name, 4, modalities=[*rgb, dsm], one_image=False, **TINY)
    assert isinstance(each, DOFA)
    assert each.band_sets == {"rgb": RGB, "dsm": (None,)}
    for wrong, message in (
        ({"tap": [1]}, r"unknown option 'tap'|option of backbone 'dofa_small_patch16' 'tap'"),
        ({"out_indices": [12]}, "allowed are one or more blocks from 0 to 11"),
        ({"embed_dim": 18, "num_heads": 4}, "embed_dim must be a multiple"),
        ({"dynamic_embed_dim": 6}, "dynamic_embed_dim of 4"),
        ({"img_size": 100}, "img_size a multiple"),
    ):
        with pytest.raises(ModelError, match=message):
            create_backbone(name, 3, modalities=rgb, **wrong)
    with pytest.raises(ModelError, match="give the modalities of the image"):
        create_backbone(name, 3)
    with pytest.raises(ModelError, match=r"would get 5 channels, but rgb have 3 bands"):
        create_backbone(name, 5, modalities=rgb)
    for call in (lambda: create_backbone("dofa_bas", 3), lambda: is_token_backbone("dofa_bas")):
        with pytest.raises(UnknownNameError, match=r"unknown backbone 'dofa_bas'\. Did you mean"):
            call()


class Kept(nn.Module):
    """Counts how often kernels are made."""

    def __init__(self, dofa: DOFA) -> None:
        super().__init__()
        self.dofa, self.made = dofa, 0
        dofa.vit.patch_embed.weight_generator.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.made += 1

    def after(self, call: Any, grad: bool = False) -> int:
        """Kernels made by a call."""
        before = self.made
        with torch.set_grad_enabled(grad):
            call()
        return self.made - before


def test_kernels_are_kept_while_they_cannot_change() -> None:
    dofa = _tiny({"rgb": RGB, "dsm": (None,)})
    apply_tuning(dofa, "frozen")
    counter = Kept(dofa)
    rgb, dsm = torch.randn(1, 3, 32, 32), torch.randn(1, 1, 32, 32)
    dofa.train()
    fresh = dofa._make_kernel("rgb")
    counter.made = 0
    assert counter.after(lambda: dofa(rgb, "rgb"), grad=True) == 1
    assert counter.after(lambda: dofa(rgb, "rgb"), grad=True) == 0
    for kept, own in zip(dofa.kernel("rgb"), fresh, strict=True):
        assert torch.equal(kept, own)
        assert not kept.requires_grad
    # Something that learns takes part: made at every step, kept for prediction.
    assert counter.after(lambda: dofa(dsm, "dsm"), grad=True) == 1
    assert counter.after(lambda: dofa(dsm, "dsm"), grad=True) == 1
    dofa.eval()
    assert counter.after(lambda: dofa(dsm, "dsm")) == 1
    assert counter.after(lambda: dofa(dsm, "dsm")) == 0
    with torch.no_grad():
        dofa.pseudo_bands["dsm"].mul_(2)
    assert counter.after(lambda: dofa(dsm, "dsm")) == 1
    assert torch.equal(dofa.kernel("dsm")[0], dofa._make_kernel("dsm")[0])


@pytest.mark.parametrize("assign", [False, True])
def test_kept_kernels_follow_the_weights(assign: bool) -> None:
    dofa, other = _tiny(), _tiny()
    train_a_little(other)
    image = torch.randn(1, 3, 32, 32)
    dofa.eval()
    other.eval()
    with torch.no_grad():
        before = dofa(image)[0]
        expected = other(image)[0]
        dofa.load_state_dict(other.state_dict(), assign=assign)
        assert torch.equal(dofa(image)[0], expected)
        assert not torch.equal(before, expected)
        double = copy.deepcopy(dofa).double()
        assert double.kernel()[0].dtype == torch.float64
        assert dofa.kernel()[0].dtype == torch.float32
        # As averaged weights are swapped in: in place, unseen by the tensors.
        parameter = dofa.vit.patch_embed.weight_generator.fc_weight.weight
        parameter.data.mul_(2)
        dofa.train().eval()
        assert torch.equal(dofa.kernel()[0], dofa._make_kernel("rgb")[0])


def test_what_was_kept_in_prediction_serves_training() -> None:
    dofa = _tiny()
    apply_tuning(dofa, "frozen")
    image = torch.randn(1, 3, 32, 32, requires_grad=True)
    with torch.inference_mode():
        dofa(image)
    dofa(image)[0].sum().backward()
    assert image.grad is not None


def test_frozen_or_not_the_output_is_the_same_to_the_bit() -> None:
    dofa = _tiny({"rgb": RGB, "dsm": (None,)}).eval()
    image = torch.randn(2, 3, 32, 32)
    learning = dofa(image, "rgb")
    with torch.no_grad():
        predicting = dofa(image, "rgb")
    apply_tuning(dofa, "frozen")
    for one, two, three in zip(learning, predicting, dofa(image, "rgb"), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.parametrize("tuning", [None, "prompt", "lora", "adapter"])
def test_blocks_take_tunings_and_checkpointing(tuning: str | None) -> None:
    dofa = _tiny()
    apply_tuning(dofa, tuning, 2)
    saving = copy.deepcopy(dofa)
    saving.gradient_checkpointing = True
    image = torch.randn(4, 3, 32, 48)
    found = []
    for one in (dofa, saving):
        loss = sum(level.sin().mean() for level in one.train()(image))
        assert isinstance(loss, Tensor)
        loss.backward()
        found.append((loss, {n: p.grad for n, p in one.named_parameters() if p.grad is not None}))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1].keys() == found[1][1].keys() != set()
    assert found[0][1].keys() >= dofa.added
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, rtol=1e-5, atol=1e-7)
