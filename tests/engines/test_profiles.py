import pytest

from engines.errors import UserError
from engines.profiles import Limits, profiles

LIMITS = Limits(batch=4, length=512, tokens=64, images=2)


EMBED = {"input_ids": ("batch", "tokens"), "image_embeds": ("rows", 160)}
DECODER = {
    "inputs_embeds": ("batch", "tokens", 160),
    "attention_mask": ("batch", "past+tokens"),
    "past_key_values.0.key": ("batch", 5, "past", 32),
    "scale": (1,),
}


def test_vision_has_one_profile_over_the_batch():
    found = profiles("vision", {"pixel_values": ("batch", 3, 96, 96)}, LIMITS)
    assert found == [{"pixel_values": ((1, 3, 96, 96), (1, 3, 96, 96), (4, 3, 96, 96))}]


def test_embed_takes_a_prompt_of_any_length_and_the_pictures_of_a_batch():
    [found] = profiles("embed", EMBED, LIMITS)
    assert found["input_ids"] == ((1, 1), (1, 104), (4, 512))
    assert found["image_embeds"] == ((1, 160), (64, 160), (512, 160))


def test_embed_without_pictures_still_takes_a_row_block():
    [found] = profiles("embed", EMBED, Limits(batch=4, length=512, tokens=64, images=0))
    assert found["image_embeds"][2] == (256, 160)


def test_a_decoder_has_a_prompt_and_a_step_and_never_an_empty_past():
    prompt, step = profiles("decoder", DECODER, LIMITS)
    assert prompt["inputs_embeds"] == ((1, 1, 160), (1, 104, 160), (4, 512, 160))
    assert prompt["past_key_values.0.key"] == ((1, 5, 1, 32), (1, 5, 1, 32), (4, 5, 512, 32))
    assert prompt["attention_mask"] == ((1, 2), (1, 105), (4, 1024))
    assert step["inputs_embeds"] == ((1, 1, 160), (1, 1, 160), (4, 1, 160))
    assert step["past_key_values.0.key"] == ((1, 5, 1, 32), (1, 5, 104, 32), (4, 5, 512, 32))
    assert step["attention_mask"] == ((1, 2), (1, 105), (4, 513))


def test_ports_of_static_shape_need_no_range():
    assert all("scale" not in profile for profile in profiles("decoder", DECODER, LIMITS))


def test_the_groups_of_a_split_decoder_share_the_range_of_the_past():
    ports = {
        "attention_mask.1": ("batch", "past.1+tokens"),
        "past_key_values.3.key": ("batch", 5, "past.1", 32),
    }
    prompt, step = profiles("decode", ports, LIMITS)
    assert prompt["attention_mask.1"] == ((1, 2), (1, 105), (4, 1024))
    assert step["past_key_values.3.key"] == ((1, 5, 1, 32), (1, 5, 104, 32), (4, 5, 512, 32))


@pytest.mark.parametrize(("images", "shortest", "usual"), [(1, 65, 104), (2, 129, 129)])
def test_a_prefill_is_longer_than_all_its_spans(images, shortest, usual):
    limits = Limits(batch=2, length=512, tokens=64, images=images)
    [found] = profiles("prefill", {"attention_mask": ("batch", "tokens"), "span_starts": ("batch", images)}, limits)
    assert found["attention_mask"] == ((1, shortest), (1, usual), (2, 512))
    assert found["span_starts"] == ((1, images), (1, images), (2, images))


def test_a_usual_prompt_fits_a_short_engine():
    limits = Limits(batch=1, length=80, tokens=64, images=1)
    for profile in profiles("decoder", DECODER, limits):
        for low, usual, high in profile.values():
            assert all(a <= b <= c for a, b, c in zip(low, usual, high, strict=True))
    assert limits.prompt == 80


def test_an_axis_without_a_range_is_not_passed_over():
    with pytest.raises(KeyError, match="length"):
        profiles("decoder", {"odd": ("batch", "length.0")}, LIMITS)


def test_parts_of_prompts_of_one_length_have_no_range_but_the_batch():
    [found] = profiles("prefill.256", {"inputs_embeds": ("batch", 256, 160)}, LIMITS)
    assert found == {"inputs_embeds": ((1, 256, 160), (1, 256, 160), (4, 256, 160))}


def test_a_warm_up_is_as_long_as_any_prompt():
    ports = {"attention_mask": ("batch", "tokens")}
    assert profiles("prefill.warm", ports, LIMITS) == profiles("prefill", ports, LIMITS)


def test_static_caches_have_no_range():
    ports = {"slots.0": ("batch", "tokens"), "past_key_values.0.key": ("batch", 5, 448, 32)}
    prompt, step = profiles("decode", ports, LIMITS)
    assert prompt["slots.0"] == ((1, 1), (1, 104), (4, 448))
    assert step["past_key_values.0.key"] == ((1, 5, 448, 32), (1, 5, 448, 32), (4, 5, 448, 32))


def test_caches_that_were_cut_alone_grow_behind_what_is_left_of_them():
    ports = {"attention_mask.0": ("batch", "64+tokens"), "attention_mask.1": ("batch", "past.1+tokens")}
    prompt, step = profiles("decode", ports, Limits(batch=4, length=512, tokens=64, images=2, fixed=64))
    assert prompt["attention_mask.0"] == ((1, 65), (1, 168), (4, 576))
    assert step["attention_mask.1"] == ((1, 2), (1, 105), (4, 512 + 64 + 1))


def test_between_two_turns_caches_and_states_have_any_length():
    [found] = profiles("evict", {"attention_mask.0": ("batch", "past.0"), "state.s": ("batch", "slots")}, LIMITS)
    assert found["attention_mask.0"] == found["state.s"] == ((1, 1), (1, 104), (4, 512))


def test_engines_may_be_smaller_than_the_bundle_allows_but_not_larger():
    assert LIMITS.within(None, None) == LIMITS
    assert LIMITS.within(2, 256) == Limits(batch=2, length=256, tokens=64, images=2)
    for batch, length, said in (
        (5, None, "--max-batch 5: engines of this bundle take 1 to 4"),
        (0, None, "--max-batch 0"),
        (None, 128, "--max-length 128: engines of this bundle take 129 to 512"),  # both pictures, and a word
        (None, 513, "--max-length 513"),
    ):
        with pytest.raises(UserError, match=said):
            LIMITS.within(batch, length)
