"""`terrafuse generate` as a user calls it: from photos to a model that uses what was made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from rasterio.transform import from_origin

from terrafuse.api import generate
from terrafuse.data import load_manifest

CommandLine = Callable[..., tuple[int, str, str]]
SIZE = 96
LENIENT = ("--points", 2, "--iou", 0, "--stability", 0, "--nms", 1)
SMALL = ("--window", 64, "--overlap", 24)
RUN = {
    "data": {
        "manifest": "dataset_structure.yaml", "modalities": ["rgb", "structure"], "crop_size": 32,
        "batch_size": 2, "workers": 0,
    },
    "method": {
        "name": "late_fusion", "backbone": "resnet10t", "decoder": "segformer",
        "decoder_options": {"channels": 16},
    },
    "training": {"steps": 2, "accelerator": "cpu"},
}  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path, make_raster: Callable[..., Path]) -> Path:
    """Three scenes; the third has only the surface model."""
    rng = np.random.default_rng(0)
    scenes = []
    for number, split in enumerate(("train", "val", "test"), start=1):
        truth = rng.integers(0, 2, (1, 6, 6), np.uint8).repeat(16, 1).repeat(16, 2)
        image = (60 + 120 * truth + rng.normal(0, 4, (3, SIZE, SIZE))).astype(np.uint8)
        place = from_origin(500_000 + 10_000 * number, 5_000_000, 10, 10)
        entry: dict[str, Any] = {"id": f"area {number}/a", "split": split}
        for name, values in (
            ("rgb", image),
            ("dsm", truth.astype(np.float32)),
            ("labels", truth),
        ):
            file = f"{name}/{number}.tif"
            make_raster(tmp_path / file, values, transform=place)
            entry[name] = file
        scenes.append(entry)
    del scenes[2]["rgb"]
    values = {
        "classes": [{"name": "low"}, {"name": "high"}],
        "modalities": {
            "rgb": {"kind": "optical", "bands": ["red", "green", "blue"], "required": False},
            "dsm": {"kind": "elevation", "bands": ["height"], "unit": "m"},
        },
        "scenes": scenes,
    }
    path = tmp_path / "dataset.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def succeed(command_line: CommandLine, *words: object) -> str:
    code, out, message = command_line(*words)
    assert code == 0, message
    return out


def refuse(command_line: CommandLine, *words: object) -> str:
    code, _, message = command_line(*words)
    assert code == 2, message
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_superpixels_to_a_trained_model(dataset: Path, command_line: CommandLine) -> None:
    folder, before = dataset.parent, dataset.read_bytes()
    words = ("generate", dataset, "--kind", "superpixels", "--size", 10, *SMALL)
    printed = succeed(command_line, *words)
    assert "area_1_a.tif" in printed
    assert "modality 'structure' added" in printed
    assert dataset.read_bytes() == before
    made = {n for n in files(folder) if n.startswith("generated")}
    endings = ("tif", "json", "png", "colors.npy")
    expected = {f"generated/superpixels/area_{n}_a.{end}" for n in (1, 2) for end in endings}
    assert made == expected
    manifest = load_manifest(folder / "dataset_structure.yaml")
    assert list(manifest.modalities) == ["rgb", "dsm", "structure"]
    assert manifest.modalities["structure"].kind == "structure"
    assert not manifest.rules["structure"].required
    scene = manifest.scene("area 1/a")
    sample = scene.read(scene.full_window)
    assert sample.images["structure"].shape == (3, SIZE, SIZE)
    assert bool(sample.valid["structure"].all())
    assert manifest.scene("area 3/a").missing == {"rgb", "structure"}
    # Once more: nothing to do.
    again = succeed(command_line, *words)
    assert again.count("exists already") == 2
    (folder / "run.yaml").write_text(yaml.safe_dump(RUN))
    succeed(command_line, "train", folder / "run.yaml", "-o", folder / "run")
    succeed(command_line, "evaluate", folder / "run", "--split", "val")
    structure = folder / "generated" / "superpixels" / "area_1_a.tif"
    rasters = ("-r", f"rgb={folder}/rgb/1.tif", "-r", f"structure={structure}")
    succeed(command_line, "predict", folder / "run", *rasters, "-o", folder / "map")
    with rasterio.open(folder / "map" / "class_map.tif") as dataset_:
        assert dataset_.shape == (SIZE, SIZE)
    # Of other settings, the model wants none.
    other = folder / "other"
    remade = ("generate", dataset, "--kind", "superpixels", "--size", 20, "--out", other)
    succeed(command_line, *remade, "-o", folder / "other.yaml")
    message = refuse(
        command_line, "evaluate", folder / "run", "--data", folder / "other.yaml", "--split", "val"
    )
    assert "modality 'structure'" in message
    assert "trained on that of" in message
    rasters = ("-r", f"rgb={folder}/rgb/1.tif", "-r", f"structure={other}/area_1_a.tif")
    message = refuse(command_line, "predict", folder / "run", *rasters, "-o", folder / "map")
    assert "was made by generator" in message


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_segments_of_a_model(
    dataset: Path, kind: str, request: pytest.FixtureRequest, command_line: CommandLine
) -> None:
    model = request.getfixturevalue(kind)
    words = ("--kind", "sam", "--model", model, *LENIENT, *SMALL, "--encoding", "boundary")
    out = succeed(command_line, "generate", dataset, *words, "--json")
    record = json.loads(out)
    assert [Path(r["raster"]).name for r in record["rasters"]] == ["area_1_a.tif", "area_2_a.tif"]
    assert record["rasters"][0]["settings"]["model"]["architecture"] == kind
    assert record["modality"]["bands"] == ["boundary"]
    scene = load_manifest(record["manifest"]).scene("area 1/a")
    values = scene.read(scene.full_window).images["structure"]
    assert set(values.unique().tolist()) == {0.0, 255.0}


def test_depth_of_a_model(dataset: Path, depth_anything: Path, command_line: CommandLine) -> None:
    succeed(command_line, "generate", dataset, "--kind", "depth", "--model", depth_anything, *SMALL)
    manifest = load_manifest(dataset.parent / "dataset_depth.yaml")
    assert manifest.to_dict()["modalities"]["depth"]["encoding"] == "stretch"
    assert manifest.rules["depth"].resampling == "bilinear"
    scene = manifest.scene("area 2/a")
    values = scene.read(scene.full_window).images["depth"]
    assert (float(values.min()), float(values.max())) == (0, 255)
    # Two modalities, one after the other.
    words = ("--kind", "superpixels", "-o", dataset.parent / "both.yaml")
    succeed(command_line, "generate", dataset.parent / "dataset_depth.yaml", *words)
    both = load_manifest(dataset.parent / "both.yaml")
    assert list(both.modalities) == ["rgb", "dsm", "depth", "structure"]
    assert both.scene("area 1/a").missing == frozenset()


def test_a_bare_image(dataset: Path, command_line: CommandLine) -> None:
    folder = dataset.parent
    image = folder / "rgb" / "1.tif"
    with rasterio.open(image, "r+") as opened:
        opened.colorinterp = [rasterio.enums.ColorInterp[c] for c in ("red", "green", "blue")]
    out = folder / "out"
    printed = succeed(command_line, "generate", image, "--kind", "superpixels", "--out", out)
    assert printed.startswith(f"wrote {out / '1.tif'}: ")
    assert files(out) == {"1.tif", "1.json", "1.png", "1.colors.npy"}
    dsm = folder / "dsm" / "1.tif"
    words = ("generate", dsm, "--kind", "superpixels", "--out", out / "dsm")
    assert "say which they are: --rgb 3 2 1" in refuse(command_line, *words)
    succeed(command_line, *words, "--rgb", 1, 1, 1)
    message = refuse(
        command_line, "generate", image, "--kind", "superpixels", "-o", folder / "new.yaml"
    )
    assert "only a manifest can be extended" in message


def test_scenes_that_are_windows_of_one_photo_share_its_raster(
    dataset: Path, tmp_path: Path
) -> None:
    values = yaml.safe_load(dataset.read_text())
    first = values["scenes"][0]
    values["scenes"] = [
        first | {"id": f"part_{n}", "window": [row, 0, 40, 96]} for n, row in enumerate((0, 50))
    ]
    dataset.write_text(yaml.safe_dump(values))
    made = generate(dataset, kind="superpixels", options={"size": 10}, window=64, overlap=16)
    assert [one.raster.name for one in made.rasters] == ["1.tif"]
    assert made.manifest is not None
    manifest = load_manifest(made.manifest)
    parts = [manifest.scene(f"part_{n}") for n in range(2)]
    with rasterio.open(made.rasters[0].raster) as opened:
        numbers = opened.read(1)
    for scene, row in zip(parts, (0, 50), strict=True):
        colors = scene.read(scene.full_window).images["structure"].numpy()
        shown = numbers[row : row + 40]
        for number in np.unique(shown)[:5]:
            assert len(np.unique(colors[:, shown == number], axis=1).T) == 1


def test_a_manifest_elsewhere_finds_everything(dataset: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "new.yaml"
    made = generate(
        dataset, kind="superpixels", manifest=target, out=tmp_path / "rasters", name="segments"
    )
    assert made.manifest == target
    scene = load_manifest(target).scene("area 1/a")
    assert scene.missing == frozenset()
    assert {m.name for m in scene.modalities} == {"rgb", "dsm", "segments"}
    assert scene.read(scene.full_window).labels is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--kind", "sma"), "unknown kind 'sma'. Did you mean 'sam'?"),
        (("--kind", "sam"), "--kind sam needs --model"),
        (("--kind", "superpixels", "--model", "x/y"), "superpixels need no model"),
        (("--kind", "superpixels", "--points", 3), "unknown option of --kind superpixels 'points'"),
        (("--kind", "sam", "--model", "nowhere"), "there is no folder 'nowhere'"),
        (("--kind", "superpixels", "--modality", "dsm"), "is of kind 'elevation'"),
        (("--kind", "superpixels", "--modality", "rbg"), "'rbg'. Did you mean 'rgb'"),
        (("--kind", "superpixels", "--name", "dsm"), "has 'dsm' already"),
        (("--kind", "superpixels", "--encoding", "colour"), "Did you mean 'color'?"),
        (("--kind", "superpixels", "--encoding", "stretch"), "does not apply to segments"),
        (("--kind", "superpixels", "--overlap", 600), "allowed is 0 to half of the window (512)"),
        (("--kind", "superpixels", "--out", "{folder}/rgb"), None),
        (("--kind", "superpixels", "-o", "{folder}/dataset.yaml"), "is the given manifest"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value)[:24],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_written(
    dataset: Path, words: tuple, message: str | None, command_line: CommandLine
) -> None:
    folder = dataset.parent
    (folder / "rgb" / "area_1_a.tif").write_bytes(b"something of the user's")
    message = message or "was not made by terrafuse generate"
    before = files(folder)
    words = tuple(str(word).format(folder=folder) for word in words)
    assert message in refuse(command_line, "generate", dataset, *words)
    assert files(folder) == before


def test_a_manifest_that_says_something_else_stays(
    dataset: Path, command_line: CommandLine
) -> None:
    target = dataset.with_name("dataset_structure.yaml")
    target.write_text("classes: []\n")
    words = ("generate", dataset, "--kind", "superpixels")
    assert "exists with other content" in refuse(command_line, *words)
    assert target.read_text() == "classes: []\n"
    assert not (dataset.parent / "generated").exists()
    succeed(command_line, *words, "--overwrite")
    assert "structure" in target.read_text()


def test_no_scene_has_the_photo(dataset: Path, command_line: CommandLine) -> None:
    values = yaml.safe_load(dataset.read_text())
    values["scenes"] = values["scenes"][2:]
    dataset.write_text(yaml.safe_dump(values))
    words = ("generate", dataset, "--kind", "superpixels")
    assert "no scene of" in refuse(command_line, *words)


def test_progress_counts_windows_of_all_photos(dataset: Path) -> None:
    seen: list[tuple[int, int]] = []
    rasters = []
    generate(
        dataset, kind="superpixels", window=64, overlap=16,
        progress=lambda done, total: seen.append((done, total)), report=rasters.append,
    )  # fmt: skip
    assert seen == [(n, 8) for n in range(1, 9)]
    assert [one.skipped for one in rasters] == [False, False]
    shutil.rmtree(dataset.parent / "generated" / "superpixels")
