"""Silencing Lightning's messages about choices that terrafuse makes."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from terrafuse.cores import usable_cores

_LOGGERS = ("lightning.pytorch", "lightning.fabric")
_IRRELEVANT = (
    # Lightning 2.6 uses a name that torch 2.15 has changed.
    r".*isinstance\(treespec, LeafSpec\).*",
    # We count batches ourselves: a resumed loader begins where the run was interrupted.
    r".*your dataloader is not resumable.*",
    # The number of workers is chosen by data.workers.
    r".*does not have many workers.*",
    # Frozen backbones stay in evaluation mode on purpose.
    r".*in eval mode at the start of training.*",
    # The device is chosen by training.accelerator.
    r".*available but not used.*",
    # Validation is a callback and needs no Lightning loop.
    r".*no `val_dataloader`.*",
    # In fp16 the first steps are skipped until the loss scale fits.
    r".*`lr_scheduler.step\(\)` before `optimizer.step\(\)`.*",
    # The run folder has been checked before.
    r".*Checkpoint directory .* exists and is not empty.*",
    # Lightning's FSDP is the first one, which torch still keeps.
    r".*FSDP\.state_dict_type\(\) and FSDP\.set_state_dict_type\(\) are being deprecated.*",
    # log.csv replaces Lightning's loggers, as our progress bar does Lightning's.
    r".*No `logger` configured.*",
)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's notes and its warnings about intended behaviour."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _IRRELEVANT:
            warnings.filterwarnings("ignore", message)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def fitting_threads() -> Iterator[None]:
    """Limit threads to the cores this process may use, unless OMP_NUM_THREADS is set."""
    before = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
