"""Weights: strict, safe loading, the run folder of a trained model, and what exported files say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrafuse.weights.digests import digest
    from terrafuse.weights.files import (
        also_looking_in,
        digest_values,
        load_strict,
        pretrained_wanted,
        read_metadata,
        read_weights,
        without_pretrained,
        write_tensors,
    )
    from terrafuse.weights.foreign import ForeignWeights, read_foreign
    from terrafuse.weights.hub import hub_or_cache, why_not
    from terrafuse.weights.hub_runs import PushedRun, is_on_hub, push_run, run_folder
    from terrafuse.weights.portable import PortableInfo
    from terrafuse.weights.renaming import Rename, rename
    from terrafuse.weights.run_info import (
        FORMAT_VERSION,
        METRICS_JSON,
        MODEL_JSON,
        STATE_FILE,
        RunInfo,
        read_run_info,
    )
    from terrafuse.weights.saved_model import (
        check_same_scheme,
        read_state,
        save_model,
        write_further_metrics,
        write_metrics,
    )
else:  # descriptions are read where torch is not installed, too
    from terrafuse.lazy import import_on_use

    __getattr__ = import_on_use(
        __name__,
        {
            "terrafuse.weights.digests": ("digest",),
            "terrafuse.weights.files": (
                "also_looking_in",
                "digest_values",
                "load_strict",
                "pretrained_wanted",
                "read_metadata",
                "read_weights",
                "without_pretrained",
                "write_tensors",
            ),
            "terrafuse.weights.foreign": ("ForeignWeights", "read_foreign"),
            "terrafuse.weights.hub": ("hub_or_cache", "why_not"),
            "terrafuse.weights.hub_runs": ("PushedRun", "is_on_hub", "push_run", "run_folder"),
            "terrafuse.weights.portable": ("PortableInfo",),
            "terrafuse.weights.renaming": ("Rename", "rename"),
            "terrafuse.weights.run_info": (
                "FORMAT_VERSION",
                "METRICS_JSON",
                "MODEL_JSON",
                "STATE_FILE",
                "RunInfo",
                "read_run_info",
            ),
            "terrafuse.weights.saved_model": (
                "check_same_scheme",
                "read_state",
                "save_model",
                "write_further_metrics",
                "write_metrics",
            ),
        },
    )

__all__ = [
    "FORMAT_VERSION",
    "METRICS_JSON",
    "MODEL_JSON",
    "STATE_FILE",
    "ForeignWeights",
    "PortableInfo",
    "PushedRun",
    "Rename",
    "RunInfo",
    "also_looking_in",
    "check_same_scheme",
    "digest",
    "digest_values",
    "hub_or_cache",
    "is_on_hub",
    "load_strict",
    "pretrained_wanted",
    "push_run",
    "read_foreign",
    "read_metadata",
    "read_run_info",
    "read_state",
    "read_weights",
    "rename",
    "run_folder",
    "save_model",
    "why_not",
    "without_pretrained",
    "write_further_metrics",
    "write_metrics",
    "write_tensors",
]
