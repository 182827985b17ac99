import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from exporter.attention import register
from exporter.caches import Group
from exporter.checkpoint import open_checkpoint
from exporter.methods.fastervlm import FasterVLM
from exporter.models.llava import Llava
from exporter.parts.base import Job
from exporter.parts.decode import DecodePart
from exporter.parts.embed import EmbedPart
from exporter.parts.vision import VisionPart
from exporter.reducer import Stage
from exporter.trace import OPSET, fake_model, save, trace
from exporter.weights import attach, match
from tests.exporter.tiny_llava import tiny_config, tiny_model, write

KEEP = 2
AXES = {"batch", "tokens", "rows", "past"}


def parts(dtype):
    """The three parts of the tiny model, not traced yet, and the mode they are traced in."""
    family, mode = fake_model(Llava, tiny_config(), dtype, register())
    job = Job(family, FasterVLM(), (Stage("tower", 1, keep=KEEP),))
    made = (VisionPart(job), EmbedPart(job), DecodePart(job, (Group(0, 2, KEEP),)))
    return family, mode, {part.name: part for part in made}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def traced(model, tmp_path_factory):
    """All parts in fp32, traced, with weights attached and saved beside the shards; nothing optimised."""
    folder = tmp_path_factory.mktemp("parts")
    write(folder, model, dtype=torch.float32)
    family, mode, todo = parts("fp32")
    parameters = match(family, open_checkpoint(folder))
    found = {}
    for name, part in todo.items():
        found[name] = trace(part, "fp32", mode)
        attach(found[name], parameters, folder)
        save(found[name], folder / f"{name}.onnx")
    return folder, found


NAMES = ("vision", "embed", "decoder")


def shapes(values):
    return {value.name: [size if isinstance(size, int) else size.value for size in value.shape] for value in values}


def test_ports_have_their_names_and_axes(traced):
    _, found = traced
    assert shapes(found["vision"].graph.inputs) == {"pixel_values": ["batch", 3, 8, 8]}
    assert shapes(found["vision"].graph.outputs) == {"image_embeds": ["batch", 2, 16], "kept_indices": ["batch", 2]}
    assert shapes(found["embed"].graph.inputs) == {"input_ids": ["batch", "tokens"], "image_embeds": ["rows", 16]}
    assert shapes(found["embed"].graph.outputs) == {"inputs_embeds": ["batch", "tokens", 16]}
    caches = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    assert shapes(found["decoder"].graph.inputs) == {
        "inputs_embeds": ["batch", "tokens", 16],
        "attention_mask": ["batch", "past+tokens"],
        "position_ids": ["batch", "tokens"],
        **{f"past_key_values.{cache}": ["batch", 1, "past", 8] for cache in caches},
    }
    assert shapes(found["decoder"].graph.outputs) == {
        "logits": ["batch", 1, 20],
        **{f"present.{cache}": ["batch", 1, "past+tokens", 8] for cache in caches},
    }


@pytest.mark.parametrize("name", NAMES)
def test_no_axis_inside_keeps_a_made_up_name(traced, name):
    values = [value for node in traced[1][name].graph for value in node.outputs if value.shape is not None]
    sizes = {str(size) for value in values for size in value.shape if not isinstance(size, int)}
    assert "batch" in sizes
    assert {word for size in sizes for word in re.findall(r"[a-z_]\w*", size)} <= AXES


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_is_in_a_shard(traced, name):
    folder, _ = traced
    stored = onnx.load(folder / f"{name}.onnx", load_external_data=False).graph.initializer
    inside = [tensor for tensor in stored if tensor.data_location != onnx.TensorProto.EXTERNAL]
    outside = {tensor.name for tensor in stored} - {tensor.name for tensor in inside}
    known = dict(tiny_model().named_parameters())
    assert outside
    assert outside <= known.keys()
    assert not {tensor.name.removeprefix("model.") for tensor in inside} & known.keys()
    assert all(np.prod(tensor.dims) <= 8 for tensor in inside), "only constants of the graph itself"
    locations = {entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"}
    assert locations <= {"a.safetensors", "b.safetensors"}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_graph_is_small_and_says_nothing_of_this_machine(traced, name):
    folder, _ = traced
    raw = (folder / f"{name}.onnx").read_bytes()
    assert len(raw) < 150_000
    for trail in (str(Path.cwd()), str(Path(torch.__file__).parents[2]), str(Path.home()), str(folder), ".py"):
        assert trail.encode() not in raw, trail
    saved = onnx.load_from_string(raw)
    assert not saved.metadata_props
    assert not [node.name for node in saved.graph.node if node.metadata_props or node.doc_string]


def test_what_the_tracer_notes_on_nodes_is_there_before_saving():
    """Else the test above could not fail."""
    _, mode, todo = parts("fp32")
    notes = [key for node in trace(todo["embed"], "fp32", mode).graph for key in node.metadata_props]
    assert "pkg.torch.onnx.stack_trace" in notes


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_graph_names_its_part_opset_and_precision(traced, name):
    folder, _ = traced
    saved = onnx.load(folder / f"{name}.onnx", load_external_data=False)
    assert saved.graph.name == name
    assert (saved.producer_name, saved.producer_version) == ("tp-export", "fp32")
    assert {entry.domain: entry.version for entry in saved.opset_import}[""] == OPSET


@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 1), (3, 6, 2)])
def test_a_traced_graph_computes_what_the_module_does_at_any_size(traced, model, sizes):
    """No size that was used for tracing has become a constant."""
    batch, tokens, images = sizes
    ids = torch.randint(5, 20, (batch, tokens), generator=torch.Generator().manual_seed(0))
    ids[0, : KEEP * min(images, tokens // KEEP)] = 4
    rows = torch.randn(images * KEEP, 16)
    session = onnxruntime.InferenceSession(traced[0] / "embed.onnx")
    [got] = session.run(None, {"input_ids": ids.numpy(), "image_embeds": rows.numpy()})
    want = model.get_input_embeddings()(ids).detach()
    want[ids == 4] = rows[: int((ids == 4).sum())]
    np.testing.assert_array_equal(got, want.numpy())


def test_half_precision_changes_float_ports_only():
    _, mode, todo = parts("fp16")
    found = trace(todo["embed"], "fp16", mode)
    kinds = {value.name: value.dtype for value in (*found.graph.inputs, *found.graph.outputs)}
    half = ir.DataType.FLOAT16
    assert kinds == {"input_ids": ir.DataType.INT64, "image_embeds": half, "inputs_embeds": half}
    assert found.producer_version == "fp16"


def test_the_fake_model_has_no_weights_but_real_buffers(model):
    family, _, _ = parts("fp16")
    parameters = dict(family.model.named_parameters())
    assert {name: p.shape for name, p in parameters.items()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(isinstance(p.data, FakeTensor) and p.dtype == torch.float16 for p in parameters.values())
    rotary = family.model.model.language_model.rotary_emb
    torch.testing.assert_close(rotary.inv_freq, model.model.language_model.rotary_emb.inv_freq)
    places = family.model.model.vision_tower.embeddings.position_ids
    assert places.tolist() == [[0, 1, 2, 3, 4]]
