"""What zoo trains: one package per task, each a data module and a LightningModule."""

from tasks.causal_lm import CausalLM, TokenData
from tasks.char_lm import CharData, CharLM
from tasks.glue import GlueClassifier, GlueData

__all__ = ["CausalLM", "CharData", "CharLM", "GlueClassifier", "GlueData", "TokenData"]

LINKS = {
    "data.vocabulary": "model.init_args.vocabulary",
    "data.block_size": "model.init_args.block_size",
    "data.task": "model.init_args.task",
}
"""Settings that the command line takes from the data and gives to a model that wants them."""

SETTINGS = {"model.init_args.backbone": "data.init_args.backbone"}
"""Settings of the model that the data needs as well."""
