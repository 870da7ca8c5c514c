"""What zoo trains: one package per task, each a data module and a LightningModule."""

from tasks.char_lm import CharData, CharLM

__all__ = ["CharData", "CharLM"]

LINKS = {
    "data.vocabulary": "model.init_args.vocabulary",
    "data.block_size": "model.init_args.block_size",
}
"""Settings that the command line takes from the data and gives to a model that wants them."""
