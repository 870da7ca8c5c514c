"""Sentence classification and regression on GLUE as a LightningModule."""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    MulticlassAccuracy,
)

from tasks.finetuning import FineTuning, Tuning
from tasks.glue.benchmark import GlueTask, glue_task
from tasks.glue.tokens import Batch
from zoo.layers.convert import ParameterizationFactory
from zoo.parameterizations import Dense
from zoo.parameterizations.budget import Budget
from zoo.training.optimizers import OptimizerConfig

BESIDE = ("labels", "weight", "index")
"""What a batch has beside the network's inputs."""


class Matthews(BinaryMatthewsCorrCoef):
    """Matthews' correlation, 0 where it is 0 / 0, as GLUE scores it.

    torchmetrics takes a limit there, such as 0.2.
    """

    def compute(self) -> Tensor:
        """Return the correlation of all predictions so far."""
        whole = self.confmat.any(0).all() and self.confmat.any(1).all()
        return super().compute() if whole else torch.zeros(())


def official_metrics(task: GlueTask) -> MetricCollection:
    """Make the metrics of a task; accuracy is over examples (micro)."""

    def accuracy() -> Metric:
        if task.num_labels == 2:
            return BinaryAccuracy()
        return MulticlassAccuracy(task.num_labels, average="micro")

    every: dict[str, Callable[[], Metric]] = {
        "accuracy": accuracy,
        "f1": BinaryF1Score,
        "matthews": Matthews,
        "pearson": PearsonCorrCoef,
        "spearman": SpearmanCorrCoef,
    }
    with warnings.catch_warnings():
        # Correlations keep all that they are given; a validation file is small.
        warnings.filterwarnings("ignore", message=".*will save all targets.*")
        return MetricCollection({name: every[name]() for name in task.metrics})


class Scores(nn.Module):
    """Loss and official metrics over one validation file, and over all ranks."""

    def __init__(self, task: GlueTask) -> None:
        super().__init__()
        self.metrics, self.loss = official_metrics(task), MeanMetric()

    def update(self, outputs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch.

        Outputs are logits (examples, labels) or predicted values (examples,); labels are
        (examples,), and the loss is a mean.
        """
        self.loss.update(loss, weight=len(labels))
        self.metrics.update(outputs.argmax(-1) if outputs.dim() == 2 else outputs, labels)

    def compute(self) -> dict[str, float]:
        """Return `score`, the mean of the metrics, then the metrics and `loss`; and start anew.

        A correlation with constant predictions, which is undefined, counts as 0.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*variance of predictions or target is close to zero.*"
            )
            computed = self.metrics.compute()
        metrics = {name: float(value.nan_to_num()) for name, value in computed.items()}
        score, loss = sum(metrics.values()) / len(metrics), float(self.loss.compute())
        self.loss.reset()
        self.metrics.reset()
        return {"score": score, **metrics, "loss": loss}


class GlueClassifier(FineTuning):
    """A pretrained network that classifies sentences.

    Args:
        backbone: a folder written by `save_pretrained`, or a name on the Hugging Face hub.
        task: of GLUE; comes from the data.
        parameterization: of the update W of a layer that is a target.
        targets: globs of layers; by default those of `tuning.preset`, query and value.
        overrides: parameterizations of layers that match a glob.
        budget: of all targets together; the parameterization then has none of its own.
        tuning: what is trained, and how the rest is held.
        optimizer: how to train.
        seed: of everything random in training.
        recompute: build every W again in backward rather than keep it; gradients are the same.
    """

    monitor = "val/score"
    from_data = ("task",)

    def __init__(
        self,
        backbone: str = "bert-base-uncased",
        task: str = "sst2",
        parameterization: ParameterizationFactory = Dense,
        targets: list[str] | None = None,
        overrides: dict[str, ParameterizationFactory] | None = None,
        budget: Budget | None = None,
        tuning: Tuning | None = None,
        optimizer: OptimizerConfig | None = None,
        seed: int = 0,
        recompute: bool = False,
    ) -> None:
        update = (parameterization, targets, overrides, budget, tuning)
        super().__init__(backbone, *update, optimizer, seed, recompute)
        self.save_settings()
        self.about = about = glue_task(task)
        names = about.labels or ("score",)
        self.net = self.build(
            "SequenceClassification",
            num_labels=about.num_labels,
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
        # MNLI has two validation files, and the first of them decides.
        self.scores = nn.ModuleList(Scores(about) for _ in about.dev)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (examples, labels), or a regression's values (examples,), float32."""
        inputs = {name: value for name, value in batch.items() if name not in BESIDE}
        logits = self.net(**inputs).logits.float()
        return logits if self.about.labels else logits.squeeze(-1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy in nats, or the mean squared error of a regression."""
        return (F.cross_entropy if self.about.labels else F.mse_loss)(outputs, labels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch.

        Where ranks have unequally many examples it is times the batch's weight (`BucketLoader`).
        """
        loss = self.loss(self(batch), batch["labels"])
        if "weight" in batch:
            loss = loss * batch["weight"]
        self.log_loss(loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the examples of a batch."""
        outputs, labels = self(batch), batch["labels"]
        scores = self.scores[dataloader_idx]
        assert isinstance(scores, Scores)
        scores.update(outputs, labels, self.loss(outputs, labels))

    def on_validation_epoch_end(self) -> None:
        """Log loss, the official metrics and their mean, the score.

        Those of a second file have its name behind.
        """
        self._log_scores("val")

    def _log_scores(self, stage: str) -> None:
        for name, scores in zip(self.about.dev, self.scores, strict=True):
            assert isinstance(scores, Scores)
            behind = "" if name == self.about.dev[0] else name.removeprefix("dev")
            self.log_dict(
                {f"{stage}/{key}{behind}": value for key, value in scores.compute().items()},
                sync_dist=True,
            )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the examples of a batch."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Log loss, metrics and score."""
        self._log_scores("test")

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Return what the network says of each example.

        Returns:
            `index`, its place in the file; `prediction`, the likeliest label or the predicted
            value; `label`, the right one, (examples,) each; and of classes their `probabilities`,
            (examples, labels).
        """
        outputs = self(batch)
        rows = {"index": batch["index"], "label": batch["labels"]}
        if not self.about.labels:
            return rows | {"prediction": outputs}
        return rows | {"prediction": outputs.argmax(-1), "probabilities": outputs.softmax(-1)}

    def prediction_columns(self, outputs: dict[str, Tensor]) -> dict[str, object]:
        """Return what `predict_step` does, with classes by their names."""
        names = self.about.labels
        if not names:
            return {key: outputs[key] for key in ("index", "prediction", "label")}
        label, prediction = (
            [names[i] for i in outputs[key].tolist()] for key in ("label", "prediction")
        )
        probabilities = {
            f"p_{name}": p
            for name, p in zip(names, outputs["probabilities"].unbind(-1), strict=True)
        }
        index = outputs["index"]
        return {"index": index, "prediction": prediction, "label": label, **probabilities}
