from __future__ import annotations

from terrafuse.weights import Rename, rename

RENAMES: tuple[Rename, ...] = (
    (r"^layer([12])\.", r"stages.<\1>."),
    (r"\.conv\.", ".proj."),
    (r"\.proj\.(\d)", lambda found: f".proj.{int(found[1]) + 3}"),
)


def test_one_after_the_other() -> None:
    assert rename("layer2.conv.1", RENAMES) == "stages.1.proj.4"
    assert rename("layer1.proj.0.bias", RENAMES) == "stages.0.proj.3.bias"


def test_numbers_stand_for_names() -> None:
    assert rename("layer2.bias", RENAMES, ("optical", "sar")) == "stages.sar.bias"


def test_a_name_that_nothing_meets_stays() -> None:
    assert rename("other.layer1.<x>", RENAMES) == "other.layer1.<x>"
