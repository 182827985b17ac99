"""One backend a file, and everything that runs without PyTorch: preprocessing, generation, parity, reports."""
