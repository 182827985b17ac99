"""One reducer a file, found by its name: `methods/fastervlm.py` is `--method fastervlm`."""
