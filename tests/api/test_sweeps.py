"""`sweep`: what it plans, what it does not do twice, what it writes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from terrafuse import api
from terrafuse.api import sweeps
from terrafuse.api.sweep_choice import choose_value
from terrafuse.api.sweep_plan import Candidates, plan_sweep, read_methods
from terrafuse.config import load_run_config
from terrafuse.errors import ConfigError, ModelError, StoppedError, UnknownNameError
from terrafuse.landscape import make_landscape
from terrafuse.reports import sweep_tables

pytestmark = pytest.mark.usefixtures("without_figures")

RESNET = {
    "backbone": "resnet10t",
    "backbone_options": {"channels": [4, 4, 8, 8]},
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}
VIT = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_options": {
        "embed_dim": 16, "depth": 2, "num_heads": 2, "img_size": 64, "neck_channels": 8,
    },
    "decoder_options": {"channels": 8, "bins": [1, 2]},
}  # fmt: skip
RUN = {
    "data": {
        "manifest": "data/dataset.yaml", "modalities": ["optical", "dsm"], "crop_size": 64,
        "batch_size": 2, "workers": 0, "sampling": "balanced", "modality_dropout": 0.1,
    },
    "method": {"name": "late_fusion", **RESNET},
    "training": {"steps": 1, "accelerator": "cpu", "validate_every": 1},
    "prediction": {"crop_size": 64, "overlap": 0},
}  # fmt: skip
METHODS: dict[str, Any] = {
    "alone": {"modalities": "each", "method": {"name": "single", **RESNET}},
    "Early fusion": {"method": {"name": "early_fusion", **RESNET}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A landscape, a run file and a file of methods."""
    make_landscape(tmp_path / "data", size=96, train=1, val=1, test=1)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(RUN))
    write_methods(tmp_path, METHODS)
    return tmp_path


def write_methods(folder: Path, methods: dict[str, Any]) -> Path:
    path = folder / "methods.yaml"
    path.write_text(yaml.safe_dump(methods, sort_keys=False))
    return path


def plan(folder: Path, **options: Any) -> Any:
    options = {"methods": folder / "methods.yaml", "seeds": 1} | options
    return plan_sweep([folder / "run.yaml"], folder / "out", **options)


def test_plan_is_rows_by_seeds(folder: Path) -> None:
    jobs = plan(folder, seeds=2, overrides={"training.lr": "0.5", "method.aux": "true"})
    assert [(job.group, job.title, job.seed) for job in jobs] == [
        ("run", title, seed)
        for title in ("optical alone", "dsm alone", "Early fusion")
        for seed in (0, 1)
    ]
    assert [job.name for job in jobs][::2] == [
        "run-optical_alone-0", "run-dsm_alone-0", "run-early_fusion-0",
    ]  # fmt: skip
    assert [job.config.data.modalities for job in jobs][::2] == [
        ("optical",), ("dsm",), ("optical", "dsm"),
    ]  # fmt: skip
    for job in jobs:
        assert job.config.training.seed == job.seed
        assert job.config.training.lr == 0.5
        assert job.config.method.options == RESNET | {"aux": True}
        assert job.config.data.manifest == folder / "data/dataset.yaml"


def test_plan_without_methods_takes_run_files_as_they_are(folder: Path) -> None:
    (folder / "other.yaml").write_text(yaml.safe_dump(RUN))
    jobs = plan_sweep([folder / "run.yaml", folder / "other.yaml"], folder / "out", seeds=1)
    assert [(job.group, job.title, job.name) for job in jobs] == [
        ("", "run", "run-0"), ("", "other", "other-0"),
    ]  # fmt: skip
    assert jobs[0].config == load_run_config(folder / "run.yaml")


@pytest.mark.parametrize(
    ("entry", "error", "text"),
    [
        ({"methd": {"name": "single"}}, ConfigError, "unknown key 'methd'. Did you mean 'method'?"),
        ({"method": {"name": "singel"}}, UnknownNameError, "Did you mean 'single'?"),
        ({"method": {"name": "single", "decodr": "fcn"}}, UnknownNameError, "mean 'decoder'?"),
        ({"method": {"name": "single", "aux": "perhaps"}}, ModelError, "option 'aux'"),
        ({"method": {"name": "single"}, "modalities": "all"}, ConfigError, "'each'"),
        ({"method": {"name": "single"}, "pretrain": {"objectiv": {}}}, ConfigError, "'objective'?"),
        (["single"], ConfigError, "must hold keys and values"),
    ],
)
def test_a_faulty_entry_is_named(
    folder: Path, entry: Any, error: type[Exception], text: str
) -> None:
    path = write_methods(folder, {"sound": METHODS["alone"], "The faulty": entry})
    with pytest.raises(error) as raised:
        read_methods(path)
    assert "'The faulty'" in str(raised.value)
    assert text in str(raised.value)


def test_what_a_plan_refuses(folder: Path) -> None:
    with pytest.raises(ConfigError, match="a sweep has the seeds 0, 1"):
        plan(folder, overrides={"training.seed": "7"})
    with pytest.raises(ConfigError, match="seeds is 0"):
        plan(folder, seeds=0)
    write_methods(folder, {"A b": METHODS["Early fusion"], "a/B": METHODS["Early fusion"]})
    with pytest.raises(ConfigError, match=r"two runs would share folder .*: 'A b' and 'a/B'"):
        plan(folder)


def test_pretraining_has_the_images_and_the_backbone_of_the_run(folder: Path) -> None:
    before = {
        "objective": {"name": "mae"}, "data": {"batch_size": 8},
        "training": {"steps": 3, "lr": 0.01},
    }  # fmt: skip
    method = {"name": "late_fusion", **VIT}
    write_methods(folder, {"mae": {"method": method, "pretrain": before}})
    job = plan(folder, seeds=2)[1]
    assert job.pretrain is not None
    data = job.pretrain.data
    assert (data.manifest, data.modalities) == (job.config.data.manifest, ("optical", "dsm"))
    assert (data.crop_size, data.batch_size) == (64, 8)
    # What only labels give a meaning is gone.
    assert (data.sampling, data.modality_dropout) == ("random", 0)
    assert job.pretrain.backbone == "vit_tiny_patch16_224"
    assert "neck_channels" not in job.pretrain.backbone_options
    assert job.pretrain.backbone_options["embed_dim"] == 16
    training = job.pretrain.training
    assert (training.steps, training.lr, training.seed) == (3, 0.01, 1)
    assert training.accelerator == "cpu"
    assert job.pretrain_folder.parent == job.folder.parent
    write_methods(folder, {"mae": {"method": {"name": "pagnet"}, "pretrain": before}})
    with pytest.raises(ConfigError, match="'mae': name the backbone to pre-train"):
        plan(folder)


def test_from_run_files_to_a_table(
    folder: Path, command_line: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sweep", folder / "run.yaml", "--methods", folder / "methods.yaml", "--seeds", 2,
             "--out", folder / "out", "--device", "cpu")  # fmt: skip
    code, table, said = command_line(*words)
    assert code == 0, said
    assert "[6/6] run-early_fusion-1: mIoU" in said
    out = folder / "out"
    assert (out / "table.md").read_text() == table
    assert (out / "scores.png").read_bytes()[:4] == b"\x89PNG"
    runs = [json.loads((out / f"run-dsm_alone-{s}/metrics.json").read_text()) for s in (0, 1)]
    miou = [100 * r["subsets"]["dsm"]["scores"]["miou"] for r in runs]
    expected = f"{miou[0]:.1f}, {miou[1]:.1f}"  # an interval of two says nothing
    assert "Rows are not compared over the ground: it is " in table  # of few blocks
    assert "Scores in %: of two seeds both values" in table
    lines = table.splitlines()
    row = next(line for line in lines if "dsm alone" in line).strip("| ").split(" | ")
    heads = next(line for line in lines if "mIoU" in line).strip("| ").split(" | ")
    assert row[:3] == ["dsm alone", "2", expected]
    assert len(row) == len(heads)
    assert heads[2:5] == ["mIoU", "mPA", "IoU water"]
    results = json.loads((out / "results.json").read_text())
    found = next(r for r in results["rows"] if r["title"] == "dsm alone")
    assert found["scores"]["mIoU"]["runs"] == pytest.approx(miou)
    assert found["scores"]["mIoU"]["half"] is None
    assert results["scores"].startswith("in %; shown: of two seeds both values")
    model = api.load(out / "run-dsm_alone-0").segmenter
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["flops"] > 0
    assert found["ms_per_megapixel"] > 0
    with (out / "table.csv").open() as file:
        rows = {r["title"]: r for r in csv.DictReader(file)}
    assert float(rows["dsm alone"]["mIoU %"]) == pytest.approx(sum(miou) / 2)
    assert rows["dsm alone"]["mIoU ± %"] == ""

    # The same command has nothing to do, and writes the same.
    monkeypatch.setattr(sweeps, "train", None)
    assert command_line(*words) == (0, table, "")
    code, printed, _ = command_line(*words, "--json")
    assert json.loads(printed) == results
    kept = out / "run-dsm_alone-0/evidence.npz"
    kept.unlink()  # as of an earlier version
    code, table, _ = command_line(*words)
    assert code == 0
    assert f"Rows are not compared over the ground: there is no '{kept}'" in table
    assert expected in table
    code, _, said = command_line(*words, "-s", "training.steps=2")
    assert code == 2
    assert "training.steps was 1, is 2" in said
    manifest = folder / "data/dataset.yaml"
    manifest.write_text(manifest.read_text() + "\n")
    code, _, said = command_line(*words)
    assert code == 2
    assert "differs from that of the run" in said


def test_a_run_that_fails_does_not_stop_the_others(folder: Path, command_line: Any) -> None:
    faulty = {"method": {"name": "single", **RESNET}}  # of two modalities
    write_methods(folder, {"faulty": faulty, "Early fusion": METHODS["Early fusion"]})
    words = ("sweep", folder / "run.yaml", "--methods", folder / "methods.yaml", "--seeds", 1,
             "--out", folder / "out", "--device", "cpu", "--fresh")  # fmt: skip
    kept = folder / "data" / ".terrafuse" / "checks-0.npz"
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    code, table, said = command_line(*words)
    assert not kept.exists()
    assert code == 2
    assert "error: run-faulty-0: " in said
    assert "| Early fusion | 1 |" in table
    assert "- run-faulty-0: " in table
    failed, done = json.loads((folder / "out/results.json").read_text())["runs"]
    assert "error" in failed
    assert "scores" in done


class Stub:
    """Stands for training, scoring and pre-training, and counts what is asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[Path] = []
        self.weights: list[Any] = []
        self.fails: dict[str, Exception] = {}
        monkeypatch.setattr(sweeps, "train", self.train)
        monkeypatch.setattr(sweeps, "load", lambda folder: self)
        monkeypatch.setattr(sweeps, "forward_seconds", lambda *_, **__: 0.5)
        overview = {"total": {"parameters": 9, "trainable": 5}, "cost": {"error": "unknown"}}
        monkeypatch.setattr(sweeps, "describe_model", lambda folder: overview)
        self.segmenter = None

    def train(self, config: Any, out: Path, **_: Any) -> None:
        if out.name in self.fails:
            raise self.fails[out.name]
        self.trained.append(out)
        self.weights.append(config.method.options.get("weights"))
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))

    def evaluate(self, *, split: str | None, device: str) -> dict[str, Any]:
        per_class = {"water": {"iou": 0.5}, "lava": {"iou": None}}
        scored = {"scores": {"miou": 0.25, "mpa": None}, "per_class": per_class}
        return {"split": split or "test", "full": "all", "subsets": {"all": scored}}


def test_an_interrupted_sweep_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch)
    stub.fails = {"run-dsm_alone-0": StoppedError("training was stopped by SIGINT")}
    call = {"methods": folder / "methods.yaml", "seeds": 1}
    with pytest.raises(StoppedError, match="The same command resumes"):
        api.sweep([folder / "run.yaml"], folder / "out", **call)
    table = (folder / "out/table.md").read_text()
    assert "| optical alone | 1 | 25.0 | – | 50.0 | – |" in table
    assert "2 of 3 runs are not finished yet" in table
    assert len(stub.trained) == 1
    stub.fails = {}
    done = api.sweep([folder / "run.yaml"], folder / "out", **call)
    assert [path.name for path in stub.trained] == [
        "run-optical_alone-0", "run-dsm_alone-0", "run-early_fusion-0",
    ]  # fmt: skip
    assert not done.failures
    assert "not finished yet" not in (folder / "out/table.md").read_text()
    # Another split is scored anew, with the models that are there.
    api.sweep([folder / "run.yaml"], folder / "out", **call, split="val")
    assert len(stub.trained) == 6
    assert "split val" in (folder / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("seeds", "cell", "half", "how"),
    [
        (1, "20.0", None, "of one seed its value"),
        (2, "20.0, 26.0", None, "of two seeds both values, of which an interval would say nothing"),
        # Mean 26, deviation 6: 4.3027 · 6 / √3.
        (3, "26.0 ± 14.9", 14.9047, "mean of n seeds ± half of its 95 % confidence interval"),
    ],
)
def test_a_cell_shows_what_as_many_seeds_tell(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seeds: int, cell: str, half: Any, how: str
) -> None:
    stub = Stub(monkeypatch)
    values = iter([0.20, 0.26, 0.32])
    scored = stub.evaluate
    pictures: list[Any] = []

    def evaluate(**options: Any) -> dict[str, Any]:
        found = scored(**options)
        found["subsets"]["all"]["scores"]["miou"] = next(values)
        return found

    monkeypatch.setattr(stub, "evaluate", evaluate)
    figure = sweep_tables.seeds_figure
    monkeypatch.setattr(
        sweep_tables, "seeds_figure",
        lambda groups, label: (pictures.append(groups), figure(groups, label))[1],
    )  # fmt: skip
    done = api.sweep([folder / "run.yaml"], folder / "out", seeds=seeds)
    table = (folder / "out/table.md").read_text()
    assert f"| run | {seeds} | {cell} |" in table
    assert f"Scores in %: {how}" in table
    assert how in done.results["scores"]
    score = done.results["rows"][0]["scores"]["mIoU"]
    assert score["half"] == (None if half is None else pytest.approx(half, rel=1e-4))
    (row,) = pictures[-1][""]
    assert len(row.values) == seeds
    assert row.half == score["half"]  # no bar where there is no interval


def test_an_unforeseen_error_names_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(monkeypatch)
    stub.fails = {"run-0": ZeroDivisionError("by\nnothing")}
    done = api.sweep([folder / "run.yaml"], folder / "out", seeds=1)
    assert done.failures["run-0"].startswith("ZeroDivisionError in test_sweeps.py, line ")
    assert ": by nothing\n" in (folder / "out/table.md").read_text()


def test_costs_that_shapes_do_not_tell_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stub(monkeypatch)
    api.sweep([folder / "run.yaml"], folder / "out", seeds=1)
    lines = (folder / "out/table.md").read_text().splitlines()
    row = [line for line in lines if line.startswith("| run |")][-1].strip("| ").split(" | ")
    # Half a second for 64 × 64 pixels.
    assert row[-4:] == ["9e-06", "5e-06", "–", f"{500 / 0.064**2:.0f}"]


def test_pretraining_goes_before_and_gives_its_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {"objective": {"name": "decur"}, "training": {"steps": 3}}
    method = {"name": "late_fusion", **RESNET}
    write_methods(folder, {"new": {"method": method, "pretrain": before}})
    stub, pretrained = Stub(monkeypatch), []

    def pretrain(config: Any, out: Path, **options: Any) -> Path:
        assert options["resume"]
        pretrained.append((config.training.steps, out.name))
        out.mkdir(parents=True, exist_ok=True)
        weights = {"optical": "optical.safetensors", "dsm": "dsm.safetensors"}
        (out / "pretrain.json").write_text(json.dumps({"weights": weights}))
        return out

    monkeypatch.setattr(sweeps, "pretrain", pretrain)
    call = {"methods": folder / "methods.yaml", "seeds": 1}
    api.sweep([folder / "run.yaml"], folder / "out", **call)
    assert pretrained == [(3, "run-new-0-pretrain")]
    place = folder / "out/run-new-0-pretrain"
    expected = {name: str(place / f"{name}.safetensors") for name in ("optical", "dsm")}
    assert stub.weights == [expected]
    # Done is done; the pre-training is asked once more whether its settings are the same.
    api.sweep([folder / "run.yaml"], folder / "out", **call)
    assert len(stub.trained) == 1
    assert len(pretrained) == 2
    with pytest.raises(ConfigError, match=r"training\.lr was"):
        api.sweep([folder / "run.yaml"], folder / "out", **call, overrides={"training.lr": "1"})


def test_a_method_starts_from_what_it_pretrained(folder: Path) -> None:
    before = {
        "objective": {"name": "mae", "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
        "training": {"steps": 1},
    }
    entry = {"method": {"name": "late_fusion", **VIT}, "pretrain": before}
    methods = write_methods(folder, {"mae": entry})
    done = api.sweep(
        [folder / "run.yaml"], folder / "out", methods=methods, seeds=1, device="cpu",
        progress=False,
    )  # fmt: skip
    assert not done.failures
    options = load_run_config(folder / "out/run-mae-0/config.yaml").method.options
    assert options["weights"] == api.pretrained_weights(folder / "out/run-mae-0-pretrain")


def test_each_row_chooses_a_rate_by_validation(folder: Path, command_line: Any) -> None:
    """The scores of the table come from the split to score on, the choice does not."""
    write_methods(folder, {"a": METHODS["Early fusion"]})
    command = [
        "sweep", folder / "run.yaml", "--methods", folder / "methods.yaml", "--seeds", "2",
        "--choose", "training.lr=1e-9,1e-2", "-s", "training.steps=8", "--out", folder / "out",
    ]  # fmt: skip
    status, _, errors = command_line(*command)
    assert status == 0, errors
    rows = json.loads((folder / "out/results.json").read_text())["rows"]
    for row in rows:
        scores = row["chosen"]["scores"]
        assert list(scores) == ["1e-9", "1e-2"]
        known = {value: score for value, score in scores.items() if score is not None}
        assert row["chosen"]["value"] == max(known, key=known.get) == "1e-2"
        assert row["n"] == 2
    table = (folder / "out/table.md").read_text()
    assert "training.lr of each row: of 1e-9, 1e-2 the one with the best miou" in table
    assert "| training.lr (chosen) |" in table
    names = {path.name for path in (folder / "out").iterdir() if path.is_dir()}
    assert names == {"run-a-1e-2-0", "run-a-1e-2-1", "run-a-1e-9-0"}
    before = {name: (folder / "out" / name / "log.csv").stat().st_mtime_ns for name in names}
    assert command_line(*command)[0] == 0
    assert before == {n: (folder / "out" / n / "log.csv").stat().st_mtime_ns for n in names}


def test_a_value_whose_run_fails_is_out(folder: Path) -> None:
    said: list[str] = []
    jobs = [plan(folder, candidate=("training.lr", value))[0] for value in ("1", "2", "3")]

    def train(job: Any) -> Path:
        if job is jobs[2]:
            raise ModelError("the loss is no number")
        job.folder.mkdir(parents=True)
        scores = "0.4,0.2" if job is jobs[0] else "0.3,0.1"  # the best is not the last
        rows = "".join(f"{step},{v}\n" for step, v in enumerate(scores.split(","), 1))
        (job.folder / "log.csv").write_text(f"step,val_miou\n{rows}")
        return job.folder

    choice = choose_value(Candidates.parse("training.lr=1,2,3"), jobs, train, said.append)
    assert (choice.value, choice.scores) == ("1", {"1": 0.4, "2": 0.3, "3": None})
    assert any("failed: the loss is no number" in line for line in said)


@pytest.mark.parametrize(
    ("choose", "text"),
    [
        ("training.lr=1e-3", "two or more values"),
        ("training.seed=1,2", "cannot be chosen by validation"),
        ("data.crop_size=64,96", "Compare others as rows"),
    ],
)
def test_what_cannot_be_chosen(folder: Path, choose: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        api.sweep([folder / "run.yaml"], folder / "out", choose=choose)
    with pytest.raises(ConfigError, match="both set and to be chosen"):
        api.sweep(
            [folder / "run.yaml"], folder / "out",
            choose="training.lr=1,2", overrides={"training.lr": "3"},
        )  # fmt: skip
    with pytest.raises(ConfigError, match=r"no training\.validate_every"):
        api.sweep(
            [folder / "run.yaml"], folder / "out",
            choose="training.lr=1,2", overrides={"training.validate_every": "null"},
        )  # fmt: skip
