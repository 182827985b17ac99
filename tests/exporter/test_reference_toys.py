"""Decoder methods of every kind through real engines, token by token, against the reference that reads all at once."""

import numpy as np
import pytest

from engines.session import Session
from exporter.draft import Draft
from exporter.pictures import pictures
from exporter.recipe import Recipe
from exporter.reference import Reference
from tests.exporter.models import tiny_llama
from tests.exporter.test_sequences import DIGITS, PROMPTS, SHAPES, close
from tests.exporter.toy_exports import install, toy

STEPS = 16
SAID = [[(7 * step + 3 * row) % 50 + 5 for step in range(STEPS)] for row in range(2)]
DRAWN = {id(picture): shown.path for picture, shown in zip((SHAPES, DIGITS), pictures("demo"), strict=True)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


def reference(recipe):
    install()
    draft = Draft.of(recipe)
    family = draft.family(draft.config, draft.family.reference(draft.checkpoint.dir), draft.main.form)
    more = {"prompts": draft.prompts, "steps": draft.steps, "states": draft.states, "images": recipe.images}
    return Reference(family, draft.reducer, draft.stages, **more)


def seen(plain, picture):
    folder = Draft.of(Recipe(method="none", targets=("ort-cpu",))).checkpoint.dir
    return plain.see(plain.family.stock_pixels(folder, DRAWN[id(picture)]))


def compared(session, plain, prompts, shown=([], []), bucket=0):
    """Logits behind each prompt and behind each of the words said after it, of one batch."""
    shown = shown[: len(prompts)]
    state, logits = session.prefill(prompts, shown)
    said = np.array(SAID[: len(prompts)])
    got = [logits, *(session.step(state, said[:, step]) for step in range(STEPS))]
    for row, (ids, images) in enumerate(zip(prompts, shown, strict=True)):
        want = plain.read(ids, [seen(plain, image) for image in images], SAID[row], bucket).logits.numpy()
        assert len(want) == STEPS + 1
        for step, logits in enumerate(got):
            close(logits[row], want[step])


PICTURED = PROMPTS[1], [1, 7, 4, *PROMPTS[1][4:], 8, 6, 7]
BATCHES = {
    "two": ([*PICTURED], ([DIGITS], [SHAPES])),
    "text": ([PROMPTS[1], PROMPTS[0]], ([DIGITS], [])),
    "several": ([PROMPTS[1], PROMPTS[2]], ([DIGITS], [SHAPES, DIGITS])),
}


@pytest.mark.parametrize(
    ("name", "batch"),
    [("keyed", "text"), ("compacted", "two"), ("bypass", "two"), ("evictor", "text"), ("chooser", "several")],
)
def test_sixteen_forced_steps(name, batch, folder):
    images = 2 if batch == "several" else 1
    session, plain = (
        Session.open(toy(name, folder, images).path),
        reference(Recipe(method=name, keep="32", images=images)),
    )
    compared(session, plain, *BATCHES[batch])


def test_prompts_that_are_spans_whether_they_fill_a_bucket_or_not(folder):
    exact = 64 + len(PICTURED[0]) - 1
    recipe = {"method": "fastervlm:64+whole:24", "keep": None, "buckets": (exact, 128)}
    outcome = toy(folder=folder, name="whole", **recipe)
    session, plain = Session.open(outcome.path), reference(Recipe(**recipe))
    assert [each["part"] for each in outcome.contract["prefill"]] == [f"prefill.{exact}", "prefill.128"]
    compared(session, plain, [PICTURED[0]], [[DIGITS]])
    compared(session, plain, [*PICTURED], [[DIGITS], [SHAPES]], bucket=128)


def test_a_request_of_an_episode_behind_its_warm_up(folder):
    outcome = toy("episodic", folder)
    session = Session.open(outcome.path)
    recipe = Recipe(method="episodic", keep="32")
    session.reset(warmed=True)
    compared(session, reference(recipe), [*PICTURED], [[DIGITS], [SHAPES]])
    session.reset()
    compared(session, reference(Recipe(method="none")), [*PICTURED], [[DIGITS], [SHAPES]])


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A text model with grouped keys."""
    return str(tiny_llama.write(tmp_path_factory.mktemp("llama"), tiny_llama.tiny_model()))


@pytest.mark.parametrize("name", ["slotted", "keyed"])
def test_text_models_with_grouped_keys(name, folder, words):
    recipe = {"keep": "12", "model": words}
    outcome = toy(name, folder, **recipe)
    compared(Session.open(outcome.path), reference(Recipe(method=name, **recipe)), [[1, *SAID[0], *SAID[1]], [1, 5, 7]])


def test_prompts_of_a_text_model_as_spans(folder, words):
    recipe = {"keep": "12", "model": words, "buckets": (33, 64)}
    outcome = toy("whole", folder, **recipe)
    plain = reference(Recipe(method="whole", **recipe))
    session = Session.open(outcome.path)
    compared(session, plain, [[1, *SAID[0], *SAID[1]], [1, 5, 7]])
    compared(session, plain, [[1, *SAID[0], *SAID[1], 9], [1, 5, 7]], bucket=64)
