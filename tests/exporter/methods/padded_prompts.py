"""Right-padded prompts through a small decoder, together and one by one."""

from dataclasses import dataclass

import torch

from exporter.budget import Budget
from exporter.sequence import Sequence
from exporter.stack import Walk
from tests.exporter.methods.common import exported, normal
from tests.exporter.methods.small_decoder import WIDTH, small_decoder

LAYERS = 5
DECODER = small_decoder(LAYERS)


@dataclass(frozen=True)
class Prompts:
    """`lengths` tokens each, spans of `width` at `starts`; without starts the whole row of `width` is the span."""

    lengths: tuple
    width: int
    starts: tuple = ()

    @property
    def slots(self):
        return max(self.lengths) if self.starts else self.width

    @property
    def hidden(self):
        rows = [normal(1, length, WIDTH, seed=length) for length in self.lengths]
        return torch.cat([torch.nn.functional.pad(r, (0, 0, 0, self.slots - r.shape[1]), value=3.0) for r in rows])

    def one(self, number):
        return Prompts(self.lengths[number : number + 1], self.width, self.starts[number : number + 1])

    def walk(self, reducer, keep, hidden=None, lengths=None):
        """All layers, with the stages that the reducer plans for such spans."""
        hidden = self.hidden if hidden is None else hidden
        lengths = torch.tensor(self.lengths) if lengths is None else lengths
        every = torch.arange(hidden.shape[1]).expand(hidden.shape[:2])
        shape, spans = DECODER.shape(self.width), len(self.starts[0]) if self.starts else 1
        sequence = Sequence(
            hidden=hidden,
            start=torch.tensor(self.starts) if self.starts else 0,
            width=self.width,
            origin=torch.arange(self.width).expand(hidden.shape[0], spans, -1),
            valid=torch.arange(hidden.shape[1]) < lengths[:, None],
            positions=every,
            rows=every,
        )
        walk = Walk(DECODER.stack, reducer, reducer.plan(shape, Budget(str(keep))), shape, sequence)
        walk.run(LAYERS)
        return walk


def outcome(walk, number=0):
    """Of one sequence: rows kept by layer, next position by layer, states of what is left; padding left out."""
    after = [int(cached.next_position[number]) for cached in walk.caches]
    rows = [cached.sequence.rows[number][cached.valid[number]].tolist() for cached in walk.caches]
    return rows, after, walk.sequence.hidden[number][walk.sequence.valid[number]]


def alike(reducer, prompts, keep):
    """Every sequence of a batch gives what it gives alone."""
    walk = prompts.walk(reducer, keep)
    for number in range(len(prompts.lengths)):
        rows, after, hidden = outcome(prompts.one(number).walk(reducer, keep))
        found = outcome(walk, number)
        assert found[:2] == (rows, after)
        torch.testing.assert_close(found[2], hidden, atol=1e-5, rtol=1e-5)


def as_graph(reducer, prompts, keep):
    """The walk through ONNX Runtime, lengths and rows given; must be what PyTorch gives."""

    def run(hidden, lengths):
        walk = prompts.walk(reducer, keep, hidden, lengths)
        last = walk.caches[-1].sequence
        return {"hidden": walk.sequence.hidden, "rows": last.rows, "valid": last.valid.long(), **walk.outputs}

    return exported(run, prompts.hidden, torch.tensor(prompts.lengths))
