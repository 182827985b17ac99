"""TensorRT and TensorRT-RTX: one builder and one runtime, since their interfaces are the same."""
