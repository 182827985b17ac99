"""One sequence as Python lists, cut by walking over it: what `exporter.sequence` is compared with."""

from dataclasses import dataclass, field

import torch

from exporter.sequence import Sequence

WIDE = 3  # hidden size


@dataclass
class Plain:
    """One sequence of a batch; `origin` and `carry` are by span."""

    starts: list
    width: int
    hidden: list = field(default_factory=list)
    valid: list = field(default_factory=list)
    positions: list = field(default_factory=list)
    bias: list = field(default_factory=list)
    origin: list = field(default_factory=list)
    carry: list = field(default_factory=list)

    def cut(self, picked, mix, targets, extra):
        """Rows `picked[i]` of span i, then `extra` merged ones; row `targets[m]` becomes `mix[i][m] @ span`."""
        cut, end = Plain([], len(picked[0]) + extra), 0
        for number, start in enumerate(self.starts):
            cut.append(self, range(end, start))
            cut.starts.append(len(cut.hidden))
            cut.append(self, [start + place for place in picked[number]])
            cut.hidden += [[0.0] * WIDE] * extra
            cut.valid += self.valid[start : start + 1] * extra
            cut.positions += [0] * extra
            cut.bias += [0.0] * extra
            end = start + self.width
            for target, weights in zip(targets, mix[number], strict=True):
                cut.hidden[cut.starts[-1] + target] = mean(weights, self.hidden[start:end])
            cut.origin.append([self.origin[number][place] for place in picked[number]] + [-1] * extra)
            cut.carry.append([self.carry[number][place] for place in picked[number]] + [0.0] * extra)
        cut.append(self, range(end, len(self.hidden)))
        return cut

    def append(self, other, places):
        """Take over some rows of another sequence."""
        for name in ("hidden", "valid", "positions", "bias"):
            getattr(self, name).extend(getattr(other, name)[place] for place in places)


def mean(weights, rows):
    """The weighted sum of rows."""
    return [sum(w * row[c] for w, row in zip(weights, rows, strict=True)) for c in range(WIDE)]


def draw(dice, length, starts, width, text):
    """A random sequence whose rows from `text` on are padding."""
    return Plain(
        starts,
        width,
        hidden=[[dice.gauss(0, 1) for _ in range(WIDE)] for _ in range(length)],
        valid=[place < text for place in range(length)],
        positions=[dice.randrange(99) for _ in range(length)],
        bias=[dice.gauss(0, 1) for _ in range(length)],
        origin=[sorted(dice.sample(range(50), width)) for _ in starts],
        carry=[[dice.gauss(0, 1) for _ in range(width)] for _ in starts],
    )


def tensors(rows, start=None):
    """The whole batch as one Sequence; with an int start it has neither padding nor positions."""
    return Sequence(
        hidden=torch.tensor([row.hidden for row in rows]),
        start=torch.tensor([row.starts for row in rows]) if start is None else start,
        width=rows[0].width,
        origin=torch.tensor([row.origin for row in rows]),
        valid=torch.tensor([row.valid for row in rows]) if start is None else None,
        positions=torch.tensor([row.positions for row in rows]) if start is None else None,
        bias=torch.tensor([row.bias for row in rows]),
        carry={"seen": torch.tensor([row.carry for row in rows])},
    )


def equal(got, rows):
    """Everything of a Sequence is what the lists say."""
    close = torch.testing.assert_close
    close(got.hidden, torch.tensor([row.hidden for row in rows]).reshape(len(rows), -1, WIDE))
    close(got.bias, torch.tensor([row.bias for row in rows]))
    close(got.carry["seen"], torch.tensor([row.carry for row in rows]).reshape(got.origin.shape), rtol=0, atol=0)
    for name in ("valid", "positions"):
        values = getattr(got, name)
        assert values is None or values.tolist() == [getattr(row, name) for row in rows]
    assert got.origin.tolist() == [row.origin for row in rows]
    assert got.width == rows[0].width
    assert got.span.tolist() == [[list(range(s, s + row.width)) for s in row.starts] for row in rows]
