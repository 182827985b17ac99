"""Numbers as people read them."""


def amount(value: float, unit: str = "") -> str:
    """Write with a decimal prefix and three digits: 8.08e12 FLOP -> '8.08 TFLOP'."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)} {prefix}{unit}"
    return f"{_three(value)} {unit}".strip()


def size(count: float) -> str:
    """Write bytes with a binary prefix: 54525952 -> '52 MiB'."""
    for factor, prefix in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= factor:
            return f"{_three(count / factor)} {prefix}"
    return f"{count:.0f} B"


def milliseconds(seconds: float) -> str:
    """Write seconds as '3.09 ms', very short times as '0.59 µs'."""
    return f"{_three(seconds * 1e3)} ms" if seconds >= 1e-4 else f"{_three(seconds * 1e6)} µs"


def times(ratio: float) -> str:
    """Write a ratio as 'x5.98'."""
    return f"x{_three(ratio)}"


def _three(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
