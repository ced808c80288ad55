"""Files of exported models: the graph, and what it says about itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from terrafuse.extras import from_extra
from terrafuse.version import VERSION
from terrafuse.weights import PortableInfo
from terrafuse.weights.portable import EXTRA_FILE, METADATA_KEY

#: Version of ONNX' operators; 18 brought those that torch's exporter writes.
OPSET = 18
#: Bytes of weights that an ONNX file holds itself; a protobuf message ends at 2 GiB.
MOST_IN_ONE_FILE = 1_900_000_000


def check_packages() -> None:
    """Refuse to write ONNX files without the packages for it, before any work is done.

    Raises:
        MissingDependencyError: One is not installed.
    """
    with from_extra("export", "an ONNX file"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  (torch's exporter writes with it)


def weight_bytes(program: torch.export.ExportedProgram) -> int:
    """Bytes of a graph's weights."""
    return sum(x.numel() * x.element_size() for x in program.state_dict.values())


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, inputs: Sequence[str], output: str
) -> None:
    """Write a graph of torch as an ONNX file; weights that it cannot hold go into `NAME.data`.

    Args:
        program: The graph.
        path: Of the file.
        inputs: Names, in order.
        output: Name.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            external_data=weight_bytes(program) > MOST_IN_ONE_FILE,
            verbose=False,
        )


def annotate_onnx(path: Path, info: PortableInfo, further: Mapping[str, str]) -> None:
    """Write a model's description into an ONNX file.

    Args:
        path: Of the file.
        info: The description.
        further: What other tools read, by key.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    model.producer_name, model.producer_version = "terrafuse", VERSION
    model.graph.doc_string = f"{info.run.method}: land-cover classes of {', '.join(info.inputs)}"
    onnx.helper.set_model_props(model, {METADATA_KEY: info.to_json(), **further})
    onnx.save(model, str(path))


def write_program(
    program: torch.export.ExportedProgram, path: Path, info: PortableInfo | None = None
) -> None:
    """Write a graph as a `.pt2` archive of torch.

    Args:
        program: The graph.
        path: Of the file.
        info: The model's description.
    """
    extra = {} if info is None else {EXTRA_FILE: info.to_json()}
    torch.export.save(program, str(path), extra_files=extra)


def read_program_info(path: Path) -> PortableInfo:
    """Read the description of a `.pt2` archive.

    Raises:
        WeightsError: There is none, or it is damaged.
        WeightsMismatchError: A newer terrafuse wrote it.
    """
    extra = {EXTRA_FILE: ""}
    torch.export.load(str(path), extra_files=extra)
    return PortableInfo.from_json(extra[EXTRA_FILE] or None, str(path))
