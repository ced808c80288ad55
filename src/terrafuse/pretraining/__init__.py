"""Self-supervised pre-training: published objectives on images of several sensors.

An objective is a module: images in, scalar losses by name out, whose sum is minimised. It trains
backbones that methods can start from.
"""

from terrafuse.pretraining.croma import CROMAPretraining, gather_rows
from terrafuse.pretraining.decur import DeCURPretraining
from terrafuse.pretraining.infonce import SSLViTPretraining, contrast, contrast_logits
from terrafuse.pretraining.mae import MaskedAutoencoding
from terrafuse.pretraining.masking import Masking
from terrafuse.pretraining.objectives import OBJECTIVES, create_pretrainer
from terrafuse.pretraining.pretrainer import Learned, Pretrainer

__all__ = [
    "OBJECTIVES",
    "CROMAPretraining",
    "DeCURPretraining",
    "Learned",
    "MaskedAutoencoding",
    "Masking",
    "Pretrainer",
    "SSLViTPretraining",
    "contrast",
    "contrast_logits",
    "create_pretrainer",
    "gather_rows",
]
