"""From a checkpoint to traced, pruned ONNX parts and the bundle that holds their engines."""

__version__ = "0.1.0"
