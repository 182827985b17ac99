"""Tensors that live from call to call: whose they are, what they begin with, when they are forgotten."""

import numpy as np
import pytest

from engines.chat import Chat
from engines.errors import UserError
from engines.prompt import Prompt
from engines.session import Session
from engines.states import parse_states
from tests.engines.numpy_bundle import EOS, SPLIT, contract, picture, save_tokenizer
from tests.engines.numpy_model import IMAGE, NumpyModel

EPISODE = {"name": "asked", "shape": [3], "dtype": "float32", "initial": 0.5, "reset": "episode",
           "reads": ["prefill", "decode"]}  # fmt: skip
REQUEST = {**EPISODE, "name": "seen", "shape": [2, "slots"], "dtype": "int64", "reset": "request", "reads": ["decode"]}
PORTS = {"prefill": ["state.asked"], "prefill.warm": ["state.asked"],
         "decode": ["state.asked", "state.seen", "state.span_slots"]}  # fmt: skip


class Noted:
    """A session whose parts note the states they get: prefill adds 1 to `asked`, decode 10 and counts `seen`."""

    def __init__(self, prompt=None, **settings):
        self.given = []
        model = NumpyModel(**SPLIT, **settings)
        raw = contract(model) | {"states": [EPISODE, REQUEST]}
        for name, ports in PORTS.items():
            if name in raw["parts"]:
                raw["parts"][name]["inputs"] += [{"name": port} for port in ports]
        parts = {name: self._noting(name, run) for name, run in model.parts().items()}
        self.session = Session(raw, parts, prompt)

    def _noting(self, name, run):
        def noting(feeds):
            if name not in PORTS:
                return run(feeds)
            state = {key: value.copy() for key, value in feeds.items() if key.startswith("state.")}
            self.given.append((name, state))
            outputs, asked = run(feeds), feeds["state.asked"]
            if name == "decode":
                grown = np.concatenate([feeds["state.seen"], feeds["state.seen"][:, :, :1] + 1], 2)
                return outputs | {"next_state.asked": asked + 10, "next_state.seen": grown}
            batch = len(asked)
            places = np.arange(batch * 10).reshape(batch, 2, 5)
            made = {"next_state.seen": np.zeros((batch, 2, 1), np.int64), "next_state.span_slots": places}
            return outputs | made | {"next_state.asked": asked + 1}

        return noting

    def asked(self, number=-1):
        return self.given[number][1]["state.asked"].tolist()


def prefill(session, batch=2):
    return session.prefill([[5, IMAGE, 9]] * batch, [[picture(1)]] * batch)[0]


def test_a_requests_states_go_from_call_to_call_and_an_episodes_from_request_to_request():
    noted = Noted()
    state = prefill(noted.session)
    assert noted.given[0][1].keys() == {"state.asked"}
    assert noted.asked() == [[0.5] * 3] * 2
    for steps in range(2):
        noted.session.step(state, np.array([9, 13]))
        given = noted.given[-1][1]
        assert given["state.asked"].tolist() == [[1.5 + 10 * steps] * 3] * 2
        assert given["state.asked"].dtype == np.float32
        assert given["state.seen"].shape == (2, 2, 1 + steps)
        assert given["state.span_slots"].shape == (2, 2, 5)  # nobody returned another
    again = prefill(noted.session)
    assert noted.asked() == [[21.5] * 3] * 2
    noted.session.step(again, np.array([9, 13]))
    assert noted.given[-1][1]["state.seen"].shape == (2, 2, 1)
    assert not [name for name in again.outputs if name.startswith("next_state")]


def test_an_episode_ends_when_it_is_told_to():
    noted = Noted()
    old = prefill(noted.session)
    noted.session.reset()
    prefill(noted.session)
    assert noted.asked() == [[0.5] * 3] * 2
    noted.session.step(old, np.array([9, 13]))  # which goes on in its own
    prefill(noted.session)
    assert noted.asked() == [[1.5] * 3] * 2


def test_an_episode_has_one_number_of_sequences():
    noted = Noted()
    prefill(noted.session)
    with pytest.raises(UserError, match="an episode of 2 sequences cannot go on with 1: reset the session first"):
        prefill(noted.session, 1)
    prefill(noted.session)
    assert noted.asked() == [[1.5] * 3] * 2
    noted.session.reset()
    prefill(noted.session, 1)
    assert noted.asked() == [[0.5] * 3]


def test_a_request_that_is_refused_is_none():
    noted = Noted(max_length=30, warm=1)
    with pytest.raises(UserError, match="too long"):
        noted.session.start([[9] * 90], [0], [])
    prefill(noted.session)
    assert (noted.given[-1][0], noted.asked()) == ("prefill.warm", [[0.5] * 3] * 2)


def test_the_first_requests_of_an_episode_go_through_a_part_of_their_own():
    noted = Noted(warm=2)
    for _ in range(4):
        prefill(noted.session)
    noted.session.reset()
    prefill(noted.session)
    noted.session.reset(warmed=True)
    prefill(noted.session)
    warm, cut = "prefill.warm", "prefill"
    assert [name for name, _ in noted.given] == [warm, warm, cut, cut, warm, cut]
    assert [given["state.asked"][0, 0] for _, given in noted.given] == [0.5, 1.5, 2.5, 3.5, 0.5, 0.5]


def test_requests_without_cuts_leave_a_cache_that_decoding_goes_on_from():
    warm, plain = (Noted(warm=1).session, Noted().session)
    state = prefill(warm)
    assert [mask.shape[1] for mask in state.masks] == [12, 12]
    assert [mask.shape[1] for mask in prefill(plain).masks] == [12, 6]
    warm.extend(state, [[9, 8], [7]])
    assert [mask.shape[1] for mask in state.masks] == [14, 14]


def test_a_conversation_is_an_episode_and_a_new_picture_its_next_request(tmp_path):
    save_tokenizer(tmp_path)
    noted = Noted(Prompt(tmp_path, IMAGE), warm=1)
    prefill(noted.session)
    chat = Chat(noted.session)
    for question, pictures in (("what is it ?", [picture(1)]), ("and blue ?", []), ("and it ?", [picture(2)])):
        list(chat.ask(question, pictures, sampler=lambda _: np.array([EOS])))
    assert [name for name, _ in noted.given] == ["prefill.warm", "prefill.warm", "decode", "prefill"]
    assert [given["state.asked"][0, 0] for _, given in noted.given] == [0.5, 0.5, 1.5, 11.5]


def test_values_begin_as_the_contract_says():
    [spec] = parse_states([{**EPISODE, "shape": [2, 3], "dtype": "int64", "initial": -1}], batch=4)
    values = spec.fresh(4)
    assert (values.shape, values.dtype) == ((4, 2, 3), np.int64)
    assert (values == -1).all()
