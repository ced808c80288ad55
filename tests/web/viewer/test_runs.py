"""A run is looked at: its map of a scene is made once, and says why."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

pytest.importorskip("fastapi", reason="the extra web is not installed")

from fastapi.testclient import TestClient

from made_runs import make_run
from terrafuse import api
from terrafuse.web.viewer.scenes import Plan
from terrafuse.web.viewer.serving import open_viewer
from terrafuse.web.viewer.subjects import find_subjects


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("looked_at"))


@pytest.mark.filterwarnings("ignore:.*values.*")
def test_a_map_is_made_once_and_says_why(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = api.Run.predict

    def counted(self: api.Run, *args: object, **options: object) -> object:
        made.append(options["scene"])
        return real(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(api.Run, "predict", counted)
    manifest = run.parent / "data" / "dataset.yaml"
    preparer, app = open_viewer(run)
    client = TestClient(app, base_url="http://127.0.0.1")
    (entry,) = client.get("/index.json").json()["views"]
    assert (entry["id"], entry["split"], entry["state"]) == ("scene2", "val", "waiting")
    assert client.get("/v/scene2/view.json").status_code == 409
    preparer.shown("scene2")
    assert made == [f"{manifest}#scene2"]
    view = client.get("/v/scene2/view.json").json()
    assert [one["id"] for one in view["layers"]] == [
        "s2", "s1", "class_map", "truth", "difference", "confidence", "entropy", "attribution",
        "attribution_margin",
    ]  # fmt: skip
    out = run / "views" / "scene2"

    # A window of 32 pixels is the whole scene: the model says what the map says.
    with rasterio.open(out / "class_map.tif") as mapped, rasterio.open(out / "entropy.tif") as e:
        classes, entropy = mapped.read(1), e.read(1)
    with rasterio.open(out / "attribution.tif") as dataset:
        attribution = dataset.read(1)
    names = [one["name"] for one in view["classes"]]
    for row, col in ((0, 0), (17, 5), (31, 31)):
        why = client.get(f"/v/scene2/why?row={row}&col={col}").json()
        shares = np.array(why["probabilities"])
        assert names.index(why["mapped"]) == classes[row, col] == shares.argmax()
        nats = -(shares * np.log(shares)).sum() / np.log(2)
        assert nats == pytest.approx(entropy[row, col] / 254, abs=1 / 254)
        influences = {one["modality"]: one for one in why["influences"]}
        assert list(influences) == ["s2", "s1"]
        for one in influences.values():
            without = np.array(one["probabilities"])
            assert without.sum() == pytest.approx(1)
            assert one["lost"] == pytest.approx(shares.max() - without[shares.argmax()])
        beaten = [n for n, one in influences.items()
                  if np.argmax(one["probabilities"]) != shares.argmax()]  # fmt: skip
        assert bool(attribution[row, col]) == bool(beaten)
        assert why["text"].startswith(f"{why['mapped']} has {shares.max():.2f}")
    assert client.get("/v/scene2/why?row=32&col=0").status_code == 400

    # Found again by another viewer; made anew for another model.
    open_viewer(run)[0].shown("scene2")
    assert len(made) == 1
    record = json.loads((out / "prediction.json").read_text())
    (out / "prediction.json").write_text(json.dumps({**record, "made_of": "another model"}))
    open_viewer(run)[0].shown("scene2")
    assert len(made) == 2


@pytest.mark.filterwarnings("ignore:.*values.*")
def test_subsets_of_modalities_are_mapped(run: Path) -> None:
    subject = find_subjects(run, subsets=True).subjects["scene2"]
    assert subject.make is not None
    (subject.map / "prediction.json").unlink(missing_ok=True)  # type: ignore[operator]
    assert not subject.is_made()
    subject.make(None)
    assert subject.is_made()
    found = Plan(subject).show()
    ids = [layer.id for layer in found.view.layers if layer.role == "subset"]
    assert ids == ["subset_s1", "subset_s2"]
    model = api.load(run)
    scene = model.dataset(run.parent / "data" / "dataset.yaml").scene("scene2")
    expected = model.predictor()[0].class_map(scene, without={"s2"})
    with rasterio.open(found.rasters["subset_s1"]) as dataset:
        assert np.array_equal(dataset.read(1), expected)


@pytest.mark.filterwarnings("ignore:.*values.*")
@pytest.mark.parametrize("by", ["scene", "rasters"])
def test_a_map_knows_what_it_was_made_of(run: Path, tmp_path: Path, by: str) -> None:
    data = run.parent / "data"
    how: dict[str, object] = {"scene": f"{data / 'dataset.yaml'}#scene2"}
    if by == "rasters":
        how = {"rasters": {"s2": data / "s2_2.tif", "s1": data / "s1_2.tif"}}
    api.load(run).predict(tmp_path / "map", **how)  # type: ignore[arg-type]
    record = json.loads((tmp_path / "map" / "prediction.json").read_text())
    assert (tmp_path / "map" / record["inputs"]["model"]).resolve() == run
    _, app = open_viewer(tmp_path / "map")
    client = TestClient(app, base_url="http://127.0.0.1")
    (entry,) = client.get("/index.json").json()["views"]
    view = client.get(f"/{entry['href']}").json()
    ids = [one["id"] for one in view["layers"]]
    assert ids[:3] == ["s2", "s1", "class_map"]
    assert ("truth" in ids) == (by == "scene")
    assert view["notes"] == []
    why = client.get(f"/v/{entry['id']}/why?row=3&col=3").json()
    assert [one["modality"] for one in why["influences"]] == ["s2", "s1"]
