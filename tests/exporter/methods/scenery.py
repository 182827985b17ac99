"""Made-up videos with scenes, and selections of them as rows."""

import torch

from tests.exporter.methods.common import normal, uniform


def scenery(batch, views, patches, width=24, *, length=4, seed=0):
    """Rows `[B,F,L,D]`: places that stand still through scenes of some frames, and places that move."""
    gen = torch.Generator().manual_seed(seed)
    base = normal(batch, 1, patches, width, seed=seed + 1)
    scenes = normal(batch, views // length + 2, patches, width, seed=seed + 2)
    number = (torch.arange(views) + torch.randint(0, length, (1,), generator=gen)) // length
    moving = uniform(batch, views, patches, 1, seed=seed + 3) < 0.15
    changing = uniform(batch, 1, patches, 1, seed=seed + 4) < 0.7
    noise = normal(batch, views, patches, width, seed=seed + 5)
    return base + scenes[:, number] * changing + noise * torch.where(moving, 1.5, 0.2)


def rows_of(selection, video):
    """Kept indices `[B,K]` and rows `[B,K,D]`."""
    return selection.indices[:, 0], selection.mix[:, 0] @ video.flatten(1, 2)


def same(selection, video, wanted):
    """Whether each video's filled rows are what was worked out: a list of (index, row); empty slots come last."""
    indices, rows = rows_of(selection, video)
    for index, row, want in zip(indices, rows, wanted, strict=True):
        assert index.tolist() == [place for place, _ in want] + [-2] * (len(index) - len(want))
        torch.testing.assert_close(row[: len(want)], torch.stack([value for _, value in want]), atol=1e-5, rtol=1e-4)
        assert (row[len(want) :] == 0).all()


def peaks(rows, neighbours, count):
    """Density peaks of `[n,D]` pair by pair, the highest first, and the distances `[n][n]`."""
    apart = [[float((a - b).double().norm()) / rows.shape[1] ** 0.5 for b in rows] for a in rows]
    rho = [torch.exp(-torch.tensor(sorted(line)[:neighbours]).double().square().mean()).item() for line in apart]
    far = max(max(line) for line in apart)
    score = []
    for i, line in enumerate(apart):
        denser = [distance for j, distance in enumerate(line) if rho[j] > rho[i]]
        score.append(min(denser, default=far) * rho[i])
    return sorted(range(len(rows)), key=lambda i: -score[i])[:count], apart
