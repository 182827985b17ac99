"""Many bundles and engines at once: models x methods x budgets x GPUs, on this machine or on a Ray cluster."""
