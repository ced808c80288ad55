"""ONNX files read from their bytes, without the package `onnx`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from terrafuse.errors import WeightsError, WeightsNotFoundError
from terrafuse.weights.onnx_file import names_onnx, read_onnx


def external(name: str, location: str) -> onnx.TensorProto:
    """A tensor whose values lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    return tensor


def model(
    tensors: list[onnx.TensorProto], inner: onnx.TensorProto | None = None
) -> onnx.ModelProto:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    x = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    nodes = []
    if inner is not None:
        constant = helper.make_node("Constant", [], ["y"], value=inner)
        branch = helper.make_graph([constant], "branch", [], [out])
        nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    made = helper.make_model(helper.make_graph(nodes, "g", [x], [out], tensors))
    helper.set_model_props(made, {"a": "1", "größe": "drei"})
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one.data", "deep/two.data"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(16))
    return tmp_path


def save(folder: Path, proto: onnx.ModelProto) -> Path:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_metadata_and_files_of_weights(folder: Path) -> None:
    plain = numpy_helper.from_array(np.arange(4, dtype=np.float32), "p")
    proto = model([external("a", "one.data"), plain], external("b", "deep/two.data"))
    found = read_onnx(save(folder, proto))
    assert found.metadata == {"a": "1", "größe": "drei"}
    assert found.external == ("deep/two.data", "one.data")
    assert found.files == (folder / "m.onnx", folder / "deep/two.data", folder / "one.data")


def test_weights_in_functions_are_found(folder: Path) -> None:
    proto = model([])
    constant = helper.make_node("Constant", [], ["y"], value=external("c", "one.data"))
    function = helper.make_function(
        "here", "F", [], ["y"], [constant], [helper.make_opsetid("", 18)]
    )
    proto.functions.append(function)
    assert read_onnx(save(folder, proto)).external == ("one.data",)


@pytest.mark.parametrize("place", ["../elsewhere.data", "/etc/hostname", "deep/../../x", "link"])
def test_weights_elsewhere_are_refused(folder: Path, place: str) -> None:
    (folder / "link").symlink_to("/etc/hostname")
    for proto in (model([external("a", place)]), model([], external("a", place))):
        with pytest.raises(WeightsError, match="outside its folder, which is not read"):
            read_onnx(save(folder, proto))
    (folder / "elsewhere.data").write_bytes(bytes(16))
    assert read_onnx(save(folder, model([external("a", "elsewhere.data")]))).external


def test_weights_that_are_not_there(folder: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"weights in 'none\.data', which is not beside"):
        read_onnx(save(folder, model([external("a", "none.data")])))
    (folder / "none.data").write_bytes(bytes(16))
    assert read_onnx(folder / "m.onnx").external == ("none.data",)


def test_the_beginning_of_a_file_is_none(folder: Path) -> None:
    """Wherever it ends, but for the metadata, which stands behind the graph."""
    whole = save(folder, model([external("a", "one.data")], external("b", "one.data"))).read_bytes()
    refused = 0
    for length in range(len(whole)):
        (folder / "m.onnx").write_bytes(whole[:length])
        try:
            found = read_onnx(folder / "m.onnx")
            assert found.metadata != {"a": "1", "größe": "drei"} or length > len(whole) - 20
        except WeightsError:
            refused += 1
    assert refused > 0.8 * len(whole)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_message(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        read_onnx(path)


def test_graphs_in_graphs_end(folder: Path) -> None:
    def message(field: int, content: bytes) -> bytes:
        length = len(content)
        size = bytes([length & 0x7F | 0x80, length >> 7]) if length > 127 else bytes([length])
        return bytes([field << 3 | 2]) + size + content

    graph = b""
    for _ in range(40):  # node, its attribute, the graph in that
        graph = message(1, message(5, message(6, graph)))
    (folder / "m.onnx").write_bytes(b"\x08\x0a" + message(7, graph))
    with pytest.raises(WeightsError, match="graphs within graphs"):
        read_onnx(folder / "m.onnx")


def test_names(tmp_path: Path) -> None:
    (tmp_path / "run.onnx").mkdir()
    assert names_onnx("a/flood.ONNX")
    assert not names_onnx("a/flood")
    assert not names_onnx(tmp_path / "run.onnx")
    with pytest.raises(WeightsNotFoundError, match="there is no ONNX file"):
        read_onnx(tmp_path / "run.onnx")
