"""terrafuse: rasters in, map out.

Multimodal land-cover segmentation on vision and remote-sensing foundation models.
"""

__version__ = "0.1.0"
