"""Files of the server that requests may name."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from terrafuse.errors import DataError
from terrafuse.web.service.roots import resolve


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two roots, a secret beside them, and links of all kinds."""
    for name in ("one/deep", "two", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "one/a.tif").write_text("one")
    (tmp_path / "one/deep/b.tif").write_text("deep")
    (tmp_path / "two/a.tif").write_text("two")
    (tmp_path / "two/c.tif").write_text("c")
    (tmp_path / "outside/secret.tif").write_text("secret")
    (tmp_path / "one/within.tif").symlink_to("deep/b.tif")
    (tmp_path / "one/out.tif").symlink_to(tmp_path / "outside/secret.tif")
    (tmp_path / "one/outdir").symlink_to(tmp_path / "outside")
    (tmp_path / "one/other.tif").symlink_to(tmp_path / "two/c.tif")
    (tmp_path / "one/circle.tif").symlink_to("circle.tif")
    (tmp_path / "one/null.tif").symlink_to("/dev/null")
    (tmp_path / "one/proc.tif").symlink_to("/proc/self/environ")
    (tmp_path / "onelonger").mkdir()
    (tmp_path / "onelonger/d.tif").write_text("d")
    (tmp_path / "link").symlink_to("one")
    os.mkfifo(tmp_path / "one/pipe.tif")
    return tmp_path


def test_files_in_roots(place: Path) -> None:
    roots = [place / "one", place / "two"]
    assert resolve("a.tif", roots) == place / "one/a.tif"  # the first root that has it
    assert resolve("c.tif", roots) == place / "two/c.tif"
    assert resolve("deep/b.tif", roots) == place / "one/deep/b.tif"
    assert resolve("./deep//b.tif", roots) == place / "one/deep/b.tif"
    assert resolve("within.tif", roots) == place / "one/deep/b.tif"
    assert resolve(str(place / "two/a.tif"), roots) == place / "two/a.tif"


def test_a_root_that_is_a_link(place: Path) -> None:
    """Both of its names lead there; what comes back is the real path."""
    for name in ("a.tif", str(place / "link/a.tif"), str(place / "one/a.tif")):
        assert resolve(name, [place / "link"]) == place / "one/a.tif"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../outside/secret.tif",
        "deep/../../outside/secret.tif",
        "deep/../a.tif",
        "..\\outside\\secret.tif",
        "\\\\host\\share\\a.tif",
        "//host/share/a.tif",
        "/etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/vsicurl/http://127.0.0.1/a.tif",
        "/vsimem/a.tif",
        "file:///etc/passwd",
        "http://127.0.0.1/a.tif",
        "a.tif\0.png",
        "a.tif\n",
        "..%2foutside%2fsecret.tif",
        "%2e%2e/outside/secret.tif",
        "~/a.tif",
        "$HOME/a.tif",
        "out.tif",
        "outdir/secret.tif",
        "other.tif",  # a link from one root to another is a link out of it
        "circle.tif",
        "null.tif",
        "proc.tif",
        "pipe.tif",
        "deep",
        "missing.tif",
        "a.tif/more",
        "x" * 300,
        "x/" * 2040,
        "x" * 5000,
        "GTIFF_RAW:a.tif",
        "<VRTDataset/>",
    ],
)
def test_what_is_no_file_there(place: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        resolve(name, [place / "one"])
    message = str(caught.value)
    assert str(place) not in message.replace(name, "") or name.startswith("/")
    assert "secret\n" not in message
    assert len(message) < 400
    assert message.isprintable()


def test_longer_names_are_no_part_of_a_root(place: Path) -> None:
    for name in (str(place / "onelonger/d.tif"), "../onelonger/d.tif"):
        with pytest.raises(DataError, match="is no"):
            resolve(name, [place / "one"])


def test_what_is_outside_reads_like_what_does_not_exist(place: Path) -> None:
    """Else the service would tell which files the machine has."""

    def message(name: str) -> str:
        with pytest.raises(DataError) as caught:
            resolve(name, [place / "one"])
        return str(caught.value).replace(Path(name).stem, "NAME")

    assert "NAME" in message("out.tif")
    assert message(str(place / "outside/secret.tif")) == message(str(place / "outside/nosuch.tif"))
    assert message("out.tif") == message("nosuch.tif")


def test_without_roots_no_file_is_read(place: Path) -> None:
    with pytest.raises(DataError, match=r"Send the raster \(POST /api/uploads\)"):
        resolve("a.tif", [])


def test_a_file_that_may_not_be_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """web.service.roots:_checked | Ask whoever runs the service"""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(DataError, match=r"'a.tif' cannot be read: Permission denied. Ask"):
            resolve("a.tif", [place / "one"])
    assert resolve("a.tif", [place / "one"]).read_text() == "one"


def test_random_paths_end_inside_or_nowhere(place: Path) -> None:
    """Names put together by chance, of all that leads somewhere."""
    parts = ["..", ".", "", "one", "two", "deep", "outdir", "outside", "a.tif", "b.tif", "out.tif"]
    parts += ["secret.tif", "within.tif", str(place), "%2e%2e", "\\..", "link", "proc", "self"]
    chance = random.Random(7)
    roots = [place / "one", place / "two"]
    found = 0
    for _ in range(3000):
        name = "/".join(chance.choice(parts) for _ in range(chance.randint(1, 5)))
        try:
            path = resolve(name, roots)
        except DataError:
            continue
        found += 1
        assert path.read_text() in ("one", "deep", "two")
        assert any(path.is_relative_to(root) for root in roots)
    assert found > 50


#: The test above and this module's others do what these say.
FOLLOWED = (
    "web.service.roots:resolve | Send the raster",
    "web.service.roots:resolve | Give a path relative to",
    "web.service.roots:_check_text | Give a path relative to one",
    "web.service.roots:_checked | Name one raster",
)
