"""Share a trained model: its run folder on the hub."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from terrafuse.api.runs import Run
from terrafuse.stopping import when_stopped
from terrafuse.weights import PushedRun, push_run
from terrafuse.writing import claimed


def push(
    run: str | Path | Run,
    to: str,
    *,
    private: bool = False,
    message: str | None = None,
    licence: str | None = None,
) -> PushedRun:
    """Push a run folder to the hub, with a model card and the SHA-256 of its files.

    `load("hf://owner/name@commit")` fetches it. Pictures, pages and checkpoints of the folder are
    not pushed.

    Args:
        run: A finished run, or its folder.
        to: "hub:owner/name"; the repository is made if need be.
        private: Whether a new repository is for its owner only.
        message: Of the commit; default: the name of the folder.
        licence: Identifier of the licence of the weights, as the hub lists them ("cc-by-4.0").

    Raises:
        ConfigError: `to` is no such name.
        WeightsError: Not a finished run, or damaged.
        OutputError: The hub cannot be reached, or does not take it; or another process writes into
            the folder.
    """
    folder = run.folder if isinstance(run, Run) else Path(run)
    stopped = "nothing of it is seen on the hub; run the same command again"
    # Of what is no folder there is nothing to lock.
    claim = claimed(folder, "push") if folder.is_dir() else nullcontext()
    with when_stopped(stopped), claim:
        return push_run(folder, to, private=private, message=message, licence=licence)
