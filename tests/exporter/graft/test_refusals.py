"""What a graft refuses, in one line, with nothing written."""

import onnx

from tests.exporter.graft.towers import DATA
from tests.exporter.mistakes import run

VIT = DATA / "vit_token_fused.onnx"
CNN = """<ir_version: 8, opset_import: ["" : 18]>
net (float[n,3,8,8] x) => (float[n,4,8,8] y) <float[4,3,1,1] w, float[4] s>
{ a = Conv(x, w)  y = BatchNormalization(a, s, s, s, s) }"""


def saved(path, text):
    model = onnx.parser.parse_model(text)
    for name, dims in (("w", [4, 3, 1, 1]), ("s", [4])):
        count = 12 if name == "w" else 4
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, dims, [1.0] * count))
    onnx.save(model, path)
    return path


def changed(path, change):
    """The tower after `change(model)`."""
    model = onnx.load(VIT)
    change(model)
    onnx.save(model, path)
    return path


def dense_head(model):
    """A map of the patches, as segmentation heads make it, of the last stream."""
    stream = [node for node in model.graph.node if node.op_type == "LayerNormalization"][-1].input[0]
    for name, numbers in (("from", [1]), ("to", [2**62]), ("on", [1]), ("map", [-1, 4, 4, 24])):
        model.graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(numbers)], numbers))
    model.graph.node.append(onnx.helper.make_node("Slice", [stream, "from", "to", "on"], ["patches"]))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["patches", "map"], ["dense"], name="to_map"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("dense", onnx.TensorProto.FLOAT, ["batch", 4, 4, 24]))


def old(model):
    model.opset_import[0].version = 17


def refused(path, said, *words, folder):
    output = folder / "out.onnx"
    keep = () if "--keep" in words else ("--keep", "8")
    which = () if "--method" in words else ("--method", "fastervlm")
    code, _, err = run("graft", path, *which, *keep, "-o", output, *words)
    assert (code, err.strip().count("\n")) == (2, 0), err
    assert said in err
    assert not output.exists()


def test_files_that_are_no_vision_transformer(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(VIT.read_bytes()[:5000])
    text = tmp_path / "text.onnx"
    text.write_text("not a model", encoding="utf-8")
    refused(tmp_path / "none.onnx", "no such file", folder=tmp_path)
    refused(broken, "not an ONNX model", folder=tmp_path)
    refused(text, "not an ONNX model", folder=tmp_path)
    refused(changed(tmp_path / "old.onnx", old), "opset_version=18", folder=tmp_path)
    refused(saved(tmp_path / "cnn.onnx", CNN), "no attention", folder=tmp_path)


def test_a_dense_head_is_named(tmp_path):
    refused(changed(tmp_path / "dense.onnx", dense_head), "to_map (Reshape)", folder=tmp_path)


def test_budgets_methods_and_layers(tmp_path):
    refused(VIT, "16 patches", "--keep", "17", folder=tmp_path)
    refused(VIT, "did you mean", "--method", "fastervlmm", folder=tmp_path)
    refused(VIT, "it needs text; these can: fastervlm", "--method", "dart", folder=tmp_path)
    refused(VIT, "in the language model", "--method", "fastv", folder=tmp_path)
    refused(VIT, "behind the projector", "--method", "divprune", folder=tmp_path)
    refused(VIT, "layers 0 to 2", "--layer", "3", folder=tmp_path)


def test_an_output_that_is_there_stays(tmp_path):
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    code, _, err = run("graft", VIT, "--method", "fastervlm", "--keep", "8", "-o", there)
    assert code == 2
    assert "--force" in err
    assert there.read_bytes() == b"mine"
    code, _, err = run("graft", VIT, "--method", "fastervlm", "--keep", "8", "-o", VIT, "--force")
    assert code == 2
    assert "model itself" in err


def test_weights_outside_the_folder(tmp_path):
    def away(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "4")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    path = tmp_path / "away.onnx"
    model = onnx.load(VIT)
    away(model)
    path.write_bytes(model.SerializeToString())
    refused(path, "not beside the model", folder=tmp_path)
