"""The list of faults fits today's source, and the script tells what the tests notice."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mutants import FAULTS, Fault, OutOfDateError, choose, read_faults, try_faults

ROOT = Path(__file__).parents[1]
FAULTS_FOUND = read_faults()


def test_there_are_many_and_their_names_differ() -> None:
    assert len(FAULTS_FOUND) >= 100
    assert max(Counter(fault.id for fault in FAULTS_FOUND).values()) == 1
    assert {path.suffix for path in FAULTS.iterdir()} == {".yaml"}


@pytest.mark.parametrize("fault", FAULTS_FOUND, ids=lambda fault: fault.id)
def test_every_fault_can_be_planted(fault: Fault) -> None:
    """Its text occurs once in today's source, and what comes out is Python."""
    fault.planted(ROOT)
    assert fault.tests
    for test in fault.tests:
        file, _, function = test.partition("::")
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not function or re.search(rf"^def {function}\(", text, re.M), test
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", fault.name)
    assert re.fullmatch(r"[A-Z0-9].*[.)]", fault.why)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package with one function, and tests of it."""
    root = tmp_path / "project"
    package = root / "src" / "terrafuse"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sums.py").write_text("def add(a, b):\n    return a + b\n")
    tests = "from terrafuse.sums import add\n\n\n"
    tests += "def test_zero():\n    assert add(0, 0) == 0\n\n\n"
    tests += "def test_sum():\n    assert add(2, 3) == 5\n"
    (root / "tests").mkdir()
    (root / "tests" / "test_sums.py").write_text(tests)
    (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    return root


def fault(name: str, new: str, test: str = "test_sum", old: str = "a + b") -> Fault:
    return Fault("sums", name, "sums.py", old, new, (f"tests/test_sums.py::{test}",), "A reason.")


def test_what_is_noticed_is_killed_and_the_rest_survives(project: Path) -> None:
    faults = [
        fault("subtracted", "a - b"),
        fault("subtracted-from-zero", "a - b", "test_zero"),
        fault("unknown-test", "a - b", "test_nothing"),
    ]
    outcomes = list(try_faults(faults, project, trust=True))
    assert [outcome.verdict for outcome in outcomes] == ["killed", "survived", "error"]
    assert outcomes[0].reason == "tests/test_sums.py::test_sum"
    assert outcomes[1].reason == "A reason."
    assert "test_nothing" in outcomes[2].reason
    assert "a + b" in (project / "src" / "terrafuse" / "sums.py").read_text()


def test_tests_that_do_not_end_have_noticed(project: Path) -> None:
    endless = fault("endless", "__import__('threading').Event().wait()")
    (outcome,) = try_faults([endless], project, limit_s=2, trust=True)
    assert (outcome.verdict, outcome.reason) == ("killed", "not ended after 2 s")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a * b", "a - b", r"out of date: the old text of 'sums/x' occurs 0 times in 'sums\.py'"),
        ("a", "c", r"occurs \d+ times"),
        ("a + b", "a + b", "is the new text"),
        ("a + b", "a +", r"'sums\.py' is no Python"),
    ],
)
def test_a_list_that_is_out_of_date_is_refused(
    project: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(OutOfDateError, match=message):
        list(try_faults([fault("x", new, old=old)], project, trust=True))


def test_tests_that_fail_by_themselves_are_no_judges(project: Path) -> None:
    path = project / "tests" / "test_sums.py"
    path.write_text(path.read_text().replace("== 5", "== 6"))
    with pytest.raises(ValueError, match="do not pass without a fault"):
        list(try_faults([fault("x", "a - b")], project, limit_s=60))


def test_faults_are_chosen_by_room_or_name() -> None:
    faults = [fault("x", "1"), Fault("other", "y", "sums.py", "a", "b", (), "")]
    assert choose(faults, []) == faults
    assert choose(faults, ["other"]) == faults[1:]
    assert choose(faults, ["sums/x"]) == faults[:1]
    with pytest.raises(SystemExit, match="no room or fault 'z'"):
        choose(faults, ["z"])
