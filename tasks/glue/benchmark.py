"""The nine tasks of GLUE: their files, columns, labels and official metrics."""

from dataclasses import dataclass

from zoo.errors import UserError, option


@dataclass(frozen=True)
class GlueTask:
    """One task of GLUE.

    Args:
        folder: its name in the official download.
        texts: the columns of its one or two texts.
        label: the column of its label.
        labels: what the labels mean, by their numbers; none for a regression.
        metrics: the official ones; their mean is the score.
        hub: the columns of the texts on the hub, where they are called otherwise.
        columns: of a file that has no header.
        dev: validation files, the first of them decides.
        ragged: the official file has broken lines, which everybody leaves out, and empty texts,
            which everybody keeps.
        largest: score of a regression; the least is 0.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    hub: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    dev: tuple[str, ...] = ("dev",)
    ragged: bool = False
    largest: float = 5.0

    @property
    def num_labels(self) -> int:
        """The outputs of the head: 1 for a regression."""
        return len(self.labels) or 1


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    "cola": GlueTask(
        "CoLA",
        ("sentence",),
        "label",
        ("unacceptable", "acceptable"),
        ("matthews",),
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueTask("SST-2", ("sentence",), "label", ("negative", "positive"), ("accuracy",)),
    "mrpc": GlueTask(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        ("not_equivalent", "equivalent"),
        ("accuracy", "f1"),
        hub=PAIR,
    ),
    "stsb": GlueTask("STS-B", PAIR, "score", (), ("pearson", "spearman")),
    "qqp": GlueTask(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        ("not_duplicate", "duplicate"),
        ("accuracy", "f1"),
        ragged=True,
    ),
    "mnli": GlueTask(
        "MNLI",
        PAIR,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        ("accuracy",),
        hub=("premise", "hypothesis"),
        dev=("dev_matched", "dev_mismatched"),
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",)),
    "rte": GlueTask("RTE", PAIR, "label", ENTAILMENT, ("accuracy",)),
    "wnli": GlueTask("WNLI", PAIR, "label", ("not_entailment", "entailment"), ("accuracy",)),
}


def glue_task(name: str) -> GlueTask:
    """Return a task by its name.

    Raises:
        UserError: if there is none.
    """
    if name not in TASKS:
        raise UserError(
            f"no GLUE task is called {name!r}; there are {', '.join(TASKS)}: give one as "
            f"{option('data.task')}"
        )
    return TASKS[name]
