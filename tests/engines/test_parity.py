import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from engines import parity
from engines.errors import UserError
from engines.measure import compare
from engines.parity import Case
from tests.engines.numpy_bundle import open_numpy, picture, video
from tests.engines.numpy_model import IMAGE, VIDEO

SETTINGS = {"forms": ("tiles", "video"), "empty": 1, "positions": "mrope"}
CASES = [
    Case("square.png", "what color ?", "", [5, IMAGE, 9, 10]),
    Case("wide.png", "what color ?", "", [5, IMAGE, 9, 10, 11]),
    Case("film.webp", "how many ?", "", [5, VIDEO, 18, 19]),
]


@pytest.fixture
def folder(tmp_path):
    """Pictures of three forms, and what the engines themselves say as the reference."""
    picture(1, (9, 9)).save(tmp_path / "square.png")
    picture(2, (40, 9)).save(tmp_path / "wide.png")
    frames = video(3).frames
    frames[0].save(tmp_path / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    (tmp_path / "cases.json").write_text(json.dumps([asdict(case) for case in CASES]))
    found = parity.run(open_numpy(SETTINGS), CASES, tmp_path)
    tensors = {}
    for n in range(3):
        said = {"free_kept": found.kept[n], "embeds": found.embeds[n], "comparable": np.array(True)}
        said["tokens"] = np.array(found.tokens[n])
        said["logits"] = np.stack([step[n] for step in found.logits])
        tensors |= {f"{n}/{name}": np.ascontiguousarray(value) for name, value in said.items()}
    save_file(tensors, tmp_path / "reference.fp32.safetensors")
    return tmp_path


def test_cases_of_several_forms_are_played_in_one_batch(folder):
    cases, reference = parity.load(folder, "fp32")
    assert cases == CASES
    found = parity.run(open_numpy(SETTINGS), cases, folder)
    assert found.forms == [0, 1, 2]
    assert [len(kept) for kept in found.kept] == [5, 7, 8]
    rows = parity.compare(found, reference, "fp32")
    assert parity.verdict(rows) == "pass"
    assert [row.note for row in rows if row.level == "indices"] == ["5 of 5", "7 of 7", "8 of 8"]


def test_every_difference_of_every_case_fails_but_in_empty_slots(folder):
    cases, reference = parity.load(folder, "fp32")
    found = parity.run(open_numpy(SETTINGS), cases, folder)
    for n in range(3):
        found.embeds[n][found.kept[n] == -2] = 9
    assert parity.verdict(parity.compare(found, reference, "fp32")) == "pass"
    for n in range(3):
        embeds = [each.copy() for each in found.embeds]
        embeds[n][0] += 0.1
        failed = [row for row in parity.compare(replace(found, embeds=embeds), reference, "fp32") if not row.ok]
        assert [(row.level, row.case) for row in failed] == [("embeddings", n)]


def test_pictures_that_are_not_beside_the_cases_are_refused(folder):
    (folder / "cases.json").write_text(json.dumps([asdict(replace(CASES[0], picture="../square.png"))]))
    with pytest.raises(UserError, match="not the name of a picture beside it"):
        parity.load(folder, "fp32")


def test_dense_and_pruned_are_timed_on_one_picture():
    pairs = compare(open_numpy({"keep": 9, "reads": "text"}), open_numpy({"keep": 2}), picture(1), [5, IMAGE, 9])
    assert [pair.what for pair in pairs] == ["vision", "prefill", "first token"]
    assert all(pair.least <= pair.ratio <= pair.most for pair in pairs)


def test_values_of_other_tokens_are_told_not_judged(folder):
    cases, reference = parity.load(folder, "fp32")
    found = parity.run(open_numpy(SETTINGS), cases, folder)
    for each in reference:
        each["embeds"] += 0.1
        each["comparable"] = np.array(False)
    rows = parity.compare(found, reference, "fp32")
    assert parity.verdict(rows) == "pass"
    assert {row.bound for row in rows if row.level != "indices"} == {None}
    assert "told" in {row["threshold"] for row in parity.told({"fp32": rows})["rows"]}


def test_more_cases_than_a_batch_takes_are_played_in_turn(folder):
    together = parity.run(open_numpy(SETTINGS), CASES, folder)
    alone = parity.run(open_numpy({**SETTINGS, "max_batch": 1}), CASES, folder)
    assert alone.forms == together.forms
    assert alone.tokens == together.tokens
    assert all(np.array_equal(a, b) for a, b in zip(alone.kept, together.kept, strict=True))


def test_sixteen_bits_may_swap_a_few_tokens_in_the_decoder():
    kept = np.arange(20)[None]
    one, many = kept.copy(), kept.copy()
    one[0, -1], many[0, -5:] = 30, range(30, 35)
    reference = {"free_kept": np.arange(4), "kept_indices.1": kept, "comparable": np.array(True)}

    def verdicts(cut, dtype, comparable=True):
        found = parity.Run([0], [np.arange(4)], [], [], [], [{"kept_indices.1": cut}], [0])
        told = reference | {"comparable": np.array(comparable)}
        return [row.ok for row in parity._indices(found, 0, told, parity.BOUNDS[dtype])]

    assert verdicts(kept, "fp32") == [True, True]
    assert verdicts(one, "fp32") == [True, False]
    assert verdicts(one, "fp16") == [True, True]
    assert verdicts(many, "fp16") == [True, False]
    assert verdicts(many, "fp16", comparable=False) == [True, True]
