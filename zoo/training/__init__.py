"""A task as Lightning trains it: module, data, optimizers, trainer and what watches a run."""
