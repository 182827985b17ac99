import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from engines import memory
from engines import session as module
from engines.bundle import contract_hash
from engines.errors import UserError
from engines.sampling import Sampler
from engines.session import Session
from tests.engines.numpy_bundle import (
    EOS,
    MODELS,
    PICTURES,
    PROMPTS,
    SINGLE,
    contract,
    open_numpy,
    save_tokenizer,
    with_engines,
)
from tests.engines.numpy_model import IMAGE, NumpyModel


def wander():
    """Picks the best, second, third … token in turn: an answer then tells logits apart that share their best."""
    ranks = iter(range(100))
    return lambda logits: np.argsort(-logits, axis=1, kind="stable")[:, next(ranks) % 5]


@pytest.mark.parametrize("settings", MODELS)
def test_generating_in_a_batch_gives_what_each_prompt_gives_alone(settings):
    session = open_numpy(settings)
    free = session.generate(PROMPTS, PICTURES, 12, wander(), stop_ids=[])
    assert [len(answer) for answer in free] == [12, 12, 12]
    assert len({tuple(answer) for answer in free}) == 3
    stop = free[0][3]  # some end early, others go on
    answers = session.generate(PROMPTS, PICTURES, 12, wander(), stop_ids=[stop])
    ends = [answer.index(stop) + 1 if stop in answer else 12 for answer in free]
    assert answers == [answer[:end] for answer, end in zip(free, ends, strict=True)]
    assert len(set(ends)) > 1
    for b in range(3):
        assert session.generate([PROMPTS[b]], [PICTURES[b]], 12, wander(), [stop])[0] == answers[b]


def test_parts_in_bf16_get_bf16_and_answer():
    kind, seen = np.dtype(ml_dtypes.bfloat16), set()

    def narrow(_, run):
        def rounded(feeds):
            seen.update(array.dtype for array in feeds.values() if array.dtype.kind in "fV")
            wide = {k: a.astype(np.float32) if a.dtype == kind else a for k, a in feeds.items()}
            return {k: a.astype(kind) if a.dtype.kind == "f" else a for k, a in run(wide).items()}

        return rounded

    answers = open_numpy(SINGLE, dtype="bf16", wrap=narrow).generate(PROMPTS, PICTURES, 5, Sampler(0.5), stop_ids=[])
    assert [len(answer) for answer in answers] == [5, 5, 5]
    assert seen == {kind}


def test_greedy_answers_follow_the_logits():
    session = open_numpy(SINGLE)
    state, logits = session.prefill(PROMPTS, PICTURES)
    expected = []
    for _ in range(5):
        logits[:, IMAGE] = -np.inf
        expected.append(logits.argmax(1))
        logits = session.step(state, expected[-1])
    assert session.generate(PROMPTS, PICTURES, 5, stop_ids=[]) == np.array(expected).T.tolist()


def test_generation_stops_at_the_models_own_end():
    pick = iter([[13, EOS], [EOS, 14], [15, 16]])
    answers = open_numpy(SINGLE).generate(PROMPTS[:2], PICTURES[:2], 8, lambda _: np.array(next(pick)))
    assert answers == [[13, EOS], [EOS]]


def test_an_image_token_is_never_generated():
    model = NumpyModel()

    def stubborn(feeds):
        outputs = model.decoder(feeds)
        outputs["logits"][..., IMAGE] = 1e9
        return outputs

    session = Session(contract(model), model.parts() | {"decoder": stubborn}, prompt=None)
    assert IMAGE not in session.generate(PROMPTS[:1], PICTURES[:1], 5, stop_ids=[])[0]


@pytest.mark.parametrize("limit", [{"max_length": 20}, {"max_positions": 19}])
def test_generation_ends_where_the_cache_does(limit):
    session = open_numpy({**SINGLE, **limit})
    answer = session.generate([PROMPTS[0]], [PICTURES[0]], 100, stop_ids=[])[0]
    assert len(answer) == 19 - 11 + 1  # the last token needs no place


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """A bundle whose engine files hold the name of the NumPy part they stand for."""
    model = NumpyModel()
    save_tokenizer(tmp_path)
    raw = with_engines(contract(model))
    entries = [*raw["parts"].values(), *raw["engines"].values()]
    names = {name for entry in entries for name in entry["files"].values()}
    raw["files"] = {name: save(tmp_path / name) for name in sorted(names)}
    raw["files"]["tokenizer.json"] = record(tmp_path / "tokenizer.json")
    (tmp_path / "bundle.json").write_text(json.dumps({**raw, "sha256": contract_hash(raw)}))
    loaded, asked = [], []

    class Backend:
        extension = ".onnx"

        def load(self, path, *, low):
            loaded.append(path.relative_to(tmp_path).as_posix() + " low" * low)
            return model.parts()[path.read_text()]

        def fits(self, entry):
            asked.append((entry["target"], len(loaded)))

    monkeypatch.setattr(module, "engine", lambda _: Backend())
    monkeypatch.setattr(memory, "weights", lambda _: 2**20)
    return tmp_path, loaded, asked


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(path.name.split(".")[0])
    return record(path)


def record(path):
    hashed = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"sha256": hashed, "bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def test_a_bundle_opens_and_generates(bundle):
    directory, loaded, _ = bundle
    session = Session.open(directory)
    assert sorted(loaded) == ["onnx/decoder.fp32.onnx", "onnx/embed.fp32.onnx", "onnx/vision.fp32.onnx"]
    assert session.generate(PROMPTS, PICTURES, 4) == open_numpy(SINGLE).generate(PROMPTS, PICTURES, 4)
    assert session.prompt.encode("red") == [13]


def test_engines_say_whether_they_fit_before_they_are_loaded(bundle):
    directory, _, asked = bundle
    Session.open(directory, "trt-rtx")
    assert asked == [("trt-rtx", 0)]


def test_another_precision_opens_other_files(bundle):
    directory, loaded, _ = bundle
    Session.open(directory, dtype="fp16")
    assert "onnx/decoder.fp16.onnx" in loaded
    Session.open(str(directory), "trt-rtx")
    assert "engines/trt-rtx/decoder.plan" in loaded


def test_what_does_not_fit_is_refused_before_it_is_opened(bundle, monkeypatch):
    directory, loaded, _ = bundle
    monkeypatch.setattr(memory, "available", lambda: 2**10)
    with pytest.raises(
        UserError, match=r"running .* with ort-cpu takes about .* of memory, 1 KiB are free: run it with --memory low"
    ):
        Session.open(directory)
    assert loaded == []
    Session.open(directory, memory="low")
    assert sorted(loaded) == [f"onnx/{part}.fp32.onnx low" for part in ("decoder", "embed", "vision")]
    Session.open(directory, memory="fast")
    assert "onnx/decoder.fp32.onnx" in loaded


def test_changed_files_and_other_directories_are_refused(bundle, tmp_path_factory):
    (bundle[0] / "onnx/decoder.fp32.onnx").write_text("something else")
    with pytest.raises(UserError, match=r"decoder\.fp32\.onnx"):
        Session.open(bundle[0])
    with pytest.raises(UserError, match="not a bundle"):
        Session.open(tmp_path_factory.mktemp("empty"))
