"""Folders of jobs."""

from __future__ import annotations

from pathlib import Path

from terrafuse.web.service.folders import UNITS, Folders, kept_units


def keep(folder: Path, units: int) -> None:
    (folder / UNITS).mkdir(parents=True)
    for number in range(units):
        (folder / UNITS / f"{number:06d}.json").write_text("{}")


def test_an_attempt_goes_on_with_the_one_that_has_kept_most(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    for attempt, units in ((1, 2), (2, 3), (3, 0)):
        keep(folders.job("a") / f"work-{attempt}", units)
    assert kept_units(folders.take("a", 4))[0] == 3
    assert [path.name for path in folders.job("a").iterdir()] == ["work-4"]
