"""Pictures and animations of noise, and what a family makes of them: pixels, forms, the uncut vision part's rows."""

import numpy as np
import onnxruntime
import torch
from PIL import Image

from engines.forms import parse_forms
from engines.images import open_image
from engines.tiles import choose, pixel_values
from engines.videos import open_video
from exporter.attention import register
from exporter.checkpoint import open_checkpoint
from exporter.contract import _picture
from exporter.parts.base import Job
from exporter.parts.vision import VisionPart
from exporter.registry import method
from exporter.trace import fake_model, save, trace
from exporter.weights import attach, match
from tests.exporter.tiny_llava import renamed


def noise(width, height, seed=0):
    """No two patches are alike."""
    drawn = np.random.default_rng(width * height + seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(drawn)


def picture(path, width, height):
    noise(width, height).save(path)
    return path


def animation(path, width, height, frames):
    """A WebP without loss."""
    first, *others = (noise(width, height, seed) for seed in range(frames))
    first.save(path, save_all=True, append_images=others, lossless=True)
    return path


def of_runtime(draft, path, *, video=False):
    """The pixels that the runtime makes of a file, and the planned form that it chooses for it."""
    shown = open_video(path) if video else open_image(path)
    forms = parse_forms([_picture(each) for each in draft.planned], draft.facts.hidden_size)
    planned = draft.planned[choose(forms, shown)]
    return pixel_values(shown, planned.preprocess), planned


def uncut_in_onnxruntime(family, folder, form, pixels):
    """`image_embeds` and `kept_indices` of the traced graph, with the checkpoint's weights; nothing optimised."""
    own, mode = fake_model(family, family.load_config(folder), "fp32", register())
    found = trace(VisionPart(Job(own.of(form), method("none"), ())), "fp32", mode)
    attach(found, match(own, open_checkpoint(folder)), folder)
    save(found, folder / "uncut.onnx")
    return onnxruntime.InferenceSession(folder / "uncut.onnx").run(None, {"pixel_values": pixels.numpy()})


def uncut_on_meta(family, config, form, method_name="none", stages=()):
    """Shapes of what the vision part of a real checkpoint's size returns, without weights."""
    own, mode = fake_model(family, config, "fp16", register())
    own = own.of(form)
    part = VisionPart(Job(own, method(method_name), stages))
    with mode, torch.no_grad():
        made = part(mode.from_tensor(torch.zeros(1, *own.pixels, dtype=torch.float16)))
    return [tuple(each.shape) for each in made]


def every_tensor_finds_its_parameter(family, folder, model, layout):
    """Also through `match`, byte for byte; the checkpoint is in fp16."""
    found = match(family(model.config, model), open_checkpoint(folder))
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert family.module_key(renamed(name, layout)) == name
        raw = (folder / found[name].file).read_bytes()[found[name].offset :][: found[name].nbytes]
        assert torch.equal(torch.frombuffer(bytearray(raw), dtype=torch.float16), parameter.half().flatten()), name
    stock = dict(family.reference(folder).named_parameters())
    assert all(torch.equal(stock[name], parameter.half().float()) for name, parameter in model.named_parameters())
