"""Training as run.yaml specifies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from terrafuse.config import RunConfig, load_run_config


def train(
    config: str | Path | RunConfig,
    out: str | Path,
    *,
    overrides: Mapping[str, str] | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> Path:
    """Train as `run.yaml` specifies; return the run folder.

    Args:
        config: The file, or the settings themselves.
        out: The run folder to make.
        overrides: Dotted keys → YAML values that replace those of the file.
        resume: Go on where an interrupted run stopped.
        fresh: Read the data again, whatever is kept of it beside the manifest.
        progress: Show a progress bar, or lines where stderr is no terminal.

    Raises:
        ConfigError: The settings are invalid.
        DataError: The data cannot be trained on.
        OutputError: `out` holds another run, cannot be written, or another process writes there.
    """
    settings = config if isinstance(config, RunConfig) else load_run_config(config, overrides or {})
    # What the settings alone show is said before this import takes seconds.
    from terrafuse.training import train as train_run

    return train_run(settings, Path(out), resume=resume, fresh=fresh, progress=progress)
