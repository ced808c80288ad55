"""Files of other programs: what is recognised, what is said, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from terrafuse.backbones import create_backbone
from terrafuse.classes import ClassScheme
from terrafuse.contract.inputs import statistics_of
from terrafuse.errors import UnknownNameError, WeightsError, WeightsMismatchError
from terrafuse.methods import create_segmenter, describe_run, load_segmenter
from terrafuse.modalities import Modality
from terrafuse.weights import (
    load_strict,
    read_foreign,
    read_run_info,
    read_weights,
    save_model,
)

RGB = Modality("rgb", ("r", "g", "b"), kind="optical")
SIZES: dict[str, Any] = {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
WANTED = ["conv.weight", "model.bias"]


def values() -> dict[str, Tensor]:
    return {"conv.weight": torch.tensor([1.0, 2.0]), "model.bias": torch.tensor([3.0])}


def resnet(seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return timm.create_model("resnet18", num_classes=7, **SIZES).state_dict()


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def stored(folder: Path, content: dict[str, Any], name: str = "w.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "backbone.", "encoder.", "ema.",
               "module._orig_mod.", "model.encoder.model."]
)  # fmt: skip
def test_names_lie_under_a_prefix(prefix: str, tmp_path: Path) -> None:
    """The name 'model.bias' begins with a prefix, and keeps it."""
    read = read_foreign(stored(tmp_path, under(prefix, values())), WANTED)
    assert read.values.keys() == set(WANTED)
    assert read.values["model.bias"].tolist() == [3.0]
    assert read.note == (f"names under '{prefix}'" if prefix else "")


def test_prefixes_inside_a_name_stay(tmp_path: Path) -> None:
    state = {"a.module.weight": torch.ones(1), "modular.weight": torch.ones(1)}
    read = read_foreign(stored(tmp_path, under("module.", state)), list(state))
    assert read.values.keys() == state.keys()


def test_what_lies_beside_the_prefix_is_counted(tmp_path: Path) -> None:
    others = {"model.decoder.w": torch.ones(1), "n": torch.ones(1)}
    state = under("model.encoder.", values()) | others
    read = read_foreign(stored(tmp_path, {"state_dict": state, "epoch": 3}), WANTED)
    assert read.values.keys() == set(WANTED)
    assert read.note == "names under 'model.encoder.', 2 others left out"


def test_one_name_does_not_make_a_prefix(tmp_path: Path) -> None:
    """Where few wanted names lie under a prefix, the names stay, for the message on what misses."""
    state = {"model.a": torch.ones(1), "b": torch.ones(1)}
    read = read_foreign(stored(tmp_path, state), ["a", "x", "y", "z"])
    assert read.values.keys() == state.keys()
    assert read.note == ""


def test_an_average_is_preferred(tmp_path: Path) -> None:
    mean = {name: value * 10 for name, value in values().items()}
    one = under("model.", values()) | under("model_ema.module.", mean)
    read = read_foreign(stored(tmp_path, one), WANTED)
    assert read.values["conv.weight"].tolist() == [10.0, 20.0]
    assert read.note == "names under 'model_ema.module.', 2 others left out"
    for key in ("state_dict_ema", "model_ema"):
        two = {"state_dict": values(), key: {"module": mean}, "epoch": 1}
        read = read_foreign(stored(tmp_path, two), WANTED)
        assert read.values["conv.weight"].tolist() == [10.0, 20.0]
        assert read.note == f"averaged weights '{key}'"


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    content["model"] = content
    assert read_weights(stored(tmp_path, content)).keys() == {"w"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({n: v.to(dtype) for n, v in values().items()} | {"steps": torch.tensor(3)}, path)
    read = read_foreign(path, WANTED)
    assert {v.dtype for v in read.values.values()} == {torch.float32, torch.int64}
    assert read.note == f"{str(dtype).removeprefix('torch.')} read as float32"


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    state = {n: v for n, v in resnet().items() if not n.endswith("num_batches_tracked")}
    backbone = create_backbone("resnet18", 3, weights=str(stored(tmp_path, state)), **SIZES)
    assert torch.equal(backbone.get_buffer("stem.bn1.running_mean"), state["bn1.running_mean"])
    state.pop("bn1.running_mean")
    with pytest.raises(WeightsMismatchError, match=r"missing: stem\.bn1\.running_mean\. "):
        create_backbone("resnet18", 3, weights=str(stored(tmp_path, state)), **SIZES)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float, tmp_path: Path) -> None:
    state = resnet()
    state["fc.weight"][0, 0] = bad  # not used here
    create_backbone("resnet18", 3, weights=str(stored(tmp_path, state)), **SIZES)
    state["layer1.0.conv2.weight"][0, 0, 1, 1] = bad
    with pytest.raises(WeightsError, match=r"infinite: .*layer1.*conv2\.weight \(1 of 144\)"):
        create_backbone("resnet18", 3, weights=str(stored(tmp_path, state)), **SIZES)


def test_whole_numbers_are_no_weights() -> None:
    module = nn.Linear(2, 3)
    state = {"weight": torch.ones(3, 2, dtype=torch.int8), "bias": torch.ones(3)}
    with pytest.raises(WeightsMismatchError, match="kind of number: weight is int8, expected"):
        load_strict(module, state, where="weights 'w'")


def test_tensors_without_values_are_refused(tmp_path: Path) -> None:
    sparse = {"w": torch.eye(3).to_sparse()}
    with pytest.raises(WeightsError, match=r"without plain values .*: w\. Save"):
        read_weights(stored(tmp_path, sparse))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46827520\n"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n<!DOCTYPE html><html>", "is a web page, not a file of weights.*'/resolve/'"),
        (b"<HTML><head>", "is a web page"),
        (LFS, "is a pointer of Git LFS.*'git lfs pull'"),
        (b'{"error": "Repository not found"}', r"is a text \(JSON\)"),
        (b"\x89HDF\r\n\x1a\n", r"HDF5 file \(Keras\)"),
        (b"PK\x03\x04broken", r"truncated \(10 bytes\)"),
        (b"", "it is empty"),
        (b"\x80\x02garbage", "cannot be read as weights|is not a checkpoint"),
    ],
)
def test_what_is_no_file_of_weights(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"w\{suffix}' .*({message})"):
        read_weights(path)


def test_archives_that_are_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "folder.pth", "w") as archive:
        archive.writestr("weights/model.safetensors", b"abc")
    with pytest.raises(WeightsError, match=r"zip archive \(weights/model\.safetensors\)"):
        read_weights(tmp_path / "folder.pth")
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("m/constants.pkl", b"abc")
        archive.writestr("m/data.pkl", b"abc")
    with pytest.raises(WeightsError, match="is a TorchScript program"):
        read_weights(tmp_path / "program.pt")
    whole = stored(tmp_path, values()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"cut\.pth' .* it is truncated"):
        read_weights(tmp_path / "cut.pth")


def test_a_suffix_does_not_hide_the_format(tmp_path: Path) -> None:
    save_file(values(), tmp_path / "w.bin")
    torch.save(values(), tmp_path / "w.safetensors")
    for name in ("w.bin", "w.safetensors"):
        assert read_weights(tmp_path / name)["conv.weight"].tolist() == [1, 2]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, values())

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    ours = Path.open

    def open_others(file: Path, *given: Any) -> Any:
        return refuse() if file == path else ours(file, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_others)
        with pytest.raises(WeightsError, match=r"may not be read by you \(permission") as caught:
            read_weights(path)
        assert "truncated" not in str(caught.value)
        assert read_weights(stored(tmp_path, values(), "copy.pth")).keys() == values().keys()
    assert read_weights(path).keys() == values().keys()  # with other permissions


def test_a_checkpoint_of_another_framework_is_a_backbone(tmp_path: Path) -> None:
    """A U-Net of segmentation_models_pytorch trained by Lightning, with a ResNet in it."""
    encoder = {n: v for n, v in resnet().items() if not n.startswith("fc.")}
    whole = under("model.encoder.", encoder) | {"model.decoder.blocks.0.weight": torch.ones(3)}
    path = stored(tmp_path, {"state_dict": whole, "pytorch-lightning_version": "2.4"}, "u.ckpt")
    backbone = create_backbone("resnet18", 3, weights=str(path), **SIZES)
    plain = create_backbone("resnet18", 3, weights=str(stored(tmp_path, resnet())), **SIZES)
    for name, value in plain.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    assert backbone.pretrained is not None
    assert backbone.pretrained.note == "names under 'model.encoder.', 1 others left out"


def test_a_run_folder_records_what_was_recognised(tmp_path: Path) -> None:
    path = stored(tmp_path, under("module.", {n: v.half() for n, v in resnet().items()}))
    options = {"backbone": "resnet18", "backbone_options": SIZES, "weights": str(path)}
    segmenter = create_segmenter("single", [RGB], 2, options)
    info = describe_run(
        segmenter, scheme=ClassScheme(("a", "b")), statistics=statistics_of([RGB]), crop_size=64,
        overlap=0,
    )  # fmt: skip
    save_model(tmp_path / "run", segmenter.state_dict(), info)
    (base,) = read_run_info(tmp_path / "run").base_weights
    assert base["note"] == "names under 'module.'; float16 read as float32"
    load_segmenter(tmp_path / "run")


def test_timms_names_of_features_are_known(tmp_path: Path) -> None:
    """As segmentation_models_pytorch has them for its encoders 'tu-…'."""
    small = {"dims": [4, 6, 8, 10], "depths": [1, 1, 2, 1]}
    torch.manual_seed(1)
    net = timm.create_model("convnext_atto", features_only=True, **small)
    assert "stages_2.blocks.1.norm.weight" in net.state_dict()
    path = stored(tmp_path, under("encoder.model.", net.state_dict()))
    backbone = create_backbone("convnext_atto", 3, weights=str(path), **small)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = net.eval()(image)
        for level, other in zip(backbone.eval()(image), expected, strict=True):
            torch.testing.assert_close(level, other)


#: Of the first two stages of an EfficientNet: timm's name → that of efficientnet_pytorch.
OTHER_NAMES = {
    "conv_stem.weight": "_conv_stem.weight",
    "bn1.running_var": "_bn0.running_var",
    "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
    "blocks.0.0.bn1.bias": "_blocks.0._bn1.bias",
    "blocks.0.0.se.conv_reduce.bias": "_blocks.0._se_reduce.bias",
    "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
    "blocks.0.0.bn2.bias": "_blocks.0._bn2.bias",
    "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
    "blocks.1.0.bn1.weight": "_blocks.1._bn0.weight",
    "blocks.1.0.conv_dw.weight": "_blocks.1._depthwise_conv.weight",
    "blocks.1.0.bn2.weight": "_blocks.1._bn1.weight",
    "blocks.1.0.se.conv_expand.weight": "_blocks.1._se_expand.weight",
    "blocks.1.0.conv_pwl.weight": "_blocks.1._project_conv.weight",
    "blocks.1.0.bn3.weight": "_blocks.1._bn2.weight",
    "blocks.1.1.conv_pw.weight": "_blocks.2._expand_conv.weight",
    "blocks.6.0.bn3.bias": "_blocks.15._bn2.bias",
    "conv_head.weight": "_conv_head.weight",
    "bn2.weight": "_bn1.weight",
    "classifier.weight": "_fc.weight",
}


def of_efficientnet_pytorch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of the table above, for all blocks."""
    order = sorted({tuple(map(int, n.split(".")[1:3])) for n in state if n.startswith("blocks.")})
    around = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
              "classifier": "_fc"}  # fmt: skip
    both = {"conv_dw": "_depthwise_conv", "se.conv_reduce": "_se_reduce",
            "se.conv_expand": "_se_expand"}  # fmt: skip
    plain = both | {"bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    wide = both | {"conv_pw": "_expand_conv", "bn1": "_bn0", "bn2": "_bn1",
                   "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
    found = {}
    for name, value in state.items():
        words = name.split(".")
        if words[0] != "blocks":
            found[".".join([around[words[0]], *words[1:]])] = value
            continue
        stage, index = int(words[1]), int(words[2])
        names = plain if stage == 0 else wide
        part = names[".".join(words[3:-1])]
        found[f"_blocks.{order.index((stage, index))}.{part}.{words[-1]}"] = value
    return found


def test_efficientnets_of_other_names_are_timms(tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = timm.create_model("tf_efficientnet_b0", num_classes=3)
    state = model.state_dict()
    theirs = of_efficientnet_pytorch(state)
    for ours, other in OTHER_NAMES.items():
        assert torch.equal(theirs[other], state[ours]), other
    path = stored(tmp_path, under("encoder.", theirs) | {"decoder.w": torch.ones(1)})
    backbone = create_backbone("tf_efficientnet_b0", 3, weights=str(path)).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().forward_intermediates(image, intermediates_only=True)
        torch.testing.assert_close(backbone(image)[-1], expected[-1])
    with pytest.raises(
        WeightsMismatchError, match=r"names of efficientnet_pytorch.*'efficientnet_b0'\. Choose"
    ):
        create_backbone("efficientnet_b0", 3, weights=str(path))


def test_names_of_torchvision_are_said(tmp_path: Path) -> None:
    small: dict[str, Any] = {"dims": [4, 6, 8, 10], "depths": [1, 1, 2, 1]}
    for name in (
        "features.0.0.weight",
        "encoder.layers.encoder_layer_0.ln_1.weight",
        "trunk_output.block1.block1-0.proj.0.weight",
    ):
        path = stored(tmp_path, {name: torch.ones(4, 3, 4, 4)})
        with pytest.raises(
            WeightsMismatchError,
            match=rf"names of torchvision \('{name}'\), of which only ResNets are .* Use timm's",
        ):
            create_backbone("convnext_atto", 3, weights=str(path), **small)
    path = stored(tmp_path, timm.create_model("convnext_atto", **small).state_dict(), "timm.pth")
    create_backbone("convnext_atto", 3, weights=str(path), **small)
    create_backbone("resnet18", 3, weights=str(stored(tmp_path, resnet())), **SIZES)


@pytest.mark.parametrize(
    "option", ["pretrained", "checkpoint_path", "features_only", "pretrained_cfg", "in_chans",
               "pretrained_cfg_overlay", "num_classes", "cache_dir", "out_indicse", "block_fn"]
)  # fmt: skip
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "hrnet_w18_small"])
def test_timm_gets_only_sizes_and_rates(name: str, option: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"unknown option of backbone '{name}' '{option}'"):
        create_backbone(name, 3, **{option: "x"})


def test_the_nearest_option_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'drop_path_rate'"):
        create_backbone("resnet18", 3, drop_path_rat=0.1)
