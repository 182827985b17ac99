"""What of a model sees: the reference without its decoder's layers, and how many numbers each takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from exporter.draft import Draft
from exporter.family import Family
from exporter.shard import Tensor as StoredTensor
from exporter.weights import match

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def eyes(draft: Draft) -> nn.Module:
    """The plain Hugging Face model, eager, fp32, with weights for all but the decoder's layers and its head.

    The others stay empty, on no device: whoever runs them gets an error and no numbers.
    """
    family = _empty(draft)
    family.restore_buffers()
    unseen, stored = _unseen(family), match(family, draft.checkpoint)
    for name, parameter in list(family.model.named_parameters(remove_duplicate=False)):
        if id(parameter) not in unseen:
            module, _, leaf = name.rpartition(".")
            value = nn.Parameter(_read(draft, stored[name]), requires_grad=False)
            family.model.get_submodule(module).register_parameter(leaf, value)
    return family.model.eval()


def numbers(draft: Draft, *, whole: bool) -> int:
    """How many numbers the checkpoint holds, `whole` or for `eyes` alone."""
    family = _empty(draft)
    unseen = set[int]() if whole else _unseen(family)
    return sum(math.prod(each.shape) for each in family.model.parameters() if id(each) not in unseen)


def _empty(draft: Draft) -> Family:
    with torch.device("meta"):
        return draft.family(draft.config, draft.family.empty(draft.config, torch.float32, "eager"))


def _unseen(family: Family) -> set[int]:
    """The parameters that only the decoder reads."""
    layers = {id(parameter) for parameter in family.layers("decoder").parameters()}
    return layers | {id(each) for name, each in family.model.named_parameters() if name.endswith("lm_head.weight")}


def _read(draft: Draft, stored: StoredTensor) -> Tensor:
    with draft.checkpoint.path(stored.file).open("rb") as file:
        file.seek(stored.offset)
        data = bytearray(file.read(stored.nbytes))
    return torch.frombuffer(data, dtype=TYPES[stored.dtype]).reshape(stored.shape).float()
