"""Making a raster: once, whole or not at all, gone on with after an interruption."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from children import kill_at_rename
from children import run as in_fork
from generate_parts import (
    BrokenRecipe,
    FakeGenerator,
    as_picture,
    from_picture,
    known_segments,
    make_job,
    run,
    show,
)
from terrafuse.errors import ConfigError, DataError, ModelError, OutputError
from terrafuse.generate import SuperpixelGenerator, WindowedGenerator, WindowRunner, generate_raster
from terrafuse.generate.cache import WindowCache, digest_settings
from terrafuse.generate.windows import WindowPlan

MakeRaster = Callable[..., Path]


@pytest.fixture
def photo(make_raster: MakeRaster, tmp_path: Path) -> Path:
    return make_raster(tmp_path / "town.tif", as_picture(known_segments(150, 170, 30, seed=1)))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def counting(fail_at: int | None = None, error: type[BaseException] = ValueError) -> FakeGenerator:
    """Counts its windows; raises at one of them."""
    calls: list[int] = []

    def make(picture: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) == fail_at:
            raise error
        return from_picture(picture)

    generator = FakeGenerator(make)
    generator.__dict__["calls"] = calls
    return generator


def test_what_is_there_is_left_alone(photo: Path, tmp_path: Path) -> None:
    first = counting()
    made = run(make_job(photo, tmp_path / "out"), first)
    before = contents(tmp_path / "out")
    plan = WindowPlan(150, 170, 64, 24)
    assert len(first.calls) == len(plan.windows) == 16
    again, reports = counting(), []
    same = run(make_job(photo, tmp_path / "out"), again, report=lambda: reports.append(1))
    assert same.skipped
    assert not again.calls
    assert not again.built  # the model is not even loaded
    assert len(reports) == 16
    assert same.record == made.record
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_work_is_gone_on_with_to_the_same_bytes(
    photo: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    run(make_job(photo, tmp_path / "whole"), counting())
    with pytest.raises(error):
        run(make_job(photo, tmp_path / "out"), counting(fail_at=6, error=error))
    left = [path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert left == [".npz"] * 5  # nothing that looks like a result
    rest, reports = counting(), []
    run(make_job(photo, tmp_path / "out"), rest, report=lambda: reports.append(1))
    assert len(rest.calls) == 11
    assert len(reports) == 16
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_failure_while_putting_together_leaves_no_result(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_job(photo, tmp_path / "whole"), counting())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        # By module: the package's attribute of this name is the verb.
        patch.setattr(sys.modules["terrafuse.generate.rasters"], "save_preview", full)
        with pytest.raises(OutputError, match="No space left on device"):
            run(make_job(photo, tmp_path / "out"), counting())
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {".npz"}
    rest = counting()
    run(make_job(photo, tmp_path / "out"), rest)
    assert not rest.calls
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_killed_work_is_gone_on_with_to_the_same_bytes(photo: Path, tmp_path: Path) -> None:
    run(make_job(photo, tmp_path / "whole"), counting())
    job = make_job(photo, tmp_path / "out")
    assert in_fork(lambda: (kill_at_rename(4), run(job, counting()))) == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("*/*/*.npz"))) == 3
    rest = counting()
    run(make_job(photo, tmp_path / "out"), rest)
    assert len(rest.calls) == 16 - 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_window_that_a_crash_has_damaged_is_made_again(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        run(make_job(photo, tmp_path / "out"), counting(fail_at=9))
    damaged = sorted((tmp_path / "out").rglob("*.npz"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    rest = counting()
    run(make_job(photo, tmp_path / "out"), rest)
    assert len(rest.calls) == 16 - 7


def test_other_settings_are_refused_and_named(photo: Path, tmp_path: Path) -> None:
    job = make_job(photo, tmp_path / "out")
    run(job, SuperpixelGenerator(size=9))
    before = contents(tmp_path / "out")
    with pytest.raises(OutputError) as caught:
        run(job, SuperpixelGenerator(size=12, compactness=3.0), overlap=16)
    text = str(caught.value)
    assert "size was 9, is 12; compactness was 10.0, is 3.0; overlap was 24, is 16" in text
    assert "--overwrite" in text
    assert contents(tmp_path / "out") == before
    made = run(job, SuperpixelGenerator(size=12), overwrite=True)
    assert made.record["settings"]["size"] == 12
    assert contents(tmp_path / "out") != before
    assert run(job, SuperpixelGenerator(size=12)).skipped


def test_a_photo_that_has_changed_is_named(photo: Path, tmp_path: Path) -> None:
    run(make_job(photo, tmp_path / "out"), counting())
    with rasterio.open(photo, "r+") as dataset:
        image = dataset.read()
        image[0, 100, 100] += 1
        dataset.write(image)
    with pytest.raises(OutputError, match=r"another state of photo 'town', which has changed"):
        run(make_job(photo, tmp_path / "out"), counting())
    assert not run(make_job(photo, tmp_path / "out"), counting(), overwrite=True).skipped
    # Its place on the ground belongs to it, too.
    with rasterio.open(photo, "r+") as dataset:
        dataset.transform = dataset.transform.translation(5, 0) * dataset.transform
    with pytest.raises(OutputError, match="has changed"):
        run(make_job(photo, tmp_path / "out"), counting())


@pytest.mark.parametrize("overwrite", [False, True])
def test_somebody_elses_file_is_never_replaced(
    photo: Path, tmp_path: Path, overwrite: bool
) -> None:
    before = photo.read_bytes()
    with pytest.raises(OutputError, match="was not made by terrafuse generate"):
        run(make_job(photo, photo.parent), counting(), overwrite=overwrite)
    assert photo.read_bytes() == before


def test_a_photo_without_data(make_raster: MakeRaster, tmp_path: Path) -> None:
    empty = make_raster(tmp_path / "a.tif", np.zeros((3, 30, 40), np.uint8), nodata=0)
    with pytest.raises(DataError, match="photo 'a' has no pixel with data"):
        run(make_job(empty, tmp_path / "out"), counting())
    assert not (tmp_path / "out").exists()


def test_windows_without_data_cost_nothing(make_raster: MakeRaster, tmp_path: Path) -> None:
    image = np.zeros((3, 64, 300), np.uint8)
    image[:, :, :60] = 5
    generator = counting()
    run(make_job(make_raster(tmp_path / "a.tif", image, nodata=0), tmp_path / "out"), generator)
    assert len(WindowPlan(64, 300, 64, 24).windows) == 7
    assert len(generator.calls) == 2


def test_a_model_that_gives_another_size(photo: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"shape \(3, 3\) for a picture of \(64, 64\)"):
        run(make_job(photo, tmp_path / "out"), FakeGenerator(lambda _: np.zeros((3, 3), int)))


def test_the_result_does_not_depend_on_the_number_of_workers(
    make_raster: MakeRaster, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(1, 255, (3, 9, 11), np.uint8).repeat(12, axis=1).repeat(12, axis=2)
    photo = make_raster(tmp_path / "a.tif", image)
    generator = SuperpixelGenerator(size=10)
    run(make_job(photo, tmp_path / "one"), generator)
    windowed = WindowedGenerator(generator, 64, 24)
    with WindowRunner(generator, 2) as runner:
        generate_raster(
            make_job(photo, tmp_path / "two"), windowed, runner,
            preview=show,
        )  # fmt: skip
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_faults_in_workers_are_those_of_the_user(make_raster: MakeRaster, tmp_path: Path) -> None:
    # One window, hence one process.
    photo = make_raster(tmp_path / "a.tif", as_picture(known_segments(60, 60, 9, seed=1)))
    generator = BrokenRecipe()
    windowed = WindowedGenerator(generator, 64, 24)
    with (
        pytest.raises(ModelError, match="there is no such model"),
        WindowRunner(generator, 2) as runner,
    ):
        generate_raster(
            make_job(photo, tmp_path / "out"), windowed, runner, preview=lambda image: image
        )


@pytest.mark.parametrize(("size", "overlap"), [(64, 33), (64, -1), (0, 0)])
def test_windows_that_cannot_be(photo: Path, tmp_path: Path, size: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match=rf"overlap is {overlap} with windows of {size} pixels"):
        run(make_job(photo, tmp_path / "out"), counting(), size=size, overlap=overlap)
    with pytest.raises(ConfigError, match="workers is 0"):
        WindowRunner(SuperpixelGenerator(), 0)


def test_fingerprints_tell_values_apart_not_their_order() -> None:
    assert digest_settings({"a": 1, "b": {"c": 2, "d": 3}}) == digest_settings(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert digest_settings({"a": 1}) != digest_settings({"a": 1.5})
    assert len(digest_settings({})) == 16


def test_the_cache_keeps_a_few_windows_in_memory(tmp_path: Path) -> None:
    cache = WindowCache(tmp_path / "w")
    for number in range(30):
        cache.save(number, np.full((4, 4), number, np.uint16))
    assert [int(cache.load(n)[0, 0]) for n in (0, 29, 3)] == [0, 29, 3]
    assert cache.load(3) is cache.load(3)
    first = cache.load(0)
    for number in range(30):
        cache.load(number)
    assert cache.load(0) is not first
    assert not cache.has(30)
    cache.remove()
    assert not (tmp_path / "w").exists()


LARGE = """
import resource, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
import numpy as np
from generate_parts import FakeGenerator, from_picture, make_job, run

def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

photo, out = Path(sys.argv[1]), Path(sys.argv[2])
before = peak_mb()
segments = FakeGenerator(from_picture)
made = run(make_job(photo, out / "s"), segments, 1024, 128)
depth = FakeGenerator(lambda p: p.mean(axis=-1, dtype=np.float32), "depth", aligned=True)
run(make_job(photo, out / "d"), depth, 1024, 128)
print(peak_mb() - before, made.record["result"]["segments"])
"""


def test_memory_does_not_grow_with_the_photo(make_raster: MakeRaster, tmp_path: Path) -> None:
    """2000 × 3000 pixels, beyond what the model takes: far below the 1.5 GB allowed."""
    labels = np.arange(1, 50 * 75 + 1).reshape(50, 75).repeat(40, axis=0).repeat(40, axis=1)
    photo = make_raster(tmp_path / "a.tif", as_picture(labels), tiled=True, compress="deflate")
    words = [sys.executable, "-c", LARGE, photo, tmp_path, Path(__file__).parents[1] / "helpers"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    grown, segments = done.stdout.split()
    assert float(grown) < 400
    assert int(segments) == 50 * 75
