"""Models as graphs that run without this package: torch's own, and ONNX."""

from terrafuse.exporting.graph import ExportGraph, example_images, to_onnx, to_program

__all__ = ["ExportGraph", "example_images", "to_onnx", "to_program"]
