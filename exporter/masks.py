"""Who sees whom: causal masks over right-padded sequences, with or without a past."""

from __future__ import annotations

import torch
from torch import Tensor


def last_place(valid: Tensor) -> Tensor:
    """`[B,1]`: the last row of each sequence that holds a token, 0 where none does; `valid` `[B,S]` may have holes."""
    return torch.where(valid, torch.arange(valid.shape[1]), 0).amax(1, keepdim=True)


def visible(valid: Tensor, places: Tensor) -> Tensor:
    """`[B,1,R,S]` bool: the keys that queries at `places` `[B,R]` see in a sequence with `valid` `[B,S]`."""
    keys = torch.arange(valid.shape[1])
    return ((keys <= places[..., None]) & valid[:, None])[:, None]


def attention_mask(valid: Tensor, hidden: Tensor, bias: Tensor | None = None, places: Tensor | None = None) -> Tensor:
    """The mask of new rows `hidden` `[B,T,C]` over `valid` `[B,P+T]` slots: bool `[B,1,T,P+T]`.

    With `bias` `[B,P+T]` it becomes additive, in the dtype of `hidden`. `places` `[B,T]` are the slots of the new rows
    if these are not the last ones. An explicit mask, not the causal flag: runtimes align that flag differently once
    there is a past.
    """
    if places is None:
        new = hidden.shape[1]
        places = (torch.arange(new) + (valid.shape[1] - new))[None]
    seen = visible(valid, places)
    if bias is None:
        return seen
    lowest = torch.finfo(hidden.dtype).min
    return torch.where(seen, bias[:, None, None].to(hidden.dtype), torch.full((), lowest, dtype=hidden.dtype))
