"""A CLIP model beside the checkpoint: its towers' maths, its tensors' names, and what is refused."""

import json

import pytest
import torch
from transformers import CLIPModel

from engines.errors import UserError
from exporter.checkpoint import open_checkpoint
from exporter.clip_aux import beside, join, load_config, loaded, read
from exporter.demo import demo_checkpoint
from exporter.draft import Draft
from exporter.recipe import Recipe
from tests.exporter.models import tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("clip")
    tiny_clip.write(place, width=64)
    return place


@pytest.fixture(scope="module")
def config(folder):
    class Beside:
        clip_aux = load_config(folder)

    return Beside()


def test_it_computes_what_clip_does(folder, config):
    clip, stock = loaded(config, folder), CLIPModel.from_pretrained(folder).eval()
    states = torch.randn(2, 3, 64)
    with torch.no_grad():
        plain, normed = clip.aligned(states, norm=False), clip.aligned(states, norm=True)
        torch.testing.assert_close(plain, stock.visual_projection(states))
        torch.testing.assert_close(normed, stock.visual_projection(stock.vision_model.post_layernorm(states)))
        ids = torch.tensor([[1, 9, 8, 2, 0, 0, 0, 0, 0, 0, 0, 0]])
        mask = (torch.arange(12) < 4).to(torch.int64)[None]
        want = stock.text_projection(stock.text_model(input_ids=ids, attention_mask=mask).pooler_output)
        torch.testing.assert_close(clip.text(ids, mask), want)


def test_a_long_question_is_read_in_segments(folder, config):
    clip = loaded(config, folder)
    with torch.no_grad():
        short, long = read(clip, folder, "a star"), read(clip, folder, "what color is the star " * 6)
    assert short["clip_text"].shape == (1, 1, 20)
    assert long["clip_text"].shape[1] == long["clip_mask"].shape[1] > 1
    assert long["clip_mask"].all()


def test_its_tensors_and_files_are_set_apart(folder):
    demo = demo_checkpoint("demo")
    joined = join(open_checkpoint(demo), folder)
    assert joined.tensors["clip.visual_projection.weight"].file == "clip.model.safetensors"
    assert joined.path("clip.model.safetensors") == (folder / "model.safetensors").resolve()
    assert joined.path(joined.files[0]) == (demo / joined.files[0]).resolve()
    assert joined.fingerprint() != open_checkpoint(demo).fingerprint()


def test_an_empty_one_stands_beside_a_model_that_names_it(config):
    with torch.device("meta"):
        model = beside(torch.nn.Module(), config, torch.float16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    assert not hasattr(beside(torch.nn.Module(), object(), torch.float16), "clip")


def test_another_kind_of_model_is_refused(folder, tmp_path):
    told = json.loads((folder / "config.json").read_text()) | {"architectures": ["CLIPTextModel"]}
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="needs a CLIPModel"):
        load_config(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(method="recoverable", keep="16"), "through a CLIP text tower: give --aux clip=DIR"),
        (Recipe(method="fastervlm", keep="16", aux={"clip": "."}), "does not use it; leave it out"),
        (Recipe(method="recoverable", keep="16", aux={"blip": "."}), "--aux blip: no method uses such a file"),
        (Recipe(method="recoverable", keep="16", aux={"clip": "/nowhere"}), "no directory here"),
    ],
)
def test_options_that_do_not_fit_are_refused(recipe, says):
    with pytest.raises(UserError, match=says):
        Draft.of(recipe)
