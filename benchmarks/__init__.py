"""What is measured, with the commands that measure it: `python -m benchmarks --help`, from the checkout."""
