"""Learning without labels: what each published objective asks of images of several sensors.

An objective is a module: images in, scalar losses by name out, whose sum is to be made small. What
it trains are backbones that methods can start from.
"""

from terrafuse.pretraining.croma import CROMAPretraining, Masking
from terrafuse.pretraining.decur import DeCURPretraining
from terrafuse.pretraining.gathering import gather_rows
from terrafuse.pretraining.infonce import SSLViTPretraining, contrast, contrast_logits

__all__ = [
    "CROMAPretraining",
    "DeCURPretraining",
    "Masking",
    "SSLViTPretraining",
    "contrast",
    "contrast_logits",
    "gather_rows",
]
