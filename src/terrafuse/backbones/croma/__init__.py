"""CROMA: a transformer for radar, one for optical bands, and one that joins them."""

from terrafuse.backbones.croma.model import CROMA, FAMILY, CROMASensor, Encodings, Scaling

__all__ = [
    "CROMA",
    "FAMILY",
    "CROMASensor",
    "Encodings",
    "Scaling",
]
