"""What was recorded from published implementations is compared: no file, no tensor is left over."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from golden_files import GOLDEN

TESTS = Path(__file__).parent
READERS = sorted(
    path for path in TESTS.rglob("test_*.py")
    if path != Path(__file__) and "from golden_files import" in path.read_text(encoding="utf-8")
)  # fmt: skip
#: Made by this package, not recorded from another; tests/helpers/stored_run.py says how.
OWN = ("stored_run/",)
#: Tensors that need no comparison of their own (patterns of "file: name"), and why.
LEFT_OUT = {
    r"cmx/sliding_eval: out\.rect_crop_.*": "windows are squares here",
    r"croma/pretrain: in\.(optical|radar)_ids_restore": "only leads back to the order of the grid",
    r"dformer/ham_head: in\.feat\.0": "the decoder takes the three others",
    r"dformer/v2_geo_prior: sd\.angle": "the sine and cosine of its multiples are compared",
    r"galileo/tiny: .*\.out\.average_per_patch": "nothing here needs the mean of a place",
    r"mcanet/solc_full_released: sd\.(high_level_mcam|low_level_mcam|final)\..*": (
        "the released network never runs them"
    ),
}


def stored_files() -> list[str]:
    """Files with tensors or facts, relative to tests/golden."""
    found = [path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*")]
    kinds = (".safetensors", ".json")
    return sorted(name for name in found if name.endswith(kinds) and not name.startswith(OWN))


def names_in(file: str) -> set[str]:
    """Names of the tensors of a file, or of its facts; rows of a listing count as one."""
    path = GOLDEN / file
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        return set(values) if isinstance(values, dict) else {"rows"}
    with safe_open(path, "pt") as stored:
        return set(stored.keys())


def texts_in(path: Path) -> list[str]:
    """Patterns of the texts in a Python file; what an f-string fills in is anything."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.escape(node.value))
        if isinstance(node, ast.JoinedStr):
            parts = [re.escape(p.value) if isinstance(p, ast.Constant) else "[^/]+"
                     for p in node.values]  # fmt: skip
            found.append("".join(parts))
    return found


def test_every_file_is_opened_by_a_test() -> None:
    texts = [text for path in READERS for text in texts_in(path) if "/" in text]
    for file in stored_files():
        name = file.rpartition(".")[0]
        assert any(re.fullmatch(text, name) for text in texts), f"no test opens {file}"
    for folder in GOLDEN.iterdir():
        assert any(folder.iterdir()), f"{folder.name} is empty"


@pytest.mark.slow
def test_every_tensor_is_taken_out_by_a_test(tmp_path: Path) -> None:
    """All tests that read such files, once more in a process that notes what they take."""
    record = tmp_path / "read.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, READERS)],
        cwd=TESTS.parent, capture_output=True, text=True,
        env=os.environ | {"GOLDEN_READ": str(record)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    read = json.loads(record.read_text())
    left = {
        f"{file.rpartition('.')[0]}: {name}"
        for file in stored_files()
        for name in names_in(file) - set(read.get(file, ()))
    }
    unread = [name for name in sorted(left) if not any(re.fullmatch(x, name) for x in LEFT_OUT)]
    assert unread == []
    for pattern in LEFT_OUT:
        assert any(re.fullmatch(pattern, name) for name in left), f"{pattern} is compared by now"
