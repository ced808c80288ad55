"""Mutated weights: a backbone starts from them, or the message says that the file is at fault."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fuzzing import byte_changes, change_bytes, few, judge, limited_memory, many
from terrafuse.backbones import create_backbone

NAME, OPTIONS = "resnet10t", {"channels": [4, 6, 8, 10], "layers": [1, 1, 1, 1]}
# What the tensors of a state become, before the file is written.
CHANGES = (
    "none", "drop", "add", "rename", "shape", "empty", "half", "double", "integer", "bool",
    "complex", "nan", "inf", "text", "number", "object", "nested", "prefix", "list", "sparse",
    "huge",
)  # fmt: skip
FORMS = ("safetensors", "zip", "legacy")
SUFFIXES = {"safetensors": ".safetensors", "zip": ".pth", "legacy": ".pt"}


class Place:
    """A state that fits a small backbone, and files of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = create_backbone(NAME, 3, **OPTIONS).state_dict()
        self.names = sorted(self.state)
        self.seeds = {form: self.write(form, self.state).read_bytes() for form in FORMS}

    def write(self, form: str, state: Any) -> Path:
        path = self.folder / f"weights{SUFFIXES[form]}"
        path.unlink(missing_ok=True)
        if form == "safetensors":
            save_file(state, path, metadata={"format": "pt"})
        else:
            torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
        return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("weights"))
    for form, seed in place.seeds.items():
        path = place.folder / f"weights{SUFFIXES[form]}"
        path.write_bytes(seed)
        create_backbone(NAME, 3, weights=str(path), **OPTIONS)
    with limited_memory():
        yield place


mutated = st.tuples(
    st.sampled_from(FORMS),
    byte_changes,
    st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 999)), min_size=1, max_size=2),
    st.integers(0, 9),
)


class Unknown:
    """An object that is no tensor."""


def changed_state(place: Place, changes: Any) -> Any:
    state: dict[str, Any] = dict(place.state)
    for kind, number in changes:
        name = sorted(state)[number % len(state)] if state else "a"
        old = state.get(name, torch.zeros(2))
        plain = isinstance(old, torch.Tensor) and not (old.is_sparse or old.is_complex())
        tensor = old if plain else torch.zeros(2)
        simple: dict[str, Any] = {
            "shape": torch.zeros(3, 1, 5),
            "half": tensor.half(),
            "double": tensor.double(),
            "integer": tensor.to(torch.int32),
            "bool": tensor.bool(),
            "complex": tensor.to(torch.complex64),
            "nan": torch.full_like(tensor.float(), torch.nan),
            "inf": torch.full_like(tensor.float(), -torch.inf),
            "empty": torch.zeros(0),
            "text": "x" * 3_000,
            "number": 7,
            "object": Unknown(),
            "sparse": torch.zeros(4, 4).to_sparse(),
            # A view that claims more than is stored.
            "huge": torch.zeros(1).expand(1, 64, 64),
        }
        if kind in simple:
            state[name] = simple[kind]
        elif kind == "drop":
            state.pop(name, None)
        elif kind == "add":
            state["x" * (1 + 40 * number)] = torch.zeros(2)
        elif kind == "rename":
            state[f"backbone\x00{name}"] = state.pop(name, torch.zeros(1))
        elif kind == "prefix":
            prefix = ("module.", "backbone.", "_orig_mod.", "ünï.", "")[number % 5]
            state = {prefix + key: value for key, value in state.items()}
        elif kind == "nested":
            state = {("state_dict", "model", "epoch", "a")[number % 4]: state}
        elif kind == "list":
            state = {"state_dict": list(state.items())}
    return state


def write(place: Place, case: Any) -> Path:
    form, changes, of_state, how = case
    path = place.folder / f"weights{SUFFIXES[form]}"
    if how < 5:
        start = {"safetensors": 0.05, "zip": 0.3, "legacy": 0.3}[form]
        path.write_bytes(change_bytes(place.seeds[form], changes, start))
        return path
    if how == 5:
        path.write_bytes(_other_content(path, changes[0].a))
        return path
    state = changed_state(place, of_state)
    if form == "safetensors":
        state = {
            k: v.contiguous()
            for k, v in state.items()
            if isinstance(v, torch.Tensor) and not v.is_sparse
        }
    return place.write(form, state)


def _other_content(path: Path, number: int) -> bytes:
    """What lies under the name of weights when a download went wrong."""
    kinds = (
        b"",
        b"<!DOCTYPE html><html>Sign in</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        b'{"error": "not found"}',
        b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f{}",
        b"\x89HDF\r\n\x1a\n" + bytes(64),
        b"PK\x05\x06" + bytes(18),
    )
    if number % 9 < len(kinds):
        return kinds[number % 9]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")
        archive.writestr("archive/version", b"3\n")
    return path.read_bytes()


def check(place: Place, case: Any) -> None:
    path = write(place, case)
    message = judge(lambda: create_backbone(NAME, 3, weights=str(path), **OPTIONS))
    if message:
        assert path.name in message, message


@few(120)
@given(case=mutated)
def test_some_weights(place: Place, case: Any) -> None:
    check(place, case)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_weights(place: Place, case: Any) -> None:
    check(place, case)
