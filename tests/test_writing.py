from pathlib import Path

import pytest

from terrafuse.errors import ConfigError, OutputError
from terrafuse.writing import written_whole


def test_all_files_appear_at_the_end_and_not_before(tmp_path: Path) -> None:
    one, two = tmp_path / "new" / "one", tmp_path / "new" / "two"
    with written_whole(one, two) as partials:
        for partial in partials:
            partial.write_text(partial.name)
        assert not one.exists()
        assert not two.exists()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["one", "two"]


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("write failed")])
def test_after_a_failure_the_old_file_stands_alone(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "best.pt"
    path.write_text("before")

    def write() -> None:
        with written_whole(path) as (partial,):
            partial.write_text("half")
            raise error

    with pytest.raises(OutputError, match=r"best.pt' cannot be written"):
        write()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["best.pt"]


def test_other_errors_pass_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mine"), written_whole(tmp_path / "a"):
        raise ConfigError("mine")
    with pytest.raises(KeyError), written_whole(tmp_path / "a"):
        raise KeyError("x")
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError), written_whole(tmp_path / "file" / "a"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
