"""Prompts of every form through real engines, in one batch, against the reference one at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.images import open_image
from engines.session import Session
from exporter.demo import demo_checkpoint
from exporter.draft import Draft
from exporter.pictures import pictures
from exporter.recipe import Recipe
from exporter.reference import Reference
from tests.exporter.toy_exports import toy

IMAGE = 4
WORDS = {
    "short": [43, 44, 45, 8, 6, 7],
    "long": [59, 55, 60, 57, 43, 46, 21, 33, 8, 6, 7],
    "text": [1, 5, 7, 43, 44, 8],
}
SHAPES, DIGITS = (open_image(picture.path) for picture in pictures("demo"))
PROMPTS = [WORDS["text"], [1, 5, 7, IMAGE, *WORDS["short"]], [1, IMAGE, 7, IMAGE, *WORDS["long"]]]
SHOWN = [[], [DIGITS], [SHAPES, DIGITS]]
SAID = [[21, 22], [33, 8], [24, 2]]  # what is fed behind each prompt, one token after the other


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.getbasetemp()


def reference(recipe):
    draft = Draft.of(recipe)
    family = draft.family(draft.config, draft.family.reference(draft.checkpoint.dir), draft.main.form)
    return draft, Reference(family, draft.reducer, draft.stages)


def wanted(recipe):
    """Logits `[2,V]` of each prompt's last row and of the first word said after it."""
    _, plain = reference(recipe)
    paths = {id(SHAPES): pictures("demo")[0].path, id(DIGITS): pictures("demo")[1].path}
    seen = {key: plain.see(plain.family.stock_pixels(demo_checkpoint("demo"), path)) for key, path in paths.items()}
    rows = []
    for ids, images, said in zip(PROMPTS, SHOWN, SAID, strict=True):
        rows.append(plain.read(ids, [seen[id(image)] for image in images], said).logits[:2].numpy())
    return rows


def close(got, want):
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def check(session, recipe, count=3):
    """A batch of text alone, one picture and two; then a step, all at once."""
    want = wanted(recipe)
    state, logits = session.prefill(PROMPTS[:count], SHOWN[:count])
    for row in range(count):
        close(logits[row], want[row][0])
    logits = session.step(state, np.array([said[0] for said in SAID[:count]]))
    for row in range(count):
        close(logits[row], want[row][1])


def test_one_decoder_serves_text_one_and_several_pictures(demo_bundle):
    check(Session.open(demo_bundle), Recipe(method="fastervlm", keep="64"))


def test_a_cut_decoder_does_too(folder):
    outcome = toy("carrier", folder, 2, ("ort-cpu",))
    check(Session.open(outcome.path), outcome_recipe("carrier", 2))


def test_a_key_bias_is_kept_for_later_tokens(folder):
    outcome = toy("masker", folder)
    check(Session.open(outcome.path), outcome_recipe("masker", 1), count=2)


def outcome_recipe(name, images):
    return Recipe(method=name, keep="32", images=images)


def test_several_tokens_behind_a_cache_equal_one_by_one(demo_bundle):
    session = Session.open(demo_bundle)
    at_once, _ = session.prefill(PROMPTS, SHOWN)
    one_by_one, _ = session.prefill(PROMPTS, SHOWN)
    for step in range(2):
        last = session.step(one_by_one, np.array([said[step] for said in SAID]))
    close(session.extend(at_once, SAID), last)


def test_the_reference_without_pruning_is_the_stock_model():
    """No cut, no hooks' work: the hooked model must say what transformers' own forward says."""
    _, plain = reference(Recipe(method="none", targets=("ort-cpu",)))
    pixels = plain.family.stock_pixels(demo_checkpoint("demo"), Path(pictures("demo")[0].path))
    ids = PROMPTS[1]
    got = plain.read(ids, [plain.see(pixels)], []).logits[0]
    expanded = [token for word in ids for token in ([word] * 144 if word == IMAGE else [word])]
    with torch.no_grad():
        stock = plain.family.model(input_ids=torch.tensor([expanded]), pixel_values=pixels).logits[0, -1]
    torch.testing.assert_close(got, stock, rtol=1e-5, atol=1e-5)
