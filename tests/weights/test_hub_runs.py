"""Runs on the hub: pushed in one commit, fetched whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard

import terrafuse
from hub_server import TOKEN, Hub, serving_hub, use_hub
from remedies import refused, said
from stored_run import WHOLE, make_data
from terrafuse import api
from terrafuse.errors import ConfigError, OutputError, WeightsNotFoundError
from terrafuse.stopping import Stopped, how_to_go_on, stop_here
from terrafuse.weights import is_on_hub, push_run, run_folder
from terrafuse.weights.hub_runs import HubRun

# huggingface_hub gives its HTTP library the file under the argument's old name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

OTHER_DIGEST = "a" * 64


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and a user who may write to "owner"."""
    with serving_hub() as served:
        use_hub(served.address, tmp_path / "cache", monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("time.sleep", lambda _: None)  # before a download is resumed
        yield served


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with scores, a path of its machine, and what is not to be pushed."""
    folder = tmp_path / "runs" / "flood"
    shutil.copytree(WHOLE, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["manifest"] = "/srv/someone/ombria/dataset.yaml"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "last.ckpt").write_bytes(b"\x80\x02a pickle")
    (folder / "report.html").write_text("<html>")
    return folder


def _scores(miou: float) -> dict[str, Any]:
    of = {"iou": miou, "f1": 0.5, "recall": 0.5, "precision": 0.5, "pixels": 512, "predicted": 500}
    scores = {
        "oa": 0.75, "mpa": 0.7, "miou": miou, "mf1": 0.5, "kappa": 0.4, "fwiou": 0.6,
        "boundary_f1": None,
    }  # fmt: skip
    return {"scores": scores, "per_class": {"bare": of, "wet": {**of, "iou": 0.0}}}


METRICS = {
    "format": 1, "split": "val", "scenes": 1, "pixels": 1024, "classes": ["bare", "wet"],
    "full": "s2+s1", "settings": {"selected_on": "val"},
    "subsets": {"s2+s1": _scores(0.625), "s1": _scores(0.25)},
}  # fmt: skip


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


# Names


def test_names_of_runs_on_the_hub() -> None:
    pinned = HubRun("owner/flood-s1", "v1.0")
    assert HubRun.parse("hf://owner/flood-s1@v1.0") == pinned
    assert HubRun.parse(Path("hf://owner/flood-s1@v1.0")) == pinned  # one slash is left
    assert HubRun.parse("hub:owner/flood-s1") == HubRun("owner/flood-s1")
    assert str(pinned) == "hf://owner/flood-s1@v1.0"
    assert not is_on_hub("runs/hub")


@pytest.mark.parametrize(
    "text",
    ["hub:flood", "hf://owner", "hf://a/b/c.safetensors", "hub:o w/n", "hub:a--b/c", "hub:a/b..c",
     "hf://owner/name@", "hub:/name", "hub:owner/-name", f"hub:owner/{'n' * 100}"],
)  # fmt: skip
def test_other_names_are_refused(text: str) -> None:
    with refused(
        "weights.hub_runs:HubRun.parse | does not name a run on the hub. Write hf://owner/name, or",
        ConfigError,
    ):
        run_folder(text)


def test_a_folder_of_such_a_name_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub:mine").mkdir()
    assert run_folder("hub:mine") == Path("hub:mine")


# There and back


def test_a_run_is_pushed_and_loaded(hub: Hub, run: Path, tmp_path: Path) -> None:
    pushed = api.push(run, "hub:owner/flood", message="First", licence="cc-by-4.0")
    assert [title for _, title, _ in hub.repositories["owner/flood"].commits] == ["", "First"]
    files = hub.files_of("owner/flood", pushed.commit)
    assert set(files) - {".gitattributes"} == set(pushed.files) == {
        "model.safetensors", "model.json", "config.yaml", "metrics.json", "README.md", "SHA256SUMS",
    }  # fmt: skip
    assert pushed.left_out == ("last.ckpt", "report.html")
    assert pushed.shortened == ("config.yaml",)
    assert b"someone" not in b"".join(files.values())
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()

    hub.requests.clear()
    loaded = terrafuse.load(str(pushed))
    assert loaded.folder.is_relative_to(tmp_path / "cache" / "assets")
    assert loaded.folder.name == pushed.commit
    here = terrafuse.load(run)
    state, own = loaded.segmenter.state_dict(), here.segmenter.state_dict()
    assert all(torch.equal(state[name], own[name]) for name in own)
    assert loaded.info == here.info
    assert loaded.config.data.manifest.parts[-2:] == ("ombria", "dataset.yaml")
    assert not hub.leaked
    place = "api.runs:Run.choose_scenes | name some with --manifest (manifest=…)"
    with refused(place, ConfigError) as error:
        loaded.choose_scenes()
    assert "ombria/dataset.yaml'. A run from elsewhere" in error
    manifest = make_data(tmp_path / "here")
    assert len(loaded.choose_scenes("val", manifest=manifest).scenes) == 1

    hub.requests.clear()  # a commit does not change: nobody is asked again
    assert run_folder(str(pushed)) == loaded.folder
    assert not hub.requests


def test_a_run_on_the_hub_takes_new_files(hub: Hub, run: Path) -> None:
    """What evaluations write goes into the folder, not among the files that others share."""
    pushed = push_run(run, "hub:owner/flood")
    folder = run_folder("hub:owner/flood")
    from terrafuse.weights import write_metrics

    write_metrics(folder, {**METRICS, "split": "here"})
    assert run_folder(str(pushed)) == run_folder("hf://owner/flood") == folder
    assert json.loads((folder / "metrics.json").read_text())["split"] == "here"
    (fetched,) = (Path(constants.HF_HUB_CACHE)).glob("*/snapshots/*/metrics.json")
    assert json.loads(fetched.read_text())["split"] == "val"
    terrafuse.load(folder)


def test_a_second_push_replaces_and_removes(hub: Hub, run: Path) -> None:
    first = push_run(run, "hub:owner/flood")
    old = run_folder("hf://owner/flood")
    (run / "metrics.json").unlink()
    hub.requests.clear()
    second = push_run(run, "hub:owner/flood")
    assert "metrics.json" not in hub.files_of("owner/flood")
    assert ".gitattributes" in hub.files_of("owner/flood")
    assert not hub.asked("PUT", "lfs/")  # the same weights are not sent again
    new = run_folder("hf://owner/flood")
    assert new.name == second.commit
    assert not (new / "metrics.json").exists()
    assert run_folder(f"hf://owner/flood@{first.commit}") == old
    hub.repositories["owner/flood"].tags["v1"] = first.commit
    assert run_folder("hf://owner/flood@v1") == old


def test_the_command_line_takes_runs_on_the_hub(
    hub: Hub, run: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, _ = command_line("push", run, "hub:owner/flood", "--private")
    assert code == 0
    assert hub.repositories["owner/flood"].private
    assert "not pushed: last.ckpt, report.html" in out
    name = said("cli.push:push | load it as", out).find(r"load it as (hf://owner/flood@\w{40})$")
    code, out, err = command_line("describe", name, "--json")
    assert code == 0, err
    assert json.loads(out)["classes"] == ["bare", "wet"]
    assert f"{name} lies in " in err
    assert command_line("describe", "hf://owner/floods") == (2, "", _MISSING.format(hub.address))


_MISSING = (
    "error: 'hf://owner/floods' cannot be fetched: {0} has no repository 'owner/floods', or it is "
    "a private one: those are shown only to the token in HF_TOKEN. Check the name, and run the "
    "same again; what came whole is kept\n"
)


# The card


def test_the_card_says_what_the_run_is(hub: Hub, run: Path) -> None:
    push_run(run, "hub:owner/flood", licence="cc-by-4.0")
    files = hub.files_of("owner/flood")
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "terrafuse"
    assert card.data.license == "cc-by-4.0"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.eval_results is not None
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found["own data ('val'), from s2+s1", "mean_iou"] == 0.625
    assert found["own data ('val'), from s1", "mean_iou"] == 0.25
    text = card.text
    for row in (
        "| `s2` | optical | nir | dn |  | 1 | 102.7 | 10.48 | 81.3 | 124.8 |",
        "| 1 | wet | 1 | `#ee6677` |",
        "| `s2+s1` | 0.75 | 0.7 | 0.625 | 0.5 | 0.4 | 0.6 | – |",
        "- Trained on split: train; 6 steps, seed 0",
        "- They started from random values",
        "- Classes without a right pixel in the scores: wet.",
        "- Scores are of split 'val', not of a test split.",
        'run = terrafuse.load("hf://owner/flood")',
    ):
        assert row in text
    sums = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].decode().splitlines())
    assert set(sums) == {"model.safetensors", "model.json", "config.yaml", "metrics.json"}
    for file, value in sums.items():
        assert value == hashlib.sha256(files[file]).hexdigest()
        assert f"| `{file}` | `{value}` |" in text


def test_a_card_without_scores_says_so(hub: Hub, run: Path) -> None:
    (run / "metrics.json").unlink()
    push_run(run, "hub:owner/flood")
    card = ModelCard(hub.files_of("owner/flood")["README.md"].decode())
    assert card.data.eval_results is None
    assert "The run was not evaluated" in card.text
    assert "- These weights: not stated by their owner" in card.text


# What goes wrong on the way here


def test_a_broken_off_download_is_resumed(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)  # what came is kept in these
    pushed = push_run(run, "hub:owner/flood")
    hub.breaks["model.safetensors"] = 2
    folder = run_folder(str(pushed))
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    ranges = [wanted for _, _, wanted in hub.asked("GET", "cdn/")]
    size = (run / "model.safetensors").stat().st_size
    first = size // 2 // 1024 * 1024
    second = first + (size - first) // 2 // 1024 * 1024
    assert ranges == ["", f"bytes={first}-", f"bytes={second}-"]


def test_a_download_that_does_not_end_leaves_nothing_that_looks_whole(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push_run(run, "hub:owner/flood")
    monkeypatch.setattr(huggingface_downloads(), "http_get", once(huggingface_downloads().http_get))
    hub.breaks["model.safetensors"] = -1
    place = (
        "weights.hub_runs:_not_fetched | Check the name, and run the same again; what came whole"
    )
    with refused(place, WeightsNotFoundError):
        terrafuse.load(str(pushed))
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    assert not list((tmp_path / "cache" / "assets").rglob("*.json"))
    hub.breaks.clear()
    hub.requests.clear()
    terrafuse.load(str(pushed))  # the same again
    assert not hub.asked("GET", "resolve/" + pushed.commit + "/model.json")


def huggingface_downloads() -> Any:
    import huggingface_hub.file_download as module

    return module


def once(get: Callable[..., None]) -> Callable[..., None]:
    """A download that is not resumed, as after five times in vain."""
    return lambda *args, **kwargs: get(*args, **{**kwargs, "_nb_retries": 0})


def test_a_file_with_another_digest_is_refused(hub: Hub, run: Path) -> None:
    first = push_run(run, "hub:owner/flood")
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    hub.instead["model.safetensors"] = bytes(content)
    place = (
        "weights.hub_runs:_check | Its owner has to push the run again; name an earlier revision"
    )
    with refused(place) as error:
        terrafuse.load("hf://owner/flood")
    assert hashlib.sha256(content).hexdigest() in error
    assert len(hub.asked("GET", "cdn/")) == 2
    hub.instead.clear()  # damaged on the way: the file is fetched anew
    assert terrafuse.load("hf://owner/flood").folder.name == first.commit


def test_a_damaged_file_in_the_cache_is_fetched_again(hub: Hub, run: Path, tmp_path: Path) -> None:
    pushed = push_run(run, "hub:owner/flood")
    folder = run_folder(str(pushed))
    shutil.rmtree(folder)
    (snapshot,) = (tmp_path / "cache" / "hub").glob("*/snapshots/*")
    (snapshot / "model.json").resolve().write_text("{}")
    assert terrafuse.load(str(pushed)).folder == folder


def test_pickles_and_foreign_files_are_not_fetched(hub: Hub, run: Path) -> None:
    push_run(run, "hub:owner/flood")
    repository = hub.repositories["owner/flood"]
    files = hub.files_of("owner/flood")
    more = {"last.ckpt": b"\x80", "best.pt": b"\x80", "method.py": b"1", "a/model.json": b"{}"}
    extra = {"metrics_other.json": b"{}"}  # not among the digests
    commit = repository.commit({**files, **more, **extra})
    folder = run_folder("hf://owner/flood")
    assert folder.name == commit
    assert {p.name for p in folder.iterdir()} == set(files) - {".gitattributes", "SHA256SUMS"}
    assert not any(hub.asked("GET", name) for name in more)


def test_a_run_brought_there_by_other_means(hub: Hub, run: Path) -> None:
    files = {name: (run / name).read_bytes() for name in ("model.json", "config.yaml")}
    files["model.safetensors"] = (run / "model.safetensors").read_bytes()
    hub.repository("owner/byhand").commit(files)
    with pytest.warns(UserWarning, match="holds no SHA256SUMS as pushed runs do"):
        folder = run_folder("hf://owner/byhand")
    terrafuse.load(folder)


def test_a_repository_that_is_no_run(hub: Hub, run: Path) -> None:
    hub.repository("owner/bert").commit({"config.json": b"{}", "model.safetensors": b"12345678"})
    with refused("weights.hub_runs:_take | Name a repository that 'terrafuse push' made"):
        terrafuse.load("hf://owner/bert")
    push_run(run, "hub:owner/flood")
    terrafuse.load("hf://owner/flood")


def test_no_such_revision_and_private_ones(
    hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_run(run, "hub:owner/flood", private=True)
    with pytest.raises(WeightsNotFoundError, match=r"@v9' cannot be fetched: .* no such branch, t"):
        terrafuse.load("hf://owner/flood@v9")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(WeightsNotFoundError, match="or it is a private one: those are shown only "):
        terrafuse.load("hf://owner/flood")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    terrafuse.load("hf://owner/flood")


def test_a_repository_that_is_given_on_request(hub: Hub, run: Path) -> None:
    push_run(run, "hub:owner/flood")
    hub.repositories["owner/flood"].gated = True
    place = "weights.hub:why_not | is given on request only: ask for it on"
    with refused(place, WeightsNotFoundError) as error:
        terrafuse.load("hf://owner/flood")
    assert f"ask for it on {hub.address}/owner/flood. Check" in error
    hub.repositories["owner/flood"].gated = False  # its owner has agreed
    terrafuse.load("hf://owner/flood")


def test_without_the_hub_what_was_fetched_is_taken(
    hub: Hub, run: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push_run(run, "hub:owner/flood")
    folder = run_folder("hf://owner/flood")
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    with pytest.warns(UserWarning, match=f"is the one fetched before, commit {pushed.commit}"):
        assert run_folder("hf://owner/flood") == folder
    assert run_folder(str(pushed)) == folder
    place = "weights.hub_runs:_not_fetched | Fetch it where there is a network, or copy the run's"
    with refused(place) as error:
        terrafuse.load("hf://owner/other")
    assert f"{closed_port} cannot be reached" in error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run_folder("hf://owner/flood") == folder  # as asked for, without a word
    with refused(place) as error:
        terrafuse.load("hf://owner/other@v1")
    assert "HF_HUB_OFFLINE is set" in error
    terrafuse.load(folder)


def test_a_half_fetched_revision_is_not_taken_without_the_hub(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push_run(run, "hub:owner/flood")
    shutil.rmtree(run_folder(str(pushed)))
    (snapshot,) = (tmp_path / "cache" / "hub").glob("*/snapshots/*")
    (snapshot / "model.safetensors").unlink()
    for listing in (tmp_path / "cache" / "hub").rglob("trees/*"):
        listing.unlink()  # earlier versions of huggingface_hub kept none
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsNotFoundError, match="is not wholly on this machine, and HF_HUB_OFF"):
        terrafuse.load(str(pushed))


# What goes wrong on the way there


def test_what_the_hub_does_not_take(
    hub: Hub, run: Path, closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with refused("weights.hub_runs:_commit | mend this and push again", OutputError) as error:
        push_run(run, "hub:others/flood")
    assert f"{hub.address} does not allow it to the token in HF_TOKEN. Nothing of it" in error
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    with pytest.raises(OutputError, match="does not know the token in HF_TOKEN"):
        push_run(run, "hub:owner/flood")
    monkeypatch.delenv("HF_TOKEN")
    with refused("weights.hub_runs:_commit | Set HF_TOKEN to one that may write") as error:
        push_run(run, "hub:owner/flood")
    assert "may write to 'owner'" in error
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", closed_port)
    with refused("weights.hub_runs:_commit | Push it where there is a network"):
        push_run(run, "hub:owner/flood")
    assert not hub.repositories
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    push_run(run, "hub:owner/flood")


def test_a_private_run_does_not_become_public(hub: Hub, run: Path) -> None:
    push_run(run, "hub:owner/flood")
    before = len(hub.repositories["owner/flood"].commits)
    place = "weights.hub_runs:_push | Make it private on its page, or name another one"
    with refused(place, OutputError):
        push_run(run, "hub:owner/flood", private=True)
    assert len(hub.repositories["owner/flood"].commits) == before
    push_run(run, "hub:owner/secret", private=True)
    hub.repositories["owner/flood"].private = True
    push_run(run, "hub:owner/flood", private=True)


def test_only_finished_and_sound_runs_are_pushed(hub: Hub, run: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match="is not a run folder: it holds no model"):
        api.push(tmp_path / "nothing", "hub:owner/flood")
    place = "weights.hub_runs:push_run | names a revision, which a push makes anew. Leave"
    with refused(place) as error:
        api.push(run, "hub:owner/flood@v1")
    assert error.find("Leave '(.*?)' out") == "@v1"
    info = json.loads((run / "model.json").read_text()) | {"state_sha256": OTHER_DIGEST}
    (run / "model.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"is not the file that model\.json beside it"):
        api.push(run, "hub:owner/flood")
    assert not hub.requests


def test_a_push_that_is_stopped(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = HfApi.create_commit
    monkeypatch.setattr(HfApi, "create_commit", lambda *_, **__: stop_here(signal.SIGTERM))
    with pytest.raises(Stopped) as stop:
        api.push(run, "hub:owner/flood")
    said(
        "api.sharing:push | nothing of it is seen on the hub; run the same command again",
        how_to_go_on(stop.value),
    )
    assert set(hub.files_of("owner/flood")) == {".gitattributes"}
    monkeypatch.setattr(HfApi, "create_commit", commit)
    api.push(run, "hub:owner/flood")
    terrafuse.load("hf://owner/flood")


def test_a_name_without_owner_is_not_pushed_to(hub: Hub, run: Path) -> None:
    with pytest.raises(ConfigError, match="'hub:flood' does not name a run on the hub") as error:
        api.push(run, "hub:flood")
    form = said("weights.hub_runs:HubRun.parse | Write hf://owner/name", str(error.value))
    api.push(run, form.find("Write (hf://owner/name), or"))
