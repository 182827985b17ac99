import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from exporter.masks import attention_mask, visible
from tests.exporter.attention_by_hand import by_hand


def slots(*lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def test_visible_rows_by_hand():
    seen = visible(slots(4, 2, width=4), torch.tensor([[0, 2], [1, 3]]))
    assert seen.shape == (2, 1, 2, 4)
    assert seen[:, 0].int().tolist() == [[[1, 0, 0, 0], [1, 1, 1, 0]], [[1, 1, 0, 0], [1, 1, 0, 0]]]


def test_one_list_of_places_serves_every_row_of_the_batch():
    valid, places = slots(3, 1, width=3), torch.tensor([[2, 0]])
    assert torch.equal(visible(valid, places), visible(valid, places.expand(2, 2)))


def test_without_a_past_it_is_causal_over_the_valid_rows():
    mask = attention_mask(slots(3, 2, width=3), torch.zeros(2, 3, 8))
    assert mask[:, 0].int().tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]], [[1, 0, 0], [1, 1, 0], [1, 1, 0]]]


def test_new_rows_see_the_past_through_its_holes():
    """The first call's dummy slot, and the padding that a shorter prompt leaves in the cache."""
    valid = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 0]]) > 0
    mask = attention_mask(valid, torch.zeros(2, 2, 8))
    assert mask[:, 0].int().tolist() == [[[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 1, 1]], [[0, 1, 1, 1, 1, 0]] * 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_with_a_bias_it_is_additive_in_the_dtype_of_the_rows(dtype):
    valid, bias = slots(4, 3, width=4), torch.tensor([[0.5, -1, 0, 2], [1, 1, -3, 9]])
    hidden = torch.zeros(2, 2, 8, dtype=dtype)
    mask, seen = attention_mask(valid, hidden, bias), attention_mask(valid, hidden)
    assert mask.dtype == dtype
    lowest = torch.finfo(dtype).min
    for b, row, slot in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(4)).tolist():
        assert mask[b, 0, row, slot] == (bias[b, slot] if seen[b, 0, row, slot] else lowest)


@pytest.mark.parametrize("biased", [False, True])
def test_fused_attention_with_this_mask_is_attention_by_hand(biased):
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 5, 4)
    valid, bias = slots(5, 3, width=5), torch.randn(2, 5) if biased else None
    _, weights = by_hand(q, k, 0.5, valid, bias)
    mask = attention_mask(valid, torch.zeros(2, 5, 8), bias)
    got = scaled_dot_product_attention(q, k, v, mask, scale=0.5)
    torch.testing.assert_close(got, torch.from_numpy(weights).float() @ v)
