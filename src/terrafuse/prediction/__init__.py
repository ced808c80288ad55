"""Map a scene: the lattice of windows, blending of their logits, products on disk."""

from terrafuse.prediction.blending import Accumulator, Strip, taper
from terrafuse.prediction.lattice import Blending, Lattice, check_windows
from terrafuse.prediction.predictor import ScenePredictor, find_device
from terrafuse.prediction.products import MapWriter, Products, open_map
from terrafuse.prediction.timing import describe_device, forward_seconds

__all__ = [
    "Accumulator",
    "Blending",
    "Lattice",
    "MapWriter",
    "Products",
    "ScenePredictor",
    "Strip",
    "check_windows",
    "describe_device",
    "find_device",
    "forward_seconds",
    "open_map",
    "taper",
]
