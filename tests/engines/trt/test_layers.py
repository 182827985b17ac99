import json

import pytest

from engines.trt import layers
from engines.trt.layers import Layer, Tensor

LOG = """VERBOSE Layers:
Name: of an earlier build, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata:
INFO and so on
VERBOSE Layers:
Name: a+b_myl0_0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,3], Strides: [3,1], StrideOrder: [1,0], \
Datatype: Half, Format: (Linear) Row major }, { Name: t, Dimensions: [], Datatype: Int64, Format: Linear }], \
Constants: [ { Name: w, Dimensions: [3,4], Datatype: Float, Format: (Linear) Row major }], \
Outputs: [ { Name: y, Dimensions: [-1,4], Datatype: BFloat16, Format: (Linear) Row major }], \
TacticName: fast_0x1f, StreamId: 0, Metadata: [ONNX Layer: a]\x1f[ONNX Layer: b [odd], name]
Name: n[DevicetoShapeHostCopy], LayerType: DeviceToShapeHost, Inputs: [ { Name: n, Location: Device, Dimensions: [1], \
Datatype: Float, Format: Format not available due to dynamic shapes }], Outputs: [], TacticValue: 0x0, StreamId: 0, \
Metadata:\x20
Name: __mye1_0_myl3_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, \
Metadata:\x20
Name: a [profile 1]_myl3_1, LayerType: kgen, Inputs: [ { Name: x [profile 1], Dimensions: [-1,3], Datatype: Half, \
Format: (Linear) }], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: [ONNX Layer: a]

I/O Tensors:
 Name: x, IOMode: Input, DataType: Half, Dimensions: [-1,3], Location: Device
"""


@pytest.fixture
def log():
    return (LOG.encode() + b"INFO \xff\n").decode(errors="replace")


def test_the_last_list_of_a_log_is_read(log):
    gemm, wait, shapes, kernel = layers.read(log)
    assert gemm == Layer(
        "a+b_myl0_0",
        "gemm",
        "fast_0x1f",
        (Tensor("x", "fp16", (-1, 3)), Tensor("t", "int64", ())),
        (Tensor("y", "bf16", (-1, 4)),),
        ("a", "b [odd], name"),
    )
    assert (wait.type, wait.inputs, wait.tactic, wait.nodes) == (
        "DeviceToShapeHost",
        (Tensor("n", "fp32", (1,)),),
        "",
        (),
    )
    assert [layer.profile for layer in (gemm, wait, shapes, kernel)] == [0, 0, 1, 1]


def test_a_log_without_a_list():
    assert layers.read("INFO nothing\n") == []


def test_layers_are_written_and_read_again(log, tmp_path):
    listed = layers.read(log)
    layers.save(listed, tmp_path / "part.layers.json")
    assert layers.load(tmp_path / "part.layers.json") == listed
    assert len((tmp_path / "part.layers.json").read_text().splitlines()) == len(listed) + 2


def tensor(name, **more):
    return {"Name": name, "Location": "Device", "Dimensions": [-1, 3], **more}


def inspected(read, written, key):
    layer = {
        "Name": "b [profile 1]",
        "LayerType": "Reformat",
        "Inputs": [read],
        "Outputs": [written],
        "TacticValue": "0x3e8",
        "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]",
    }
    return json.loads(json.dumps({"Layers": [layer], key: ["x"]}))


def test_what_the_inspectors_of_two_versions_say_is_the_same():
    ten = inspected(
        tensor("x", **{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}),
        tensor("y", **{"Format/Datatype": "Float"}),
        "Bindings",
    )
    eleven = inspected(
        tensor("x", Format="Channel major format where channel % 8 == 0", Datatype="Half"),
        tensor("y", Format="Row major linear", Datatype="FP32"),
        "I/O Tensors",
    )
    [layer] = layers.from_inspector(ten)
    assert layers.from_inspector(eleven) == [layer]
    assert layer == Layer(
        "b [profile 1]",
        "Reformat",
        "",
        (Tensor("x", "fp16", (-1, 3)),),
        (Tensor("y", "fp32", (-1, 3)),),
        ("a", "b"),
        1,
    )


def test_mere_names_are_no_layers():
    assert layers.from_inspector({"Layers": ["a", "b"], "Bindings": []}) == []
