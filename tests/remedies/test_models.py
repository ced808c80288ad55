"""Methods, backbones, tunings and objectives that cannot be built: what the message says, done.

Names with a star stand for families; one of each is built, small.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import yaml

from remedies import refused, warned
from small_backbones import BACKBONES, image_for, make
from small_methods import SMALL
from terrafuse.backbones import create_backbone
from terrafuse.backbones.galileo import Galileo
from terrafuse.config.base import parse_settings
from terrafuse.config.pretrain import PretrainConfig
from terrafuse.decoders.global_local import GlobalLocalAttention
from terrafuse.fusion.guided import PooledQueryAttention
from terrafuse.methods import create_segmenter
from terrafuse.methods.decur.model import _join_levels
from terrafuse.methods.dformer.geometry import GeometryAttention
from terrafuse.methods.late_fusion import _project
from terrafuse.modalities import BandStatistics, Modality
from terrafuse.pretraining import create_pretrainer
from terrafuse.tuning import apply_tuning

RGB = Modality("rgb", ("r", "g", "b"), "optical", wavelengths_um=(0.665, 0.56, 0.49))
SAR = Modality("sar", ("vv", "vh"), "sar")
GREY = Modality("sam", ("segments",), "structure")

VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}
RESNET = {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
#: What stands for a family: a name and small options.
FAMILY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_*": ("vit_tiny_patch16_224", VIT),
    "deit_*": ("deit_tiny_patch16_224", VIT),
    "vit_*_dinov2": ("vit_small_patch14_reg4_dinov2", VIT | {"img_size": 56}),
    "samvit_*": BACKBONES["samvit"],
    "swin*": BACKBONES["swin"],
    "convnext*": BACKBONES["convnext"],
    "convnext_tiny": BACKBONES["convnext"],
    "pvt_v2_*": BACKBONES["pvt"],
    "resnet*": ("resnet18", RESNET),
    "efficientnet*": ("efficientnet_b0", {}),
    "dofa_*": ("dofa_base_patch16", VIT | {"dynamic_embed_dim": 8}),
    "mit_b0": ("mit_b0", {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]}),
    "mit_b5": ("mit_b5", {"channels": [8, 8, 10, 16], "depths": [1, 1, 1, 1]}),
}


def families(text: str) -> list[str]:
    """The names with stars, and others of the table, in what a message lists."""
    found = [name for name in FAMILY if re.search(rf"(?<![\w*]){re.escape(name)}(?![\w*])", text)]
    assert found, text
    return found


def build(method: str, options: dict[str, Any], *modalities: Modality) -> Any:
    return create_segmenter(method, modalities or (RGB, SAR), 2, options)


def build_families(method: str, options: dict[str, Any], names: list[str]) -> None:
    for family in names:
        name, small = FAMILY[family]
        build(method, options | {"backbone": name, "backbone_options": small})


def small(method: str) -> dict[str, Any]:
    return dict(SMALL[method][0])


# Methods


def test_cmx() -> None:
    options = small("cmx")
    with refused(
        "methods.cmx:_check_pyramid | Choose mit_b0 to mit_b5, swin*, convnext* or"
    ) as error:
        build("cmx", options | {"backbone": "vit_tiny_patch16_224", "backbone_options": VIT})
    build_families(
        "cmx", {k: v for k, v in options.items() if k[:8] != "backbone"}, families(error.text)
    )
    with refused(
        "methods.cmx:FeatureFusion.__init__ | choose fusion_heads that divide the channels"
    ):
        build("cmx", options | {"fusion_heads": [3, 1, 1, 1]})
    build("cmx", options | {"fusion_heads": [4, 2, 5, 4]})


def test_decur() -> None:
    options = small("decur")
    with refused("methods.decur.model:_build_branch | Choose resnet50 or another pyramid"):
        build("decur", {"backbone": "vit_tiny_patch16_224", "backbone_options": VIT})
    build("decur", options | {"backbone": "resnet50"})
    build("decur", options | {"backbone": "resnet18"})
    dense = make("resnet", output_stride=8)
    with refused("methods.decur.model:_join_levels | choose backbones of equal strides"):
        _join_levels([make("resnet"), dense])  # type: ignore[list-item]
    _join_levels([dense, dense])  # type: ignore[list-item]


def test_levels_of_late_fusion() -> None:
    options = VIT | {"neck": "map", "neck_channels": 8}
    one = create_backbone("vit_tiny_patch16_224", 3, **options)
    with refused("methods.late_fusion:_project | choose backbones with equally many levels"):
        _project(one, make("resnet"), "sar")
    _project(make("convnext"), make("resnet"), "sar")


def test_mcanet() -> None:
    options = small("mcanet")
    one = {
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": VIT | {"neck": "map"},
        "output_stride": 32,
    }
    with refused("methods.mcanet:MCANet.__init__ | or backbone option neck 'pyramid'") as error:
        build("mcanet", options | one)
    rest = {k: v for k, v in options.items() if k[:8] != "backbone"} | {"output_stride": 32}
    build_families("mcanet", rest, families(error.text))
    build(
        "mcanet",
        options | one | {"backbone_options": VIT | {"neck": "pyramid", "out_indices": [0, 1]}},
    )


def test_mfnet() -> None:
    options = small("mfnet")
    wrong = {
        "backbone": "resnet18",
        "backbone_options": RESNET,
        "tuning": None,
        "deep_fusion": False,
    }
    with refused(
        "methods.mfnet:_check_one_map | with neck 'map', or leave deep_fusion on"
    ) as error:
        build("mfnet", options | wrong)
    for family in families(error.text):
        name, own = FAMILY[family]
        own = own | {"neck": "map", "neck_channels": 8}
        build("mfnet", options | wrong | {"backbone": name, "backbone_options": own})
    build("mfnet", options | wrong | {"deep_fusion": True})


def test_sslvit() -> None:
    with refused(
        "methods.sslvit:_build_branch | Choose swin_tiny_patch4_window7_224 or another"
    ) as error:
        build("sslvit", {"backbone": "resnet18"})
    for name in (error.find(r"Choose (\w+) or"), "swin_small_patch4_window7_224"):
        build("sslvit", small("sslvit") | {"backbone": name})


UPSEG = {
    "vem": {"dim": 8, "heads": 2}, "decoder": "upernet", "neck_channels": 8,
    "decoder_options": {"channels": 8, "bins": [1]},
}  # fmt: skip
FOUR = VIT | {"depth": 4}


def upseg(name: str, own: dict[str, Any], **more: Any) -> Any:
    return build("upseg", UPSEG | {"backbone": name, "backbone_options": own} | more)


def test_prompts_of_upseg() -> None:
    sam = ("samvit_base_patch16", VIT | {"depth": 4, "window_size": 3, "global_attn_indexes": [1]})
    with refused("methods.upseg.streams:_heads_of | or interact_stages: []") as error:
        upseg(*sam)
    for family in families(error.text):
        name, own = FAMILY[family]
        upseg(name, own | {"depth": 4})
    for text in (
        error.find(r"(prompt: \{kind: aligned\})"),
        error.find(r"(interact_stages: \[\])"),
    ):
        upseg(*sam, **yaml.safe_load(text))
    with refused("methods.upseg.streams:GuidedStreams._check | Set vem: {kind: none}") as error:
        upseg("vit_tiny_patch16_224", FOUR, prompt={"source": "self"})
    change = yaml.safe_load(error.find(r"Set (vem: \{kind: none\})"))
    upseg("vit_tiny_patch16_224", FOUR, prompt={"source": "self"}, **change)


def test_blocks_that_prompts_would_skip_parts_of() -> None:
    """A plain block with a part of its own: none of timm's that are plain otherwise has one."""
    from terrafuse.methods.upseg.attention import check_block

    block = create_backbone("vit_tiny_patch16_224", 3, **VIT).vit.blocks[0]  # type: ignore[union-attr, index]
    block.gate = torch.nn.Identity()
    with refused("methods.upseg.attention:check_block | or leave out the interaction") as error:
        check_block(block, "mine")
    for family in families(error.text):
        name, own = FAMILY[family]
        check_block(create_backbone(name, 3, **own).vit.blocks[0], name)  # type: ignore[union-attr, index]
    upseg(
        "vit_tiny_patch16_224", FOUR, **yaml.safe_load(error.find(r"\((interact_stages: \[\])\)"))
    )


def test_options_of_upseg() -> None:
    with refused(
        "methods.upseg.model:_build_encoder | the method's option neck_channels sets the"
    ) as e:
        upseg("vit_tiny_patch16_224", FOUR | {"neck_channels": 4})
    assert e.find("leave '(.*?)' out") == "neck_channels"
    segmenter = upseg("vit_tiny_patch16_224", FOUR, neck_channels=12)
    assert any(p.shape[0] == 12 for p in segmenter.parameters())
    with refused("methods.upseg.model:_check_wave_delta | Leave it out, or choose") as error:
        upseg("vit_tiny_patch16_224", FOUR, wave_delta=True)
    upseg("vit_tiny_patch16_224", FOUR)
    waves = Modality("nir", ("nir",), "optical", wavelengths_um=(0.8,))
    options = UPSEG | {"backbone": error.find(r"or choose (\w+)"), "wave_delta": True,
                       "backbone_options": FOUR | {"dynamic_embed_dim": 8}}  # fmt: skip
    build("upseg", options, RGB, waves)


def test_vsgnet() -> None:
    options = small("vsgnet")

    def structure(*modalities: Modality, **more: Any) -> Any:
        return build("vsgnet", options | more, *modalities)

    with refused("methods.vsgnet.model:_check_modalities | Generate the second from the first:"):
        structure(RGB)
    structure(RGB, GREY)  # how it is generated is run in tests/generate
    with refused("methods.vsgnet.model:_check_modalities | Begin data.modalities with '") as error:
        structure(GREY, RGB)
    assert error.find("Begin data.modalities with '(.*?)'") == "rgb"
    with refused("methods.vsgnet.vision:build_vision | or null to do without") as error:
        structure(RGB, GREY, backbone="resnet18", backbone_options=None)
    for family in families(error.text):
        name, own = FAMILY[family]
        own = own | {"embed_dim": 64}
        structure(
            RGB,
            GREY,
            backbone=name,
            backbone_options={k: v for k, v in own.items() if k != "neck_channels"},
        )
    structure(RGB, GREY, backbone=None, backbone_options=None)
    own = options["backbone_options"]
    with refused("methods.vsgnet.vision:build_vision | out of backbone_options") as error:
        structure(RGB, GREY, backbone_options=own | {"out_indices": [0]})
    assert error.find("leave '(.*?)' out") == "out_indices"
    with refused("methods.vsgnet.blocks:_check_scales | give one per scale"):
        structure(RGB, GREY, channels=[8])
    with refused("fusion.guided:PooledQueryAttention.__init__ | of which twice as many divide the"):
        structure(RGB, GREY, num_heads=[3, 2])
    structure(RGB, GREY, num_heads=[4, 2])


def test_structure_that_is_absent() -> None:
    segmenter = build("vsgnet", small("vsgnet"), RGB, GREY).eval()
    images = {"rgb": torch.rand(1, 3, 56, 56), "sam": torch.full((1, 1, 56, 56), torch.nan)}
    with refused("methods.vsgnet.model:VSGNet._needs_all | Generate structure with"):
        segmenter(images)
    segmenter(images | {"sam": torch.rand(1, 1, 56, 56)})


def test_heads_and_channels() -> None:
    with refused(
        "decoders.global_local:GlobalLocalAttention.__init__ | choose a divisor of"
    ) as error:
        GlobalLocalAttention(12, num_heads=5)
    assert error.find(r"divisor of (\d+)") == "12"
    GlobalLocalAttention(12, num_heads=6)
    with refused("methods.dformer.geometry:GeometryAttention.__init__ | whose double divides the"):
        GeometryAttention(12, 4, split=False)
    GeometryAttention(12, 3, split=False)
    PooledQueryAttention(12, 4, 3)


def test_weights_by_name() -> None:
    with refused("methods.dformer.model:DFormer._start | or leave 'weights' out"):
        build("dformer", small("dformer") | {"weights": "timm"})
    build("dformer", small("dformer"))


# Backbones


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("hiera_tiny_224", "backbones.timm.pyramid:_any_size_options | Choose one that takes any:"),
        ("legacy_xception", "backbones.timm.pyramid:_modules_in_order | Choose another: resnet*"),
    ],
)
def test_backbones_of_another_form(name: str, place: str) -> None:
    with refused(place) as error:
        create_backbone(name, 3)
    for family in families(error.text):
        name, own = FAMILY[family]
        create_backbone(name, 3, **own)(torch.rand(1, 3, 64, 96))


def test_running_statistics_and_checkpointing() -> None:
    def run(family: str, *, checkpointing: bool = True, tuning: str | None = None) -> None:
        name, own = FAMILY[family]
        backbone = create_backbone(name, 3, **own)
        apply_tuning(backbone, tuning)
        backbone.gradient_checkpointing = checkpointing
        backbone.train()(image_for(backbone, 2))

    name = "backbones.base:Backbone._check_checkpointing | Leave it out, freeze the backbone, or"
    with refused(name) as error:
        run("resnet*")
    run("resnet*", checkpointing=False)
    run("resnet*", tuning="frozen")
    for family in families(error.text):
        run(family)


def test_levels_of_a_neck() -> None:
    options = VIT | {"depth": 5}
    with refused("backbones.necks:_create_pyramid | choose fewer, or neck 'none'") as error:
        create_backbone(
            "vit_tiny_patch16_224", 3, neck="pyramid", out_indices=[0, 1, 2, 3, 4], **options
        )
    most = int(error.find(r"takes 1 to (\d) out_indices"))
    create_backbone("vit_tiny_patch16_224", 3, neck="pyramid", out_indices=range(most), **options)
    create_backbone("vit_tiny_patch16_224", 3, neck="none", out_indices=[0, 1, 2, 3, 4], **options)


def test_wavelengths() -> None:
    from terrafuse.backbones.wavelengths import snap_wavelength

    with refused(
        "backbones.wavelengths:snap_wavelength | Give micrometres (490 nm are 0.49)"
    ) as error:
        snap_wavelength(490)
    snap_wavelength(float(error.find(r"490 nm are ([\d.]+)\)")))
    options = {"backbone": "dofa_base_patch16", "decoder": "linear",
               "backbone_options": VIT | {"dynamic_embed_dim": 8}}  # fmt: skip
    with refused(
        "backbones.wavelengths:band_codes | Add wavelengths_um, in micrometres, to the"
    ) as error:
        build("single", options, Modality("m", ("B4", "B3", "B2"), "optical"))
    waves = tuple(yaml.safe_load(error.find(r"B4, B3, B2: (\[.*?\])\)")))
    build("single", options, Modality("m", ("B4", "B3", "B2"), "optical", wavelengths_um=waves))
    from terrafuse.backbones.wavelengths import SENSORS

    assert SENSORS


def test_bands_that_must_be_known() -> None:
    with refused("backbones.family:Request.known_modalities | give the modalities of the image"):
        create_backbone("dofa_base_patch16", 3, **FAMILY["dofa_*"][1])
    create_backbone("dofa_base_patch16", 3, modalities=[RGB], **FAMILY["dofa_*"][1])


# Galileo, which holds rasters to what it was pre-trained on

GALILEO = {"embed_dim": 16, "depth": 2, "num_heads": 2, "neck_channels": 8, "patch_size": 8}


def galileo(
    modality: Modality, low: float | None = None, high: float = 0.0, **options: Any
) -> None:
    backbone = Galileo("galileo_nano", len(modality.bands), (modality,), **GALILEO | options)
    if low is not None:
        n = len(modality.bands)
        rows = ((v,) * n for v in ((low + high) / 2, (high - low) / 4, low, high, 1000))
        backbone.set_statistics({modality.name: BandStatistics(*rows)})


def test_names_that_galileo_knows() -> None:
    with refused(
        "backbones.galileo.inputs:plan_bands | or leave them out with 'read_bands'"
    ) as error:
        galileo(Modality("s2", ("band_1", "B4"), "optical"))
    text = error.find(r"It reads (.*?)\. Name")
    assert {"VV", "VH", "B2", "B02", "blue", "B12", "dem", "height", "slope"} <= set(
        re.findall(r"\w+", text)
    )
    for names in (("B2", "B4"), ("B02", "B4"), ("blue", "B12"), ("B4",)):
        galileo(Modality("s2", names, "optical"))
    for names, kind in (
        (("VV", "VH"), "sar"),
        (("dem", "slope"), "elevation"),
        (("height",), "elevation"),
    ):
        galileo(Modality("m", names, kind))  # type: ignore[arg-type]
    with refused("backbones.galileo.inputs:plan_bands | leave the modality out"):
        galileo(Modality("s2", ("B01", "B10"), "optical"))


TOO_DARK = "backbones.galileo.reading:_too_dark | and they are multiplied"
NOT_0_TO_1 = "backbones.galileo.reading:_check_optical | If they are reflectance × 10000, write"
NOT_DB = "backbones.galileo.reading:_not_decibels | in the manifest, and they are converted"
NOT_LINEAR = "backbones.galileo.reading:_check_radar | If they are decibels, write"
STRETCHED = "backbones.galileo.reading:_check_optical | Use the original files, or backbone option"
UNCALIBRATED = "backbones.galileo.reading:_check_radar | Use calibrated backscatter"
RADAR_BYTES = "backbones.galileo.reading:_not_decibels | use calibrated files, or backbone option"
HEIGHTS = "backbones.galileo.reading:_check_heights | Check 'nodata' and the unit"


def as_told(modality: Modality, unit: str) -> Modality:
    ((key, value),) = yaml.safe_load(unit).items()
    assert key == "unit"
    return Modality(modality.name, modality.bands, modality.kind, unit=value)


@pytest.mark.parametrize(
    ("kind", "unit", "low", "high", "place"),
    [
        ("optical", "reflectance_10000", 0.02, 0.45, TOO_DARK),
        ("optical", "reflectance", 120, 4200, NOT_0_TO_1),
        ("sar", "db", 0.001, 0.6, NOT_DB),
        ("sar", "linear", -22, -3, NOT_LINEAR),
    ],
)  # fmt: skip
def test_units_of_galileo(kind: Any, unit: str, low: float, high: float, place: str) -> None:
    modality = Modality("m", ("VV",) if kind == "sar" else ("B2", "B3"), kind, unit=unit)
    with refused(place) as error:
        galileo(modality, low, high)
    for text in re.findall(r"'(unit: \w+)'", error.text):
        galileo(as_told(modality, text), low, high)


@pytest.mark.parametrize(
    ("kind", "low", "high", "right", "place"),
    [
        ("optical", 3, 250, (40, 3800), STRETCHED),
        ("sar", -100, 5, (-24, -2), UNCALIBRATED),
        ("sar", 4, 250, (-24, -2), RADAR_BYTES),
        ("elevation", -32768, 400, (3, 400), HEIGHTS),
    ],
)  # fmt: skip
def test_values_of_galileo(
    kind: Any, low: float, high: float, right: tuple[float, float], place: str
) -> None:
    names = {"optical": ("B2", "B3"), "sar": ("VV",), "elevation": ("height",)}[kind]
    modality = Modality("m", names, kind, unit={"sar": "db", "elevation": "m"}.get(kind, "dn"))
    with refused(place) as error:
        galileo(modality, low, high)
    galileo(modality, *right)
    if "scaling: data" in error:
        galileo(modality, low, high, **yaml.safe_load(error.find("option '(scaling: data)'")))


def test_an_offset_that_galileo_does_not_know(place: Any) -> None:
    modality = Modality("s2", ("B2", "B3"), "optical", unit="reflectance_10000")
    name = "backbones.galileo.reading:_check_optical | where files have it, subtract it in the"
    with warned(name) as text:
        galileo(modality, 1050, 6000)
    place.modality().update(yaml.safe_load(text.find(r"\('(value_offset: -1000)'")))
    assert place.read()["a"][0, 0, 0] == int(place.pixels()[0, 0, 0]) - 1000
    galileo(modality, 50, 5000)


# Tunings


def test_lists_of_tunings() -> None:
    with refused("tuning.__init__:parse_tuning | name one or more tunings, or leave it out"):
        apply_tuning(make("vit"), [])
    apply_tuning(make("vit"), ["lora"])
    apply_tuning(make("vit"), None)
    with refused("tuning.__init__:parse_tuning | cannot have options; write a list:") as error:
        apply_tuning(make("vit"), {"name": "adapter+lora", "rank": 4})
    items = yaml.safe_load(error.find(r"write a list: (\[.*\])").replace(", …", ""))
    items[1]["rank"] = 4
    apply_tuning(make("vit"), items)
    with refused("tuning.lora:LoRALinear.__init__ | choose lora or dora") as error:
        apply_tuning(make("vit"), "lora+dora")
    for name in error.find("choose (.*)$").split(" or "):
        apply_tuning(make("vit"), name)


def test_targets_of_lora() -> None:
    with refused("tuning.lora:check_rank | each once; qkv stands for the first three") as error:
        apply_tuning(make("vit"), {"name": "lora", "targets": []})
    names = error.find("one or more of (.*?), each once").split(", ")
    apply_tuning(make("vit"), {"name": "lora", "targets": names})
    for name in (*names, "qkv"):
        apply_tuning(make("vit"), {"name": "lora", "targets": [name]})


def test_tunings_of_other_backbones() -> None:
    with refused("tuning.prompt:prompt | Choose vit_*, samvit_* or another tuning") as error:
        apply_tuning(make("resnet"), "prompt")
    for family in families(error.text):
        name, own = FAMILY[family]
        apply_tuning(create_backbone(name, 3, **own), "prompt")
    apply_tuning(make("resnet"), "norms")
    with refused(
        "tuning.targets:find_blocks | or a backbone with blocks whose MLP is of linear"
    ) as error:
        apply_tuning(make("resnet"), "adapter")
    for name in error.find("Choose (.*?), or a backbone").replace(" or", ",").split(", "):
        apply_tuning(make("resnet"), name)
    for family in families(error.text):
        name, own = FAMILY[family]
        apply_tuning(create_backbone(name, 3, **own), "adapter")


# Pre-training


def pretrainer(
    backbone: str | dict[str, str],
    own: dict[str, Any],
    objective: dict[str, Any],
    *modalities: Modality,
    **more: Any,
) -> Any:
    values = {"data": {"manifest": "d.yaml"} | more.pop("data", {}), "objective": objective,
              "backbone": backbone, "backbone_options": own} | more  # fmt: skip
    config = parse_settings(PretrainConfig, values, "pretrain.yaml")
    return create_pretrainer(config, modalities or (RGB, SAR))


MAE = {"name": "mae", "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
DECUR = {"name": "decur", "hidden": 8, "dim": 8, "common": 6}


def test_backbones_of_masking() -> None:
    with refused(
        "pretraining.objectives:MAEObjective.__init__ | or objective 'decur' or 'infonce'"
    ) as e:
        pretrainer("resnet18", RESNET, MAE)
    for family in families(e.text):
        pretrainer(*FAMILY[family], MAE)
    pretrainer("resnet18", RESNET, DECUR)
    pretrainer("resnet18", RESNET, {"name": "infonce"})
    with refused(
        "pretraining.mae:_check_takes_any_tokens | Choose dofa_*, or a plain vit_*"
    ) as error:
        pretrainer(
            BACKBONES["samvit"][0], VIT | {"window_size": 3, "global_attn_indexes": [1]}, MAE
        )
    for family in families(error.text):
        pretrainer(*FAMILY[family], MAE)
    croma = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    pretrainer("croma_base", croma, {"name": error.find("objective '(croma)'")},
               Modality("s1", ("vv", "vh"), "sar"), RGB)  # fmt: skip
    name = (
        "pretraining.objectives:MAEObjective.__init__ | is one transformer for all bands; leave it"
    )
    with refused(name):
        pretrainer(*FAMILY["dofa_*"], MAE | {"shared": False})
    pretrainer(*FAMILY["dofa_*"], MAE)


def test_options_of_objectives() -> None:
    name = "pretraining.objectives:DeCURObjective.__init__ | give two ascending shares of a window"
    with refused(name):
        pretrainer("resnet18", RESNET, DECUR | {"view_area": [0.5, 0.2]})
    pretrainer("resnet18", RESNET, DECUR | {"view_area": [0.2, 0.5]})
    two = {"rgb": "resnet18", "sar": "resnet50"}
    with refused("pretraining.decur:DeCURPretraining.__init__ | set shared_projector to false"):
        pretrainer(two, RESNET, DECUR)
    pretrainer(two, RESNET, DECUR | {"shared_projector": False})
    with refused(
        "pretraining.objectives:_check_training | compares the samples of a batch; give 2"
    ):
        pretrainer("resnet18", RESNET, DECUR, data={"batch_size": 1})
    pretrainer("resnet18", RESNET, DECUR, data={"batch_size": 2})
    croma = {"embed_dim": 16, "depth": 2, "num_heads": 2}
    places = (Modality("s1", ("vv", "vh"), "sar"), RGB)
    more = {"training": {"gradient_checkpointing": True}}
    with refused("pretraining.objectives:_check_training | leave it out"):
        pretrainer("croma_base", croma, {"name": "croma"}, *places, **more)
    pretrainer("croma_base", croma, {"name": "croma"}, *places)
    with refused(
        "pretraining.pretrainer:backbone_options | has no effect here; leave it out"
    ) as error:
        pretrainer("vit_tiny_patch16_224", VIT | {"neck_channels": 8}, MAE)
    assert error.find("backbone_options has '(.*?)'") == "neck_channels"
    pretrainer("vit_tiny_patch16_224", VIT, MAE)
