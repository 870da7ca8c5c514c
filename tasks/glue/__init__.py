"""GLUE (arXiv 1804.07461): nine sentence classification tasks on any pretrained network."""

from tasks.glue.data import GlueData
from tasks.glue.module import GlueClassifier

__all__ = ["GlueClassifier", "GlueData"]
