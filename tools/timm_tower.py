"""Write small random timm towers as ONNX files, as a user would export them: python tools/timm_tower.py FOLDER.

Needs timm, which is no dependency of this project. timm imports torchvision for data loading alone; where that is not
installed beside this torch, stand-ins take its place.
"""

import importlib.util
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from exporter.trace import save

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "mlp_ratio": 2, "num_classes": 5}
TOWERS = {
    "vit_token_fused": ("vit_tiny_patch16_224", {"global_pool": "token"}, True, 18),
    "vit_token_plain": ("vit_tiny_patch16_224", {"global_pool": "token"}, False, 20),
    "vit_avg_fused": ("vit_tiny_patch16_224", {"global_pool": "avg"}, True, 23),
    "vit_avg_plain": ("vit_tiny_patch16_224", {"global_pool": "avg"}, False, 18),
}


class Empty(type):
    """The kind of a class that does nothing and has every name, a class like itself each."""

    def __getattr__(cls, name: str) -> type:
        return _empty(name)


class Anything(types.ModuleType):
    """A module of such classes."""

    def __getattr__(self, name: str) -> type:
        return _empty(name)


def _empty(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return Empty(name, (), {})


def without_torchvision() -> None:
    """Let `import torchvision` succeed where it is not installed."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc", ".datasets", ".models",
                 ".models.feature_extraction"):  # fmt: skip
        module = Anything(f"torchvision{name}")
        module.__path__ = []
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
        parent, _, leaf = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], leaf, module)


def tower(name: str, **changes: Any) -> torch.nn.Module:
    """A timm model with random weights."""
    without_torchvision()
    import timm

    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, pretrained=False, **changes).eval()
    for parameter in model.parameters():  # norms and tokens, which start at ones and zeros, too
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def write(model: torch.nn.Module, path: Path, size: int, *, fused: bool, opset: int) -> None:
    """Plain `torch.onnx.export` with an open batch, less the traces of this machine."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010 - a module's attributes are typed as tensors
    pictures = torch.zeros(2, 3, size, size)
    torch.onnx.export(
        model,
        (pictures,),
        path,
        input_names=["pictures"],
        output_names=["answer"],
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    save(ir.load(path), path)


def main() -> None:
    """All of TOWERS."""
    folder = Path(sys.argv[1])
    for file, (name, changes, fused, opset) in TOWERS.items():
        write(tower(name, **SMALL, **changes), folder / f"{file}.onnx", 32, fused=fused, opset=opset)


if __name__ == "__main__":
    main()
