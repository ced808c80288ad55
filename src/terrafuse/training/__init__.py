"""Training: from a run's settings to a run folder; the only subpackage that uses Lightning."""

from terrafuse.training.losses import LOSSES, create_loss
from terrafuse.training.pretrain import check_pretrain_settings, pretrain
from terrafuse.training.run_state import check_startable, is_first_process
from terrafuse.training.step_timing import time_steps
from terrafuse.training.train import check_crop_size, check_settings, train

__all__ = [
    "LOSSES",
    "check_crop_size",
    "check_pretrain_settings",
    "check_settings",
    "check_startable",
    "create_loss",
    "is_first_process",
    "pretrain",
    "time_steps",
    "train",
]
