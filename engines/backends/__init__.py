"""One target a file: a new backend is a new module here, found by its name (`ort_cpu` serves `ort-cpu`)."""
