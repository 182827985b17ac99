"""The TensorRT plugin: kernels in `src`, NumPy twins of them, and how a built library is found and loaded."""
