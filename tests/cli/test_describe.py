"""`terrafuse describe`, on a run file and on what was trained with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import yaml
from rasterio.transform import from_origin
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.usefixtures("without_figures")

SIZE = 64
VIT = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64}
RUN = {
    "data": {"manifest": "dataset.yaml", "crop_size": 64, "batch_size": 2, "workers": 0},
    "method": {
        "name": "mfnet",
        "backbone": "vit_tiny_patch16_224",
        "backbone_options": VIT,
        "tuning": "adapter",
    },
    "training": {"steps": 1, "accelerator": "cpu"},
}


@pytest.fixture
def place(tmp_path, make_raster):
    """A folder with a dataset of two modalities and a run.yaml."""
    rng = np.random.default_rng(0)
    scenes = []
    for number, split in enumerate(("train", "val", "test")):
        options = {"transform": from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)}
        optical = rng.integers(1, 200, (3, SIZE, SIZE)).astype(np.uint8)
        make_raster(tmp_path / f"{split}_o.tif", optical, **options)
        heights = rng.normal(50, 9, (1, SIZE, SIZE)).astype(np.float32)
        make_raster(tmp_path / f"{split}_h.tif", heights, **options)
        labels = rng.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8)
        make_raster(tmp_path / f"{split}_l.tif", labels, **options)
        files = {"rgb": f"{split}_o.tif", "dsm": f"{split}_h.tif", "labels": f"{split}_l.tif"}
        scenes.append({"id": split, "split": split, **files})
    manifest = {
        "classes": [{"name": "dry", "code": 0}, {"name": "wet", "code": 1}],
        "modalities": {
            "rgb": {"kind": "optical", "bands": ["red", "green", "blue"]},
            "dsm": {"kind": "elevation", "bands": ["height"]},
        },
        "scenes": scenes,
    }
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", **VIT).state_dict(), weights)
    run = RUN | {"method": RUN["method"] | {"weights": str(weights)}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


@pytest.fixture
def ok(command_line):
    """Function that runs a verb which must succeed; what it printed."""

    def call(*words: object) -> str:
        code, out, message = command_line(*words)
        assert code == 0, message
        return out

    return call


def test_a_run_file(place, ok):
    out = ok("describe", place / "run.yaml", "-s", "method.weights=sam_vit_b_01ec64.pth")
    assert "mfnet on rgb (red, green, blue); dsm (height)" in out
    assert "2 classes: dry, wet" in out
    assert "tuning adapter, weights 'sam_vit_b_01ec64.pth' (licence: apache-2.0)" in out
    rows = [line for line in out.splitlines() if "│" in line]
    for words in (
        ("backbone", "pretrained part"), ("tuning adapter",), ("neck",), ("fusion",), ("decoder",),
        ("total",), ("parameters",), ("gradients",), ("optimizer",), ("activations",),
    ):  # fmt: skip
        assert any(all(word in row for word in words) for row in rows), words
    assert "a sample of 64 × 64 px" in out
    assert "GFLOPs forward" in out
    assert (
        "  together: flips, quarter turns\n  rgb: gain 0.1, offset 0.1\n  dsm: unchanged\n" in out
    )
    assert "keeps" not in out  # there are no gates before training


def test_json(place, ok):
    overview = json.loads(ok("describe", place / "run.yaml", "--json"))
    assert list(overview) == [
        "classes", "method", "modalities", "backbones", "parts", "total", "alike_bands",
        "saved_values", "cost", "augmentation",
    ]  # fmt: skip
    assert overview["modalities"] == {"rgb": ["red", "green", "blue"], "dsm": ["height"]}
    assert overview["backbones"] == [
        {
            "part": "backbone",
            "modality": None,
            "backbone": "vit_tiny_patch16_224",
            "tuning": "adapter",
            "source": str(place / "vit.safetensors"),
            "licence": "unknown",
            "note": "",
        }
    ]
    parts = overview["parts"]
    assert [row["piece"] for row in parts] == ["pretrained part", "tuning adapter", "neck", "", ""]
    assert all(row["parameters"] == row["trainable"] + row["frozen"] for row in parts)
    for key, total in overview["total"].items():
        assert total == sum(row[key] for row in parts)
    cost = overview["cost"]
    assert (cost["crop_size"], cost["batch_size"]) == (64, 2)
    assert set(cost["training_bytes"]) == {
        "parameters", "gradients", "optimizer", "average", "activations", "workspace", "total",
    }  # fmt: skip


def test_parameters(place, ok):
    words = (place / "run.yaml", "-s", "training.weight_decay=0.5", "-s", "training.lr=0.01")
    overview = json.loads(ok("describe", *words, "--parameters", "--json"))
    rows = overview["parameter_groups"]
    assert sum(row["values"] for row in rows) == overview["total"]["parameters"]
    frozen = [row for row in rows if row["lr_factor"] == 0]
    assert [(row["why"], row["lr"], row["weight_decay"]) for row in frozen] == [("frozen", 0, 0)]
    assert frozen[0]["values"] == overview["total"]["frozen"]
    by_why = {row["why"]: row for row in rows}
    weights = by_why["weights"]
    assert (weights["lr_factor"], weights["lr"], weights["weight_decay"]) == (1, 0.01, 0.5)
    assert len(weights["names"]) == weights["parameters"]
    assert by_why["bias, norm or scale (one dimension)"]["weight_decay"] == 0
    printed = ok("describe", *words, "--parameters")
    assert "learning rate and weight decay" in printed
    assert "frozen" in printed
    assert "parameter_groups" not in json.loads(ok("describe", *words, "--json"))


@pytest.mark.parametrize("told_apart", [True, False])
def test_bands_that_dofa_takes_for_one_another_are_named(place, ok, told_apart):
    text = yaml.safe_load((place / "dataset.yaml").read_text())
    text["modalities"]["rgb"] |= {"wavelengths_um": [0.842, 0.56, 0.842]}
    (place / "dataset.yaml").write_text(yaml.safe_dump(text))
    options = {"dynamic_embed_dim": 16} | VIT | ({} if told_apart else {"wave_delta": False})
    method = {"name": "late_fusion", "backbone": "dofa_base_patch16", "backbone_options": options}
    (place / "run.yaml").write_text(yaml.safe_dump(RUN | {"method": method}))
    how = "distinguished by trained offsets" if told_apart else "enter as their sum"
    printed = " ".join(ok("describe", place / "run.yaml").split())
    assert (
        f"branches.rgb: bands of one wavelength (red, blue) {'are ' * told_apart}{how}" in printed
    )


def test_settings_can_be_replaced(place, ok):
    def cost(*words: str) -> dict:
        return json.loads(ok("describe", place / "run.yaml", "--json", *words))["cost"]

    plain, larger = cost(), cost("-s", "data.batch_size=4", "-s", "training.optimizer=sgd")
    assert larger["batch_size"] == 4
    memory, more = plain["training_bytes"], larger["training_bytes"]
    assert more["activations"] - memory["activations"] == 2 * plain["activation_bytes_per_sample"]
    assert more["optimizer"] * 2 == memory["optimizer"]


def test_a_trained_run(place, ok, command_line):
    run = place / "run"
    ok("train", place / "run.yaml", "--out", run)
    ok("evaluate", run)
    before = json.loads(ok("describe", place / "run.yaml", "--json"))
    (place / "dataset.yaml").unlink()  # a run folder says enough
    overview = json.loads(ok("describe", run, "--json"))
    assert {key: overview[key] for key in before} == before
    assert list(overview)[-2:] == ["scores", "gates"]
    held = sum(value.numel() for value in load_file(run / "model.safetensors").values())
    assert overview["saved_values"] == held < overview["total"]["parameters"]
    assert 0 <= overview["scores"]["rgb+dsm"]["oa"] <= 1
    # One step from 1/2 on.
    assert overview["gates"] == pytest.approx({"rgb": 0.5, "dsm": 0.5}, abs=0.01)
    out = ok("describe", run, "-s", "data.batch_size=3")
    assert "dsm keeps 0.50 of its own" in out
    assert "scores of rgb+dsm in %: OA" in out
    assert "batches of 3" in out
    code, _, message = command_line("describe", run, "-s", "method.tuning=lora")
    assert code == 2
    assert "'method.tuning' cannot be set" in message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run.yml",), "there is no file"),
        (("run.yaml", "-s", "method.tuning=adaptor"), "adapter"),
        (("run.yaml", "-s", "method.name=single"), "modalities"),
        ((".",), "not a run folder"),
    ],
)
def test_what_cannot_be_described(place, command_line, words, message):
    code, out, said = command_line("describe", place / words[0], *words[1:])
    assert (code, out) == (2, "")
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_what_shapes_do_not_tell_is_said(place, ok):
    words = ("-s", "method.backbone=resnet10t", "-s", "method.backbone_options={}",
             "-s", "method.tuning=null", "-s", "training.gradient_checkpointing=true")  # fmt: skip
    out = ok("describe", place / "run.yaml", *words)
    assert "could not be derived from shapes alone: training.gradient_checkpointing" in out
    assert "total" in out
    assert "MiB" not in out
