"""Mutated run folders: one loads, or the message says which of its files is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import (
    byte_changes,
    change_bytes,
    change_text,
    change_tree,
    few,
    judge,
    limited_memory,
    linked_copy,
    many,
    text_edits,
    tree_edits,
)
from terrafuse import api

STORED = Path(__file__).parents[1] / "golden" / "stored_run" / "whole"
FILES = ("model.json", "config.yaml", "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    api.load(linked_copy(folder, STORED, {}))
    with limited_memory():
        yield folder


mutated = st.tuples(
    st.sampled_from(("model.json", "model.json", "config.yaml", "model.safetensors", "two")),
    tree_edits,
    text_edits,
    byte_changes,
    st.integers(0, 9),
)


def content_of(name: str, case: Any) -> bytes | None:
    _, edits, texts, changes, how = case
    old = (STORED / name).read_bytes()
    if how == 0 and changes[0].a < 50:
        return None
    if name == "model.safetensors" or how == 1:
        # Beside the length, most changes fall into the header.
        return change_bytes(old, changes, 0.15 if name == "model.safetensors" else 0.0)
    if how == 2:
        return change_text(old.decode(), texts).encode(errors="replace")
    if name == "model.json":
        tree = change_tree(json.loads(old), edits)
        return json.dumps(tree, default=str).encode(errors="replace")
    return yaml.safe_dump(change_tree(yaml.safe_load(old), edits)).encode(errors="replace")


def check(folder: Path, case: Any) -> None:
    names = FILES if case[0] == "two" else (case[0],)
    linked_copy(folder, STORED, {name: content_of(name, case) for name in names})
    message = judge(lambda: api.load(folder))
    if message:
        assert any(word in message for word in (*FILES, str(folder), "config", "model")), message


@few(80)
@given(case=mutated)
def test_some_run_folders(folder: Path, case: Any) -> None:
    check(folder, case)


@pytest.mark.fuzz
@many
@given(case=mutated)
def test_many_run_folders(folder: Path, case: Any) -> None:
    check(folder, case)
