"""One picture: time to the first token at the smallest batch, dense and pruned, by line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.errors import UserError

COLOURS = {"dense": ("#b9c4cf", "#8796a5"), "pruned": ("#7cc4a4", "#1f8a5f")}  # vision, prefill
HEIGHT = {"dense": 0.2, "pruned": -0.2}  # of the bar's middle over the line's


def draw(found: Mapping[str, Any], out: Path) -> None:
    """Stacked bars of vision and prefill; the text beside them is the gain, and of what is possible.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError("matplotlib is not installed: pip install 'tp-export[bench]'") from error
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batch = min(line["batch"] for line in found["lines"])
    lines = [line for line in found["lines"] if line["batch"] == batch]
    names = list(dict.fromkeys(line["peer"] for line in lines))
    figure, axes = plt.subplots(figsize=(9, 0.9 + 0.75 * len(names)), dpi=150, layout="constrained")
    longest = max(_ms(line, "first token", "max") for line in lines)
    for line in lines:
        _bar(axes, line, len(names) - 1 - names.index(line["peer"]), _note(found, line, batch))
    titles = {line["peer"]: line["title"] for line in lines}
    axes.set_yticks(range(len(names)), [_wrapped(titles[name]) for name in reversed(names)])
    axes.set_xlim(0, 1.32 * longest)
    axes.set_xlabel(f"milliseconds to the first token, batch {batch}: vision, then prefill")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    _legend(axes)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    plt.close(figure)


def _bar(axes: Any, line: Mapping[str, Any], row: int, note: str) -> None:
    """One side of one line, with its least and most."""
    place = row + HEIGHT[line["side"]]
    total, vision = _ms(line, "first token"), _ms(line, "vision")
    for left, width, colour in zip((0, vision), (vision, total - vision), COLOURS[line["side"]], strict=True):
        axes.barh(place, width, 0.38, left=left, color=colour)
    least, most = (_ms(line, "first token", kind) for kind in ("min", "max"))
    axes.errorbar(total, place, xerr=[[total - least], [most - total]], color="#333333", lw=0.8, capsize=2)
    axes.annotate(note, (most, place), (6, 0), textcoords="offset points", va="center", fontsize=8.5)


def _note(found: Mapping[str, Any], line: Mapping[str, Any], batch: int) -> str:
    """Milliseconds; beside the pruned bar the gain, and how much of what fewer FLOPs allow that is."""
    text = f"{_ms(line, 'first token'):.0f} ms"
    own = (f"{line['peer']} dense", f"{line['peer']} pruned")
    pairs = [r for r in found["ratios"] if (r["slow"], r["fast"]) == own and r["batch"] == batch]
    if line["side"] == "dense" or not pairs:
        return text
    first = pairs[0]["stages"]["first token"]
    share = f", {first['achieved']:.0%} of possible" if "achieved" in first else ""
    return f"{text}: x{first['median']:.2f}{share}"


def _legend(axes: Any) -> None:
    from matplotlib.patches import Patch

    shown = [Patch(color=COLOURS[side][1], label=side) for side in COLOURS]
    axes.legend(handles=shown, loc="lower right", frameon=False)


def _wrapped(title: str) -> str:
    return title.replace(", ", "\n")


def _ms(line: Mapping[str, Any], stage: str, kind: str = "median") -> float:
    return 1e3 * float(line["seconds"][stage][kind])
