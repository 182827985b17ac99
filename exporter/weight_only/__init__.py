"""`--weights int8|int4`: the decoder's matrices as whole numbers, for boards that wait for their memory."""

from exporter.weight_only.compare import compare
from exporter.weight_only.entry import quantised

__all__ = ["compare", "quantised"]
