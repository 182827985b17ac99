"""Router files of random weights, in the layouts of docs/routers.md."""

import torch
from safetensors.torch import save_file

HIDDEN = 8


def ftp(path, layers):
    """One router for all blocks; the first and the last block are dense."""
    torch.manual_seed(0)
    tensors = {
        "sparsity": torch.tensor([0.0, *[0.3] * (layers - 2), 0.0]),
        "router.fc1.weight": torch.randn(HIDDEN, 4),
        "router.fc1.bias": torch.zeros(HIDDEN),
        "router.fc2.weight": torch.randn(2, HIDDEN),
        "router.fc2.bias": torch.zeros(2),
    }
    facts = {"layout": "shared", "activation": "relu", "position": "length", "rank": "length"}
    facts |= {"attention": "mean", "execute": "1"}
    save_file(tensors, path, metadata=facts)


def atp_llava(path, layers):
    """A module behind the first layer and one behind the last but one, on the means of both scores."""
    torch.manual_seed(0)
    places = (1, layers - 1)
    tensors = {}
    for layer in places:
        tensors[f"atp.{layer}.score_proj.weight"] = torch.randn(HIDDEN, 2)
        tensors[f"atp.{layer}.score_proj.bias"] = torch.zeros(HIDDEN)
        for head in ("head_r", "head_s"):
            tensors[f"atp.{layer}.{head}.weight"] = torch.randn(1, HIDDEN)
            tensors[f"atp.{layer}.{head}.bias"] = torch.zeros(1)
    facts = {"rates": "0.5,0.25", "lambda_sample": "3.0", "temperature": "10", "scores": "means", "activation": "none"}
    save_file(tensors, path, metadata={"layers": ",".join(map(str, places)), **facts})


WRITERS = {"ftp": ftp, "atp-llava": atp_llava}
