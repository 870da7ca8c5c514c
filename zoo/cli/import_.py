"""`zoo import`: an adapter of Hugging Face's peft, or of the LoRA authors' loralib, as a run.

It is validated, looked into and exported as any other; `zoo fit --ckpt_path` starts a new run from
it.
"""

import os
from pathlib import Path

from zoo.cli.arguments import call
from zoo.errors import UserError, options_called


def main(argv: list[str]) -> int:
    """Write the run, and print where it is."""
    folder = call(import_adapter, argv)
    print(f"run             {folder}")
    print(f"look            zoo validate --ckpt_path {folder}")
    print(f"train on        zoo fit --ckpt_path {folder}")
    return 0


def import_adapter(
    adapter: str,
    *,
    backbone: str | None = None,
    task: str | None = None,
    alpha: float | None = None,
    enable_lora: str | None = None,
    output: str | None = None,
) -> Path:
    """Write a run with the adapter's updates and head, whole or not at all; returns its folder.

    Args:
        adapter: a folder with adapter_config.json and adapter_model.safetensors or .bin, or a
            folder around it; or a state dict that loralib saved.
        backbone: a folder or name; by default the one that the adapter names.
        task: of GLUE, for a sequence classifier.
        alpha: of loralib's, which no file says.
        enable_lora: of loralib's merged layers, as true,false,true for the query and value of three
            in one; no file says it either.
        output: a new folder; by default runs/<name of the adapter's>.

    Raises:
        UserError: if there is no adapter, or one of another kind, backbone or task.
    """
    import torch
    import yaml

    import tasks
    from tasks.adapters import build, fill_
    from zoo.files.access import new_folder
    from zoo.runs import checkpoints
    from zoo.runs.peft import read

    found = read(Path(adapter), alpha, _flags(enable_lora))
    backbone = backbone or found.config.get("base_model_name_or_path")
    if not backbone:
        raise UserError(f"adapter {adapter!r} names no backbone: give one as --backbone")
    path = Path(os.path.abspath(adapter))
    target = Path(output) if output else Path("runs") / (path.stem if path.is_file() else path.name)
    with new_folder(target) as part:
        with options_called({"model.backbone": "backbone", "data.task": "task"}):
            model, data = build(found, str(backbone), task)
        fill_(model, found)
        # These the command line takes from data.
        linked = {target.rpartition(".")[2] for target in tasks.LINKS.values()}
        init_args = {
            k: v for k, v in model.hparams.items() if k not in {"_instantiator", "seed", *linked}
        }
        class_path = f"tasks.{type(model).__name__}"
        config = {"model": {"class_path": class_path, "init_args": init_args}, "data": data}
        (part / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        (part / "checkpoints").mkdir()
        torch.save(
            {**checkpoints.snapshot(model), checkpoints.START: True},
            part / "checkpoints" / "last.ckpt",
        )
    return target


def _flags(text: str | None) -> list[bool] | None:
    """Read `true,false,true`.

    Raises:
        UserError: for other words.
    """
    if text is None:
        return None
    words = [word.strip().lower() for word in text.split(",")]
    if not set(words) <= {"true", "false"} or "true" not in words:
        raise UserError(f"--enable_lora must be like true,false,true, got {text!r}")
    return [word == "true" for word in words]
