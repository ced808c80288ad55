"""Which file of weights is read, and what of its names and values counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from terrafuse.errors import ChecksumError, WeightsNotFoundError
from terrafuse.weights import also_looking_in, digest, digest_values, read_weights
from terrafuse.weights.foreign import read_foreign


def write(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a.weight": torch.full((2,), value)}, path)
    return path


def test_the_file_that_is_named_comes_before_one_of_its_name(tmp_path: Path) -> None:
    named = write(tmp_path / "weights" / "base.safetensors", 1)
    beside = write(tmp_path / "beside" / "base.safetensors", 2)
    with also_looking_in(beside.parent):
        assert read_weights(named)["a.weight"].tolist() == [1, 1]
        assert read_weights(str(named))["a.weight"].tolist() == [1, 1]
        named.unlink()
        assert read_weights(named)["a.weight"].tolist() == [2, 2]
        with pytest.raises(WeightsNotFoundError, match=r"no weights file '.*other\.safetensors'"):
            read_weights(named.with_name("other.safetensors"))
    with pytest.raises(WeightsNotFoundError, match=r"no weights file '.*base\.safetensors'"):
        read_weights(named)


def test_a_place_to_look_in_is_that_of_its_block_only(tmp_path: Path) -> None:
    first = write(tmp_path / "1" / "base.safetensors", 1)
    second = write(tmp_path / "2" / "base.safetensors", 2)
    lost = tmp_path / "base.safetensors"
    with also_looking_in(first.parent):
        with also_looking_in(second.parent):
            assert read_weights(lost)["a.weight"].tolist() == [2, 2]
        assert read_weights(lost)["a.weight"].tolist() == [1, 1]


def test_a_checksum_is_compared_as_far_as_it_is_known(tmp_path: Path) -> None:
    path = write(tmp_path / "base.safetensors", 1)
    whole = digest(path)
    for known in (whole, whole[:8], whole.upper()):
        assert read_weights(path, sha256=known)["a.weight"].tolist() == [1, 1]
    for digit in (1, 7, 63):
        other = whole[:digit] + ("0" if whole[digit] != "0" else "1") + whole[digit + 1 :]
        with pytest.raises(ChecksumError, match=f"SHA-256 is {whole}, expected {other}"):
            read_weights(path, sha256=other)


STATE = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0]), "c": torch.ones(2, 3)}


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "a": STATE["b"], "b": STATE["a"]},
        {"a2" if name == "a" else name: value for name, value in STATE.items()},
        {**STATE, "c": torch.ones(3, 2)},
        {**STATE, "c": torch.ones(2, 3, dtype=torch.float64)},
        {**STATE, "a": torch.tensor([1.0, 2.0000002])},
        {name: value for name, value in STATE.items() if name != "c"},
    ],
    ids=["names exchanged", "another name", "shape", "dtype", "last digit", "one less"],
)
def test_digests_tell_apart(other: dict[str, Tensor]) -> None:
    assert digest_values(other) != digest_values(STATE)


def test_a_digest_is_of_the_content_only() -> None:
    reordered = dict(reversed(STATE.items()))
    reordered["c"] = torch.ones(3, 2).T  # other strides
    assert digest_values(reordered) == digest_values(STATE)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b.module.c"], ["a", "b.module.c"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["a.module.b", "c.module.d"], ["a.module.b", "c.module.d"]),
        (["module.module.a", "module.b"], ["module.a", "b"]),
        (["modules.a", "modules.b"], ["modules.a", "modules.b"]),
    ],
)
def test_a_wrapper_is_taken_off_at_the_start_of_all_names(
    tmp_path: Path, names: list[str], expected: list[str]
) -> None:
    state = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    torch.save(state, tmp_path / "a.pt")
    found = read_foreign(tmp_path / "a.pt", expected)
    assert {name: float(value) for name, value in found.values.items()} == {
        name: float(i) for i, name in enumerate(expected)
    }
