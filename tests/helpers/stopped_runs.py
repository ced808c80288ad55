"""Trainings that end early, as by a signal."""

from __future__ import annotations

from typing import Any

import pytest

from terrafuse.training.checkpoint import LastCheckpoint


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let one training be stopped after a step."""
    original, waiting = LastCheckpoint.on_train_batch_end, [step]

    def end(self: LastCheckpoint, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step in waiting:
            waiting.clear()
            self._request_stop(2, None)
        original(self, trainer, *args, **kwargs)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", end)
