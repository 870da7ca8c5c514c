"""Which value of a metric is best by its name, the least or the largest."""

import re

LEAST = frozenset(
    [
        "loss",
        "perplexity",
        "ppl",
        "bits",
        "nats",
        "bpc",
        "bpb",
        "entropy",
        "nll",
        "error",
        "errors",
        "err",
        "mse",
        "rmse",
        "mae",
        "wer",
        "cer",
        "eer",
        "fpr",
        "fnr",
        "divergence",
        "kl",
        "distance",
        "regret",
        "brier",
    ]
)
"""Words of names of which less is better."""
LARGEST = frozenset(
    [
        "score",
        "accuracy",
        "acc",
        "f1",
        "fbeta",
        "matthews",
        "mcc",
        "pearson",
        "spearman",
        "correlation",
        "corr",
        "auc",
        "auroc",
        "auprc",
        "ap",
        "map",
        "precision",
        "recall",
        "sensitivity",
        "specificity",
        "bleu",
        "rouge",
        "meteor",
        "iou",
        "dice",
        "jaccard",
        "kappa",
        "r2",
        "ndcg",
        "mrr",
        "reward",
    ]
)
"""Words of names of which more is better."""
MODES = {"min": True, "max": False}


def less_is_better(metric: str, mode: str | None = None) -> bool | None:
    """Tell whether the least value of a metric is its best.

    Args:
        metric: its name, as `val/bits_per_char`.
        mode: `min` or `max`, where somebody has said it; None leaves it to the words of the name.

    Returns:
        None where nothing says it: no word of the name is known, or its words contradict each
            other.
    """
    if mode is not None:
        return MODES[mode]
    name = metric.rpartition("/")[2].lower()
    words = set(re.split(r"[^a-z0-9]+", name))
    least, largest = bool(words & LEAST) or name.endswith("loss"), bool(words & LARGEST)
    return least if least != largest else None
