"""Learn: from a run's settings to a run folder. The only room that knows Lightning."""

from terrafuse.training.losses import LOSSES, create_loss
from terrafuse.training.train import train

__all__ = ["LOSSES", "create_loss", "train"]
