"""Weights: strict, safe loading, and the run folder of a trained model."""

from terrafuse.weights.files import (
    also_looking_in,
    digest,
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
from terrafuse.weights.renaming import Rename, rename
from terrafuse.weights.saved_model import (
    FORMAT_VERSION,
    METRICS_JSON,
    MODEL_JSON,
    STATE_FILE,
    RunInfo,
    check_same_scheme,
    read_run_info,
    read_state,
    save_model,
    write_further_metrics,
    write_metrics,
)

__all__ = [
    "FORMAT_VERSION",
    "METRICS_JSON",
    "MODEL_JSON",
    "STATE_FILE",
    "ForeignWeights",
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
