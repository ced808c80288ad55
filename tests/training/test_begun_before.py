"""An interrupted run that is older than `nodata_rule` goes on as it was begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from terrafuse.data import load_manifest, write_manifest
from terrafuse.training import run_state


def test_a_run_begun_before_reads_band_by_band(tmp_path: Path) -> None:
    path = write_manifest(
        {
            "classes": [{"name": "a"}],
            "modalities": {"m": {"bands": ["x", "y"]}},
            "scenes": [{"id": "one", "m": "one.tif"}],
        },
        tmp_path / "dataset.yaml",
    )
    manifest = load_manifest(path)
    start = {
        "manifest_sha256": run_state.digest(path),
        "class_counts": [3],
        "statistics": {},
    }
    for has_rule, expected in ((None, "each"), (False, "each"), (True, "all")):
        values = start if has_rule is None else start | {"has_nodata_rule": has_rule}
        (tmp_path / "start.json").write_text(json.dumps(values))
        facts = run_state.read_split_statistics(tmp_path, path)
        assert facts is not None
        if expected == "each":
            with pytest.warns(UserWarning, match=r"it goes on so \(nodata_rule: each\)"):
                found = run_state.as_begun(manifest, facts, tmp_path)
        else:
            found = run_state.as_begun(manifest, facts, tmp_path)
        assert found.rules["m"].nodata_rule == expected
    assert run_state.as_begun(manifest, None, tmp_path) is manifest
