import json

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import UserError
from exporter import halves
from exporter.checkpoint import open_checkpoint
from exporter.halves import twins, write_twins
from exporter.shard import read_header
from exporter.weights import attach
from tests.exporter.test_weights import GRAPH, W, X

BF16 = W.to(torch.bfloat16)
TINY = torch.tensor([1e-9, -3e-7, 6e4, float("inf"), float("-inf"), float("nan")]).to(torch.bfloat16)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(halves, "BLOCK", 5)  # several blocks a tensor
    tensors = {"proj.weight": BF16, "proj.bias": torch.ones(4).half(), "odd": TINY}

    def make(**more):
        save_file({**tensors, **more}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({}))
        return open_checkpoint(tmp_path)

    return make


def test_a_twin_holds_every_bf16_tensor_as_torch_rounds_it(checkpoint, tmp_path):
    opened = checkpoint()
    (tmp_path / "onnx").mkdir()
    records = write_twins(opened, tmp_path / "onnx")
    assert list(records) == ["onnx/model.fp16.safetensors"]
    found = load_file(tmp_path / "onnx/model.fp16.safetensors")
    assert found.keys() == {"proj.weight", "odd"}
    assert torch.equal(found["proj.weight"], BF16.half())
    assert torch.equal(found["odd"], TINY.half()) or torch.equal(found["odd"][:5], TINY.half()[:5])
    assert found["odd"][5].isnan()


def test_places_are_known_before_the_twin_is_written(checkpoint, tmp_path):
    opened = checkpoint()
    known = twins(opened)
    (tmp_path / "onnx").mkdir()
    write_twins(opened, tmp_path / "onnx")
    assert read_header(tmp_path / "onnx/model.fp16.safetensors") == {
        name: known[opened.tensors[name]] for name in ("odd", "proj.weight") if opened.tensors[name] in known
    }


def test_a_graph_in_fp16_reads_the_twin_without_a_cast(checkpoint, tmp_path):
    text = GRAPH.replace("float", "float16").replace("{2}", "{16384}")  # two, as bits
    opened, model = checkpoint(), ir.from_onnx_text(text)
    known = twins(opened)
    (folder := tmp_path / "onnx").mkdir()
    write_twins(opened, folder)
    (folder / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    attach(model, {name: known.get(tensor, tensor) for name, tensor in opened.tensors.items()}, folder)
    assert not [node for node in model.graph if node.op_type == "Cast"]
    ir.save(model, folder / "part.onnx")
    doubled = onnxruntime.InferenceSession(folder / "part.onnx").run(None, {"x": X.astype("float16")})[1]
    assert torch.equal(torch.from_numpy(doubled), 2 * BF16.half())


@pytest.mark.parametrize("value", [65536.0, -1e30])
def test_a_number_too_large_for_fp16_names_its_tensor(checkpoint, tmp_path, value):
    opened = checkpoint(large=torch.tensor([1.0, value]).to(torch.bfloat16))
    (tmp_path / "onnx").mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors: large holds .* too large for fp16 .*: leave --dtype"):
        write_twins(opened, tmp_path / "onnx")


def test_checkpoints_without_bf16_have_none(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    opened = open_checkpoint(tmp_path)
    assert twins(opened) == {}
    assert write_twins(opened, tmp_path) == {}
