"""Where a cut model and its weights lie."""

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from engines.errors import UserError
from exporter.graft.source import read
from exporter.graft.write import write
from tests.exporter.graft.towers import DATA


@pytest.fixture
def outside(tmp_path):
    """The tower with its weights in a file."""
    folder = tmp_path / "model"
    folder.mkdir()
    ir.save(ir.load(DATA / "vit_token_fused.onnx"), folder / "m.onnx", external_data="m.weights")
    return folder / "m.onnx"


def runs(path):
    assert onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_outputs()


def test_weights_in_a_file_stay_where_they_are(outside):
    output = outside.with_name("cut.onnx")
    write(read(outside), output, force=False)
    assert sorted(path.name for path in outside.parent.iterdir()) == ["cut.onnx", "m.onnx", "m.weights"]
    runs(output)


def test_elsewhere_they_are_copied_once(outside, tmp_path):
    output = tmp_path / "new" / "cut.onnx"
    for _ in range(2):
        write(read(outside), output, force=True)
    assert sorted(path.name for path in output.parent.iterdir()) == ["cut.onnx", "m.weights"]
    assert (output.parent / "m.weights").read_bytes() == outside.with_name("m.weights").read_bytes()
    runs(output)


def test_another_file_is_not_taken_for_the_weights(outside, tmp_path):
    (tmp_path / "m.weights").write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the model's weights"):
        write(read(outside), tmp_path / "cut.onnx", force=True)
    assert not (tmp_path / "cut.onnx").exists()
    assert (tmp_path / "m.weights").read_bytes() == b"something else"


def test_weights_that_are_cut_short_or_links_are_refused(outside):
    weights = outside.with_name("m.weights")
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    with pytest.raises(UserError, match="too short"):
        read(outside)
    weights.unlink()
    with pytest.raises(UserError, match="plain file"):
        read(outside)
    (outside.parent / "real").write_bytes(content)
    weights.symlink_to("real")
    with pytest.raises(UserError, match="plain file"):
        read(outside)


def test_small_models_stay_one_file(tmp_path):
    output = tmp_path / "cut.onnx"
    write(read(DATA / "vit_avg_fused.onnx"), output, force=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cut.onnx"]
    onnx.checker.check_model(onnx.load(output), full_check=True)
