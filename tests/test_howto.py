"""Every how-to page's commands and Python run from top to bottom, with made-up rasters.

A page's YAML files are written where it shows them. What a command needs beside is made by the
page's entry in PAGES, and so are runs that the page takes as given. Training is cut to a few small
steps; `skip` lists the lines that need weights, data or machines that a test has not.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import shapely
import yaml

from hub_server import TOKEN, serving_hub, use_hub
from made_maps import write_map
from made_rasters import FENCE, TWO_SENSORS, make_rasters, shrunk
from small_onnx import Pointwise, info_of, write_onnx
from terrafuse.data import load_manifest
from terrafuse.data.statistics import compute_statistics
from terrafuse.weights import RunInfo

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "howto"
CommandLine = Callable[..., tuple[int, str, str]]
_FILE = re.compile(r"# (\w+\.(?:yaml|py))\n")


@dataclass(frozen=True)
class Page:
    """What a page takes as given.

    Args:
        make: Called with the folder and a function that runs commands, before the first.
        tiny: Whether TINY holds for the page's run files.
        hub: Whether it uses a hub; one on loopback takes its place.
        skip: Beginning of a command, or first line of a block of Python → why it is not run.
    """

    make: Callable[[Path, Callable[..., None]], None]
    tiny: bool = True
    hub: bool = False
    skip: Mapping[str, str] = field(default_factory=dict)


def nothing(folder: Path, run: Callable[..., None]) -> None:
    """The page needs nothing beside its own files."""


def own_rasters(folder: Path, run: Callable[..., None]) -> None:
    """The rasters that the page's manifest names, a folder to describe, and a new place."""
    page = (FOLDER / "own-rasters.md").read_text()
    block = next(b for _, b in FENCE.findall(page) if b.startswith("# dataset.yaml"))
    make_rasters(folder, yaml.safe_load(block), 512, 512)
    described = {
        "classes": TWO_SENSORS["classes"],
        "modalities": {"s1_after": {"kind": "sar", "bands": ["VV"]},
                       "s2_after": {"kind": "optical", "bands": ["r", "g", "b"]}},
        "scenes": [{"id": id, "s1_after": f"my_data/s1_after/{id}.tif",
                    "s2_after": f"my_data/s2_after/{id}.tif", "labels": f"my_data/masks/{id}.tif"}
                   for id in "xyz"],
    }  # fmt: skip
    make_rasters(folder, described)
    new = {
        "classes": [{"name": "x"}],
        "modalities": {
            "optical": {"bands": list("abcd")},
            "sar": {"kind": "sar", "bands": ["v", "h"]},
        },
        "scenes": [{"id": "n", "optical": "new.tif", "sar": ["new_vv.tif", "new_vh.tif"]}],
    }
    make_rasters(folder, new)


def two_sensors(folder: Path, run: Callable[..., None]) -> None:
    make_rasters(folder, TWO_SENSORS)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(TWO_SENSORS))
    make_rasters(folder, {**TWO_SENSORS, "scenes": [{"id": "n", "s1": "s1.tif", "s2": "s2.tif"}]})


def large_scenes(folder: Path, run: Callable[..., None]) -> None:
    make_rasters(folder, TWO_SENSORS, 512, 512)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(TWO_SENSORS))


def trained(folder: Path, run: Callable[..., None]) -> None:
    """Two sensors and the run that other pages have made of them."""
    two_sensors(folder, run)
    (folder / "run.yaml").write_text(
        "data: {manifest: dataset.yaml}\nmethod: {name: late_fusion, backbone: resnet18}\n"
    )
    run("terrafuse", "train", "run.yaml", "--out", "runs/first")


def exported(folder: Path, run: Callable[..., None]) -> None:
    """Two sensors and an ONNX file of them, which costs no training."""
    two_sensors(folder, run)
    data = load_manifest(folder / "dataset.yaml")
    modalities = tuple(data.modalities.values())
    model = Pointwise(modalities, data.scheme.num_classes)
    statistics = compute_statistics(data.scenes(None), modalities)
    rules = {name: own.to_dict() for name, own in data.rules.items()}
    about = RunInfo("single", {}, modalities, data.scheme, statistics, 64, 16, rules)
    windows = {"crop_size": 64, "overlap": 16, "blending": "taper", "batch_size": 2}
    windows |= {"precision": "32-true"}
    write_onnx(folder / "model.onnx", model, info_of(model, about, windows=windows))


def scored(folder: Path, run: Callable[..., None]) -> None:
    """The run, a second one, scenes of other places and events, and districts."""
    trained(folder, run)
    run("terrafuse", "train", "run.yaml", "--out", "runs/second")
    values = {**TWO_SENSORS, "scenes": [*TWO_SENSORS["scenes"]]}
    values["scenes"] = [
        {**scene, "id": id, "split": "test"}
        for scene, id in zip(values["scenes"], ("north", "south", "albania_1", "c"), strict=True)
    ]
    for name in ("dataset.yaml", "events.yaml", "other/dataset.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(yaml.safe_dump({"root": str(folder), **values}))
    pyogrio.raw.write(
        folder / "districts.gpkg",
        np.array([shapely.to_wkb(shapely.box(3e5, 4.9e6, 9e5, 5.1e6))], object),
        [np.array(["all"], object)],
        ["name"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )


def demo(folder: Path, run: Callable[..., None]) -> None:
    """What the demo leaves, of two sensors; nine blocks of a validation scene, as 0.9 needs."""
    values = {**TWO_SENSORS, "scenes": [*TWO_SENSORS["scenes"]]}
    values["scenes"][-1] = {**values["scenes"][-1], "id": "test_1"}
    make_rasters(folder / "demo" / "data", values, 384, 384)
    (folder / "demo" / "data" / "dataset.yaml").write_text(yaml.safe_dump(values))
    (folder / "run.yaml").write_text(
        "data: {manifest: demo/data/dataset.yaml}\n"
        "method: {name: late_fusion, backbone: resnet18}\n"
    )
    run("terrafuse", "train", "run.yaml", "--out", "demo/runs/all_modalities")


def flood(folder: Path, run: Callable[..., None]) -> None:
    """A run file, and two runs to hold against each other."""
    two_sensors(folder, run)
    (folder / "run.yaml").write_text(
        "data: {manifest: dataset.yaml}\nmethod: {name: late_fusion, backbone: resnet18}\n"
    )
    for name in ("pretrained", "scratch"):
        run("terrafuse", "train", "run.yaml", "--out", f"runs/{name}")


def tuned(folder: Path, run: Callable[..., None]) -> None:
    """Two sensors, a run whose transformers have low-rank updates, and a new place."""
    two_sensors(folder, run)
    new = [{"id": "n", "s1": "new_s1.tif", "s2": "new_s2.tif"}]
    make_rasters(folder, {**TWO_SENSORS, "scenes": new})
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8}
    method = {
        "name": "late_fusion", "backbone": "vit_tiny_patch16_224", "backbone_options": small,
        "tuning": "lora", "decoder": "segformer", "decoder_options": {"channels": 8},
    }  # fmt: skip
    values = {
        "data": {"manifest": "dataset.yaml"}, "method": method,
        "prediction": {"crop_size": 96, "overlap": 0},
    }  # fmt: skip
    (folder / "run_lora.yaml").write_text(yaml.safe_dump(values))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the backbone has no pretrained weights")
        run("terrafuse", "train", "run_lora.yaml", "--out", "runs/lora")


def photos(folder: Path, run: Callable[..., None]) -> None:
    values = {
        "classes": [{"name": "low"}, {"name": "high"}],
        "modalities": {"rgb": {"kind": "optical", "bands": ["red", "green", "blue"]}},
        "scenes": [{"id": "north", "split": "train", "rgb": "north.tif", "labels": "l.tif"}],
    }
    make_rasters(folder, values)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(values))
    rgb = {**values, "scenes": [{"id": "n", "rgb": "new.tif"}]}
    make_rasters(folder, rgb)


def mapped(folder: Path, run: Callable[..., None]) -> None:
    """A map of what `terrafuse demo` makes, its truth, and a later map of the same place."""
    truth = np.arange(6).repeat(12)[:, None].repeat(60, axis=1)
    truth[:3, :9] = 255
    found = np.where(truth == 255, 0, truth)
    names = ("water", "wetland", "arable", "grassland", "forest", "buildings")
    write_map(folder / "demo" / "map" / "class_map.tif", found, names=names)
    write_map(folder / "demo" / "data" / "labels" / "test_1.tif", truth, tags=False)
    write_map(folder / "maps" / "newer" / "class_map.tif", np.roll(found, 3, axis=0), names=names)


_PUBLISHED = "a published data set: tests/layouts describes a copy of it in every form"
_WEIGHTS = "published weights"
_TABLES = "tables of published data, with hours of training"

PAGES: dict[str, Page] = {
    "own-rasters": Page(own_rasters),
    "check": Page(two_sensors),
    "split": Page(large_scenes),
    "jobs": Page(
        nothing,
        skip={
            "terrafuse serve runs/first": "tests/web/browser/test_service.py follows the page",
            "from pathlib import Path": "it needs the service",
        },
    ),
    "map": Page(
        trained,
        skip={
            f"terrafuse predict runs/first -r {sensor}=new.tif --out maps/new": "rasters of "
            "another scale; tests/cli/test_other_data.py makes and converts them"
            for sensor in ("s1", "s2")
        }
        | {"from terrafuse.data.value_conversion import ValueConversion": "likewise"},
    ),
    "big-scenes": Page(trained),
    "view": Page(mapped),
    "after-the-map": Page(trained),
    "export": Page(trained),
    "runtime": Page(
        exported,
        skip={
            "pip install": "tests/test_runtime_wheel.py installs it",
            "terrafuse export": "of a run; the page on export does that",
        },
    ),
    "serve": Page(
        nothing,
        skip={
            "terrafuse serve": "it ends with a signal; test_with_tokens.py asks one",
        },
    ),
    "share": Page(trained, hub=True),
    "label": Page(
        two_sensors,
        skip={
            "terrafuse train run.yaml": "tests/training/test_painted.py trains on such polygons",
            "terrafuse compare runs/": "tests/api/test_comparing.py compares runs",
        },
    ),
    "areas": Page(mapped, skip={"terrafuse demo": "minutes; tests/test_demo.py runs it"}),
    "confidence": Page(demo, skip={"terrafuse demo": "tests/test_demo.py runs it"}),
    "synergy": Page(
        trained,
        skip={
            "terrafuse demo": "minutes; tests/test_demo.py runs it",
            "terrafuse train demo/": "minutes; the same settings as any training",
            "terrafuse evaluate demo/": "of that training",
            "terrafuse predict demo/": "of that training",
            "terrafuse evaluate RUN": "a training of hours on published data",
        },
    ),
    "scores": Page(
        scored,
        skip={
            "terrafuse sweep configs/ombria": _PUBLISHED,
            "terrafuse evaluate runs/first --devices 2": "two GPUs",
            "terrafuse evaluate runs/first --shard": "tests/cli/test_other_data.py",
        },
    ),
    "label-efficiency": Page(flood),
    "pretrain": Page(
        two_sensors,
        tiny=False,
        skip={"from terrafuse import api": "tests/training/test_pretrain.py calls it"},
    ),
    "compare": Page(
        nothing,
        skip={
            "terrafuse sweep configs/": _TABLES, "python benchmarks/": _TABLES,
            "terrafuse compare runs/": "tests/api/test_comparing.py compares such runs",
            "terrafuse sweep run.yaml --methods methods.yaml": "minutes; tests/api/test_sweeps.py "
            "runs such a file of methods",
        },
    ),
    "generate": Page(
        photos,
        skip={
            "terrafuse generate dataset.yaml --kind sam": _WEIGHTS,
            "terrafuse generate dataset.yaml --kind depth": _WEIGHTS,
            "from terrafuse.api import generate": "tests/generate/test_generate.py calls it",
        },
    ),
    "tuning": Page(
        tuned,
        tiny=False,
        skip={"terrafuse describe run": _WEIGHTS, "terrafuse train run": _WEIGHTS},
    ),
    "multi-gpu": Page(
        two_sensors,
        skip={
            "srun ": "a cluster", "torchrun ": "several machines", "terrafuse train": _WEIGHTS,
            "terrafuse sweep": "tests/api/test_sweep_sharing.py runs shards and Ray",
        },
    ),
    "pretraining-helps": Page(nothing, skip={"terrafuse ": _TABLES, "python ": _TABLES}),
    "benchmarks": Page(nothing, skip={"terrafuse data ": _PUBLISHED}),
    "speed": Page(nothing, skip={"python benchmarks/": "minutes, and tables of this machine"}),
    "own-method": Page(
        nothing,
        skip={
            "terrafuse ": "tests/test_own_method.py runs this page, with its Python file",

        },
    ),
    **dict.fromkeys(("add-method", "dates", "pixel-sizes", "polygons"), Page(nothing)),
}  # fmt: skip
#: Pages of which a run takes more than a few seconds.
SLOW = (
    "own-rasters",
    "map",
    "big-scenes",
    "after-the-map",
    "export",
    "share",
    "scores",
    "confidence",
    "synergy",
    "label-efficiency",
    "pretrain",
    "generate",
)


def commands_of(block: str) -> list[list[str]]:
    lines = block.replace("\\\n", " ").splitlines()
    plain = [line.partition(" #")[0].strip() for line in lines]
    return [shlex.split(line) for line in plain if line and not line.startswith("#")]


def steps_of(page: str) -> list[tuple[str, str]]:
    """Files as (name, text), blocks of commands as ("", text), of Python as ("python", text)."""
    found = []
    for language, block in FENCE.findall((FOLDER / f"{page}.md").read_text(encoding="utf-8")):
        named = _FILE.match(block)
        if language in ("yaml", "python") and named:
            found.append((named[1], block))
        elif language == "bash":
            found.append(("", block))
        elif language == "python":
            found.append(("python", block))
    return found


def test_every_page_is_run() -> None:
    assert set(PAGES) == {path.stem for path in FOLDER.glob("*.md")}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on loopback, for pages that use one."""
    with serving_hub() as served:
        use_hub(served.address, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # in huggingface_hub
@pytest.mark.filterwarnings("ignore:there is work for")  # the scenes of a test have one unit
@pytest.mark.filterwarnings("ignore:the temperature of .* an end of the range")  # two steps
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in PAGES]
)
def test_commands_run_from_top_to_bottom(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command_line: CommandLine,
    request: pytest.FixtureRequest,
) -> None:
    page = PAGES[name]
    monkeypatch.chdir(tmp_path)
    if page.hub:
        request.getfixturevalue("hub")

    def run(*words: str) -> None:
        line = " ".join(words)
        code, out, said = command_line(*shrunk(words, tiny=page.tiny)[1:])
        assert code == 0, f"{name}.md: {line}\n{out[-2000:]}\n{said[-2000:]}"

    page.make(tmp_path, run)
    steps = steps_of(name)
    skipped = set()
    namespace: dict[str, Any] = {"__name__": name}
    for position, (file, text) in enumerate(steps):
        if file == "python":
            first = text.partition("\n")[0]
            if first in page.skip:
                skipped.add(first)
                continue
            exec(compile(text, f"{name}.md", "exec"), namespace)
            continue
        if file:
            (tmp_path / file).write_text(text)
            continue
        for words in commands_of(text):
            line = " ".join(words)
            reason = next((start for start in page.skip if line.startswith(start)), None)
            if reason is not None:
                skipped.add(reason)
                continue
            for later, content in steps[position:]:  # shown below what it is for
                if later and later in words and not (tmp_path / later).exists():
                    (tmp_path / later).write_text(content)
            run(*words)
    assert skipped == set(page.skip), "what is skipped is no longer on the page"
