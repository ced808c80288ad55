"""Every message that tells what to do has a test that does it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from remedies import ROOT, Instruction, claims, every_text, instructions, texts_of


def table() -> Any:
    """The module beside this one; the folder of tests is no package."""
    path = Path(__file__).with_name("followed.py")
    spec = importlib.util.spec_from_file_location("followed", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found() -> list[Instruction]:
    return instructions()


@pytest.fixture(scope="module")
def places() -> dict[str, list[str]]:
    """What says something of a place → places."""
    followed = table()
    every = {key: list(value) for key, value in followed.FOLLOWED.items()}
    every |= {f"exempt: {key}": list(value) for key, value in followed.EXEMPT.items()}
    every["no instruction"] = list(followed.NO_INSTRUCTION)
    for test, own in claims(ROOT / "tests").items():
        if not test.startswith(("tests/remedies/followed.py", "tests/remedies/test_inventory.py")):
            every.setdefault(test, []).extend(own)
    return every


SOURCE = '''
"""Use this module. It is not a message."""

def check(value: int) -> None:
    """Give a value."""
    if value > 3:
        raise ConfigError(f"'{value}' is too large; " "give 3 or less")
    option = Option(help="Choose a number of steps")
    remedy = "It was probably copied"
    return {"is this no instruction at all": f"{value} was read; that is all", "k": remedy}

class Model:
    def build(self, name: str) -> None:
        text = (f"there is no '{name}'. " + "Choose " + ", ".join(KNOWN))
        warnings.warn("many are ignored. To take them: -O all=yes")
'''


def test_what_is_an_instruction() -> None:
    told = {str(text) for text in texts_of(SOURCE, "room.file") if text.is_instruction}
    assert told == {
        "room.file:check | '{…}' is too large; give 3 or less",
        "room.file:check | It was probably copied",
        "room.file:Model.build | there is no '{…}'. Choose {…}",
        "room.file:Model.build | many are ignored. To take them: -O all=yes",
    }


def test_instructions_are_found(found: list[Instruction]) -> None:
    """The search sees what it is for: errors, warnings, findings, parts of messages."""
    assert len(found) > 350
    for place in (
        "data.manifest:Manifest._scene_files | Add it in",
        "doctor.elevation:_spike | Clip or mask it in the file",
        "data.placement:_match_by_pixel | remove the transforms",
        "data.placement:_right_scale | give equal sizes,",
        "weights.files:_checked | Fetch it again",
    ):
        assert any(one.is_named_by(place) for one in found), place


def test_every_instruction_is_followed(
    found: list[Instruction], places: dict[str, list[str]]
) -> None:
    """A new one needs a test that does what it says, with its place in it."""
    every = [place for own in places.values() for place in own]
    lacking = [str(one) for one in found if not any(map(one.is_named_by, every))]
    assert not lacking, "no test does what these say:\n" + "\n".join(lacking)


def test_every_place_is_there(places: dict[str, list[str]]) -> None:
    texts = every_text()
    gone = [
        f"{where}: {place}"
        for where, own in places.items()
        for place in own
        if not any(text.is_named_by(place) for text in texts)
    ]
    assert not gone, "\n".join(gone)


@pytest.mark.parametrize("test", table().FOLLOWED)
def test_every_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    body = ast.parse((ROOT / path).read_text("utf-8")).body
    assert name in {getattr(node, "name", "") for node in body}
