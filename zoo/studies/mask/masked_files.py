"""Masked runs as files that are taken wherever an adapter is."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from zoo.bases.masks import Kept, keep
from zoo.errors import UserError
from zoo.files.access import read_yaml
from zoo.files.plain import parse_yaml
from zoo.layers.convert import zoo_layers
from zoo.runs import checkpoints
from zoo.runs.source import Source
from zoo.training.identity import KEY
from zoo.training.module import ZooModule

DENSE = {"class_path": "zoo.parameterizations.Dense", "init_args": {}}


class MaskedFiles:
    """Writes a run's masks as files that are taken wherever an adapter is, with `Dense` updates.

    Args:
        folder: of the files, made when needed.
        source: the run.
        model: its task, before it is masked.

    Attributes:
        written: the files, as they come.

    Raises:
        UserError: if the run neither has frozen weights nor is from scratch: the file would lack
            W0; or if its config is damaged.
    """

    def __init__(self, folder: Path, source: Source, model: ZooModule) -> None:
        if model.start == "project":
            raise UserError(
                "--save needs updates of frozen weights, and full fine-tuning has none: drop --save"
            )
        self.folder, self.name, self.written = folder, source.name, list[Path]()
        file = checkpoints.resolve(source.path)
        self.checkpoint, run = checkpoints.load(file, resume=False), checkpoints.run_folder(file)
        try:
            self.config = (
                read_yaml(run / "config.yaml")
                if run
                else parse_yaml(self.checkpoint.get("config", ""))
            )
            if not isinstance(self.config["model"]["init_args"], dict):
                raise TypeError
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UserError(
                f"{source.path!r} has a config without a model, which --save needs: drop --save"
            ) from None
        layers = zoo_layers(model.net).items()
        self.layers = {name: (layer.parameterization.shape, layer.scale) for name, layer in layers}
        self.dense = [name for name, layer in layers if layer.dense_phase is not None]

    def write(self, mask: str, kept: Mapping[str, Kept]) -> int:
        """Write one file, named by run and mask, and return how many bytes it has.

        A layer of which nothing is kept has one coefficient, 0.
        """
        matrices = {}
        for name, (shape, scale) in self.layers.items():
            nothing = keep(torch.zeros(shape), shape, "dct", "frequency", 1 / math.prod(shape))
            left = kept.get(name, nothing)
            matrices[f"net.{name}.parameterization.coef"] = left._replace(
                values=left.values / scale
            )
        masked = {f"net.{name}.weight" for name in self.dense}
        others = {
            key: t
            for key, t in self.checkpoint["state_dict"].items()
            if ".parameterization." not in key and key not in masked
        }
        settings, config = dict(self.checkpoint["hyper_parameters"]), copy.deepcopy(self.config)
        dense: dict[str, Any] = {"parameterization": DENSE, "overrides": None, "budget": None}
        if self.dense:  # what is masked is W itself
            dense |= {"base": None, "dense_steps": 0}
        for arguments in (settings, config["model"]["init_args"]):
            arguments.update({key: value for key, value in dense.items() if key in arguments})
        content = {
            **self.checkpoint,
            "state_dict": others,
            "hyper_parameters": settings,
            "zoo_fingerprints": {},
        }
        if (known := copy.deepcopy(content.get(KEY))) is not None:
            known["identity"]["method"]["masked"] = mask  # another method than the run's
            content[KEY] = known
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self.name}-{mask}.safetensors"
        checkpoints.write_adapter(path, content, yaml.safe_dump(config, sort_keys=False), matrices)
        self.written.append(path)
        return path.stat().st_size
