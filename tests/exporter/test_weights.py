from dataclasses import replace

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import UserError
from exporter.checkpoint import open_checkpoint
from exporter.models.llava import Llava
from exporter.shard import read_header
from exporter.weights import attach, match
from tests.exporter.tiny_llava import LAYOUTS, renamed, tiny_model, write

W, B = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([1.0, -2, 3, 0.5])
X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)

GRAPH = """<ir_version: 10, opset_import: ["" : 23]>
part (float[n,3] x) => (float[n,4] y, float[3,4] doubled)
<float[3,4] "model.proj.weight" = {0,0,0,0,0,0,0,0,0,0,0,0},
 float[4] "model.proj.bias" = {0,0,0,0}, float[1] two = {2}> {
    projected = MatMul(x, "model.proj.weight")
    y = Add(projected, "model.proj.bias")
    doubled = Mul("model.proj.weight", two)
}"""


@pytest.fixture
def stored(tmp_path):
    """Shards as a bundle has them; the weight lies behind another tensor."""

    def store(dtype):
        save_file({"other": torch.ones(5), "proj.bias": B, "proj.weight": W.to(dtype)}, tmp_path / "a.safetensors")
        return {name: t for name, t in read_header(tmp_path / "a.safetensors").items() if name != "other"}

    return store


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_attached_weights_are_the_shard_s_own_bytes(stored, tmp_path, dtype):
    model, parameters = ir.from_onnx_text(GRAPH), stored(dtype)
    assert attach(model, parameters, tmp_path) == 2
    weight = model.graph.initializers["proj.weight"].const_value
    raw = (tmp_path / weight.location).read_bytes()[weight.offset :][: weight.length]
    assert torch.equal(torch.frombuffer(bytearray(raw), dtype=dtype).reshape(3, 4), W.to(dtype))
    np.testing.assert_array_equal(weight.numpy().astype(np.float32), W.to(dtype).float())
    assert model.graph.initializers["two"].const_value.numpy() == 2

    ir.save(model, tmp_path / "part.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "part.onnx")
    y, doubled = session.run(None, {"x": X})
    np.testing.assert_allclose(y, X @ W.to(dtype).float().numpy() + B.numpy(), rtol=1e-5)
    np.testing.assert_array_equal(doubled, 2 * W.to(dtype).float().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_only_another_dtype_is_cast_and_once_for_all_readers(stored, tmp_path, dtype):
    model = ir.from_onnx_text(GRAPH)
    attach(model, stored(dtype), tmp_path)
    casts = [node for node in model.graph if node.op_type == "Cast"]
    if dtype == torch.float32:
        assert casts == []
        return
    [cast] = casts
    assert cast.inputs[0].name == "proj.weight"
    assert cast.inputs[0].dtype == ir.DataType.FLOAT16
    assert cast.attributes["to"].as_int() == ir.DataType.FLOAT
    assert cast.outputs[0].shape == (3, 4)
    assert {use.node.op_type for use in cast.outputs[0].uses()} == {"MatMul", "Mul"}


def test_what_is_no_parameter_stays(tmp_path):
    model = ir.from_onnx_text(GRAPH)
    assert attach(model, {}, tmp_path) == 0
    assert list(model.graph.initializers) == ["model.proj.weight", "model.proj.bias", "two"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_names_gives_every_parameter_its_own_tensor(tmp_path, layout):
    model = tiny_model()
    write(tmp_path, model, layout)
    found = match(Llava(model.config, model), open_checkpoint(tmp_path))
    values = {file: load_file(tmp_path / f"{file}.safetensors") for file in "ab"}
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        tensor = found[name]
        assert values[tensor.file[0]][renamed(name, layout)].shape == tensor.shape
        raw = (tmp_path / tensor.file).read_bytes()[tensor.offset :][: tensor.nbytes]
        assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float16), parameter.half().flatten())


def test_module_key_leaves_other_names_alone():
    assert Llava.module_key("model.image_newline") == "model.image_newline"
    for layout in LAYOUTS.values():
        for name in (
            "lm_head.weight",
            "model.vision_tower.encoder.layers.0.mlp.fc1.bias",
            "model.language_model.norm.weight",
        ):
            assert Llava.module_key(renamed(name, layout)) == name


def test_tied_embeddings_are_one_tensor(tmp_path):
    model = tiny_model(tied=True)
    write(tmp_path, model)
    found = match(Llava(model.config, model), open_checkpoint(tmp_path))
    assert found["lm_head.weight"] is found["model.language_model.embed_tokens.weight"]


@pytest.fixture
def checkpoint(tmp_path):
    write(tmp_path, tiny_model())
    return open_checkpoint(tmp_path)


def spoilt(checkpoint, **changes):
    """The same checkpoint with one tensor that is not as it should be."""
    name = "multi_modal_projector.linear_1.weight"
    return replace(checkpoint, tensors={**checkpoint.tensors, name: replace(checkpoint.tensors[name], **changes)})


def refuse(checkpoint, says):
    model = tiny_model()
    with pytest.raises(UserError, match=says) as caught:
        match(Llava(model.config, model), checkpoint)
    assert str(caught.value).startswith(str(checkpoint.dir))
    assert "\n" not in str(caught.value)


def test_another_shape_names_the_shard_and_both_shapes(checkpoint):
    name = "model.multi_modal_projector.linear_1.weight"
    refuse(spoilt(checkpoint, shape=(16, 4)), rf"[ab]\.safetensors: {name} is \[16, 4\], config.json says \[16, 16\]")


@pytest.mark.parametrize("dtype", ["I8", "F64", "F8_E4M3"])
def test_dtypes_that_are_not_read_are_named(checkpoint, dtype):
    refuse(spoilt(checkpoint, dtype=dtype), f"linear_1.weight is {dtype}; supported: F32, F16, BF16")


def test_a_missing_tensor_is_named(checkpoint):
    left = {name: t for name, t in checkpoint.tensors.items() if not name.endswith("layers.1.mlp.fc2.bias")}
    refuse(replace(checkpoint, tensors=left), "no tensor for model.vision_tower.encoder.layers.1.mlp.fc2.bias;")


def test_a_head_of_its_own_is_not_replaced_by_the_embeddings(checkpoint):
    left = {name: t for name, t in checkpoint.tensors.items() if "lm_head" not in name}
    refuse(replace(checkpoint, tensors=left), "no tensor for lm_head.weight")
