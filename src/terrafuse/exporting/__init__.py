"""Models as graphs that run without this package: torch's own, and ONNX."""

from terrafuse.exporting.agreement import LEAST_EQUAL, Agreement, compare, random_images
from terrafuse.exporting.files import (
    MOST_IN_ONE_FILE,
    OPSET,
    annotate_onnx,
    check_packages,
    read_program_info,
    weight_bytes,
    write_onnx,
    write_program,
)
from terrafuse.exporting.graph import (
    ExportGraph,
    check_names,
    to_onnx,
    to_program,
)
from terrafuse.exporting.running import GraphSegmenter, fit_to_graph, open_onnx, open_program
from terrafuse.exporting.shrinking import halve, quantize, with_half_weights
from terrafuse.exporting.stacked import (
    StackedGraph,
    check_stackable,
    deepness_metadata,
    to_stacked_program,
)

__all__ = [
    "LEAST_EQUAL",
    "MOST_IN_ONE_FILE",
    "OPSET",
    "Agreement",
    "ExportGraph",
    "GraphSegmenter",
    "StackedGraph",
    "annotate_onnx",
    "check_names",
    "check_packages",
    "check_stackable",
    "compare",
    "deepness_metadata",
    "fit_to_graph",
    "halve",
    "open_onnx",
    "open_program",
    "quantize",
    "random_images",
    "read_program_info",
    "to_onnx",
    "to_program",
    "to_stacked_program",
    "weight_bytes",
    "with_half_weights",
    "write_onnx",
    "write_program",
]
