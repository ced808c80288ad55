"""Learn: from a run's settings to a run folder. The only room that knows Lightning."""

from terrafuse.training.losses import LOSSES, create_loss
from terrafuse.training.rehearsal import time_steps
from terrafuse.training.train import check_crop_size, check_settings, train

__all__ = ["LOSSES", "check_crop_size", "check_settings", "create_loss", "time_steps", "train"]
