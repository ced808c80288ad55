"""What is kept of a data set: found again only while nothing has changed."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terrafuse.data import kept, load_manifest
from terrafuse.data.kept import FOLDER, Keeper, forget, open_keeper

Make = Callable[..., Path]

MANIFEST = """
classes:
- {name: dry, code: 0}
- {name: wet, code: 1}
modalities:
  a: {kind: optical, bands: [red], nodata: 0}
  b: {kind: sar, bands: [vv]}
  c: {kind: elevation, bands: [dsm], required: false}
scenes:
- {id: one, split: train, a: a1.tif, b: b1.vrt, c: /vsizip/c.zip/c1.tif, labels: l1.tif,
   labels_eroded: e1.tif}
- {id: two, split: val, a: 'a2*.tif', b: b1.vrt, labels: l2.tif}
"""
VRT = (
    "<VRTDataset rasterXSize='8' rasterYSize='8'><VRTRasterBand dataType='Byte' band='1'>"
    "<SimpleSource><SourceFilename relativeToVRT='1'>{}</SourceFilename></SimpleSource>"
    "</VRTRasterBand></VRTDataset>"
)


@pytest.fixture
def path(tmp_path: Path, make_raster: Make, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A manifest of two scenes; files count as settled at once."""
    monkeypatch.setattr(kept, "_SETTLED_NS", 0)
    folder = tmp_path / "data"
    for name in ("a1", "a2_x", "a10", "inner", "l1", "l2", "e1"):
        make_raster(folder / f"{name}.tif", np.ones((1, 8, 8), np.uint8))
    make_raster(tmp_path / "c1.tif", np.ones((1, 8, 8), np.float32))
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        archive.write(tmp_path / "c1.tif", "c1.tif")
    (folder / "b1.vrt").write_text(VRT.format("nested.vrt"))
    (folder / "nested.vrt").write_text(VRT.format("inner.tif"))
    manifest = folder / "dataset.yaml"
    manifest.write_text(MANIFEST)
    return manifest


def keeper(path: Path) -> Keeper:
    return open_keeper(load_manifest(path))


def alter(path: Path) -> None:
    """Change a byte; size and time of the last change of content stay as they were."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock of files has moved on
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(path: Path) -> None:
    """Put another file of the same size and time in its place."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    copy.replace(path)


def zip_again(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("c1.tif.aux.xml", "<PAMDataset/>")


def written(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text("x")

    return write


def do(change: Callable[[Path], None], name: str, folder: Path) -> None:
    change(folder / name)


FILES = ("a1.tif", "a2_x.tif", "b1.vrt", "nested.vrt", "inner.tif", "l1.tif", "l2.tif", "e1.tif")
CHANGES: dict[str, Callable[[Path], None]] = {
    **{f"{name} altered": partial(do, alter, name) for name in FILES},
    **{f"{name} replaced": partial(do, replace, name) for name in FILES},
    "touched": lambda folder: os.utime(folder / "a1.tif"),
    "zip altered": lambda folder: alter(folder / "c.zip"),
    "member added": lambda folder: zip_again(folder / "c.zip"),
    **{
        f"{name} appears": written(name)
        for name in (
            "a1.tif.aux.xml", "a1.tif.ovr", "a1.tif.msk", "a1.tfw", "a1.prj", "a1.aux", "a2_y.tif",
            "inner.tif.aux.xml", "l1.tif.aux.xml", "b1.vrt.ovr", "inner.tif.msk",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_any_file_is_seen(path: Path, change: Callable[[Path], None]) -> None:
    before = keeper(path)
    assert before.digest
    assert before.folder == path.parent / FOLDER
    assert keeper(path).digest == before.digest
    change(path.parent)
    assert keeper(path).digest != before.digest


def test_a_sidecar_that_changes_or_goes_is_seen(path: Path) -> None:
    side = path.with_name("a1.tif.aux.xml")
    digests = [keeper(path).digest]
    side.write_text("one")
    digests.append(keeper(path).digest)
    alter(side)
    digests.append(keeper(path).digest)
    assert len(set(digests)) == 3
    side.unlink()
    assert keeper(path).digest == digests[0]


EDITS = {
    "nodata": ("nodata: 0", "nodata: 1"),
    "code": ("code: 1", "code: 2"),
    "band": ("[red]", "[nir]"),
    "kind": ("kind: sar", "kind: optical"),
    "split": ("split: val", "split: train"),
    "path": ("a: a1.tif", "a: a10.tif"),
    "id": ("id: one", "id: eins"),
    "window": ("id: one,", "id: one, window: [0, 0, 4, 4],"),
    "unknown": ("modalities:", "unknown: wet\nmodalities:"),
    "void": ("modalities:", "void: [7]\nmodalities:"),
    "grid": ("scenes:", "grid: b\nscenes:"),
    "labels": ("scenes:", "labels: {nodata: 0}\nscenes:"),
    "resampling": ("nodata: 0", "nodata: 0, resampling: nearest"),
    "place": ("id: one,", "id: one, place: here,"),
    "eroded": ("   labels_eroded: e1.tif", "   labels_eroded: l1.tif"),
}


@pytest.mark.parametrize(("old", "new"), EDITS.values(), ids=EDITS)
def test_a_change_of_the_manifest_is_seen(path: Path, old: str, new: str) -> None:
    before = keeper(path).digest
    assert old in MANIFEST
    path.write_text(MANIFEST.replace(old, new))
    assert keeper(path).digest not in ("", before)


def test_a_change_of_the_labelled_area_is_seen(path: Path) -> None:
    area = path.with_name("area.geojson")
    area.write_text("{}")
    path.write_text(MANIFEST.replace("scenes:", "labels: {area: area.geojson}\nscenes:"))
    before = keeper(path).digest
    assert before
    alter(area)
    assert keeper(path).digest not in ("", before)


def test_modalities_and_rules_of_a_run_count(path: Path) -> None:
    manifest = load_manifest(path)
    used = [manifest, manifest.select(["b", "a"]), manifest.select(["a", "b"]),
            manifest.with_rescale({"a": "scene_range"}), manifest.read_as_before()]  # fmt: skip
    assert len({open_keeper(m).digest for m in used}) == len(used)


def test_settings_of_gdal_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keeper(path).digest
    monkeypatch.setenv("GDAL_SOMETHING", "YES")
    kept._environment.cache_clear()
    assert keeper(path).digest not in ("", before)
    kept._environment.cache_clear()


def test_what_is_not_read_does_not_count(path: Path) -> None:
    before = keeper(path).digest
    alter(path.with_name("a10.tif"))
    path.with_name("readme.txt").write_text("new")
    path.with_name("a1").mkdir()
    path.with_name("a1.old").mkdir()
    path.write_text(f"# a comment\n{MANIFEST}")
    assert keeper(path).digest == before


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("https://127.0.0.1:9/a.tif", "not read from this disk"),
        ("folder.zarr", "cannot be told"),
        ("/vsizip/c.zip/inner.vrt", "names further files"),
        ("far.vrt", "not read from this disk"),
        ("made.vrt", "cannot be told for certain"),
        ("pipe.tif", "no plain file"),
    ],
)
def test_what_cannot_be_told_is_not_kept(path: Path, file: str, reason: str) -> None:
    path.with_name("folder.zarr").mkdir()
    path.with_name("far.vrt").write_text(VRT.format("/vsicurl/http://127.0.0.1:9/a.tif"))
    path.with_name("made.vrt").write_text("<VRTDataset><ProcessingSteps/></VRTDataset>")
    os.mkfifo(path.with_name("pipe.tif"))
    path.write_text(MANIFEST.replace("a: a1.tif", f"a: '{file}'"))
    found = keeper(path)
    assert found.folder is None
    assert reason in found.notice
    found.save("kind", values={"x": 1})
    assert found.load("kind") == {"x": 1}  # within the process
    assert keeper(path).load("kind") is None


def test_files_just_written_are_not_trusted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_SETTLED_NS", 3600 * 10**9)
    found = keeper(path)
    assert (found.folder, found.notice) == (None, "")


def test_a_missing_file_is_left_to_who_opens_it(path: Path) -> None:
    path.with_name("l1.tif").unlink()
    found = keeper(path)
    assert (found.folder, found.notice) == (None, "")


def test_values_and_arrays_come_back(path: Path) -> None:
    values: dict[str, Any] = {"a": 0.1 + 0.2, "b": [1, None, "ß"]}
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    keeper(path).save("kind", 1, "x", values=values, arrays={"array": array})
    found = keeper(path).load("kind", 1, "x")
    assert found is not None
    np.testing.assert_array_equal(found.pop("array"), array, strict=True)
    assert found == values
    for other in (("kind", 1, "y"), ("kind", 1), ("other", 1, "x")):
        assert keeper(path).load(*other) is None
    assert open_keeper(load_manifest(path), fresh=True).load("kind", 1, "x") is None
    assert (path.parent / FOLDER / ".gitignore").read_text() == "*\n"


def test_fresh_replaces(path: Path) -> None:
    keeper(path).save("kind", values={"x": 1})
    open_keeper(load_manifest(path), fresh=True).save("kind", values={"x": 2})
    assert keeper(path).load("kind") == {"x": 2}


def test_what_is_forgotten_is_read_again_and_nothing_else_goes(path: Path) -> None:
    keeper(path).save("kind", values={"x": 1})
    view = path.parent / FOLDER / "view" / "a.tif"
    view.parent.mkdir()
    view.touch()
    forget(path)
    assert keeper(path).load("kind") is None
    assert view.exists()


@pytest.mark.parametrize("size", [0, 10, 200])
def test_a_damaged_file_is_as_good_as_none(path: Path, size: int) -> None:
    keeper(path).save("kind", values={"x": "y" * 500})
    (file,) = (path.parent / FOLDER).glob("*.npz")
    file.write_bytes(file.read_bytes()[:size])
    assert keeper(path).load("kind") is None
    file.write_bytes(b"\x93NUMPY" + b"?" * 100)
    assert keeper(path).load("kind") is None


def test_a_flipped_bit_is_seen(path: Path) -> None:
    keeper(path).save("kind", values={}, arrays={"x": np.zeros(1000)})
    (file,) = (path.parent / FOLDER).glob("*.npz")
    content = bytearray(file.read_bytes())
    content[5000] ^= 4
    file.write_bytes(content)
    assert keeper(path).load("kind") is None


def test_no_flipped_bit_in_the_directory_of_a_file_is_an_error(tmp_path: Path) -> None:
    array = np.arange(3)
    own = Keeper(tmp_path, "state")
    own.save("kind", values={"y": 1}, arrays={"x": array})
    (file,) = tmp_path.glob("*.npz")
    content = file.read_bytes()
    for place in range(content.rindex(b"PK\x01\x02") - 60, len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            file.write_bytes(damaged)
            found = Keeper(tmp_path, "state").load("kind")
            assert found is None or (found["y"] == 1 and np.array_equal(found["x"], array))


def test_other_places_where_the_folder_cannot_be_written(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (path.parent / FOLDER).write_text("in the way")
    found = keeper(path)
    assert found.folder is not None
    assert found.folder.parent == tmp_path / "cache" / "terrafuse"
    found.save("kind", values={"x": 1})
    assert keeper(path).load("kind") == {"x": 1}
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file
    found = keeper(path)
    assert found.folder is None
    assert "name another cache with XDG_CACHE_HOME" in found.notice
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))  # as the notice says
    assert keeper(path).folder is not None


def test_a_folder_that_fails_is_told_of_and_given_up(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    own = Keeper(tmp_path / "file", "state")
    with pytest.warns(UserWarning, match="what was read of the data cannot be kept: .*file"):
        own.save("kind", values={"x": 1})
    own.save("other", values={"x": 2})
    assert (own.load("kind"), own.load("other")) == ({"x": 1}, {"x": 2})  # within the process


def test_the_environment_turns_it_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERRAFUSE_KEEP", "off")
    assert keeper(path) == Keeper()
    assert not (path.parent / FOLDER).exists()


def test_jobs_at_once_leave_whole_files(path: Path) -> None:
    def work(number: int) -> Any:
        own = keeper(path)
        own.save("kind", values={"x": 1}, arrays={"big": np.full(100_000, 7)})
        found = keeper(path).load("kind")
        return found is not None and int(found["big"].sum())

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(work, range(12))) == [700_000] * 12
    assert len(list((path.parent / FOLDER).glob("*.npz"))) == 1


def test_the_last_ones_used_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST_KEPT", 3)
    for number in range(5):
        keeper(path).save("kind", number, values={"n": number})
        for file in (path.parent / FOLDER).glob("*.npz"):  # each is older than the next
            about = file.stat()
            os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns - 10**9))
        assert keeper(path).load("kind", 0) == {"n": 0}  # used again and again
    found = [keeper(path).load("kind", number) is not None for number in range(5)]
    assert found == [True, False, False, True, True]
