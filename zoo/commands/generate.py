"""`zoo generate`: text from a trained character model."""

from pathlib import Path
from typing import Any

from zoo.commands.arguments import parse
from zoo.errors import UserError

OPTIONS: dict[str, dict[str, Any]] = {
    "--ckpt_path": {"required": True, "help": "a checkpoint, or a run's folder"},
    "--prompt": {"default": "\n", "help": "the text to continue"},
    "--length": {"type": int, "default": 500, "help": "characters to add"},
    "--temperature": {"type": float, "default": 0.8, "help": "0 takes the likeliest character"},
    "--top_k": {"type": int, "default": None, "help": "sample among the k likeliest only"},
    "--seed": {"type": int, "default": 0, "help": "of the sampling"},
}


def main(argv: list[str]) -> int:
    """Print the prompt and its continuation."""
    options = parse("generate", __doc__ or "", argv, OPTIONS)
    print(generate(**vars(options)))
    return 0


def generate(ckpt_path: str, prompt: str, length: int, temperature: float, top_k: int | None, seed: int) -> str:
    """The prompt and `length` characters more.

    Raises:
        UserError: for a checkpoint of no character model, characters it never saw, or a number out of range.
    """
    numbers = {"length": (length, 0), "temperature": (temperature, 0), "top_k": (top_k, 1), "seed": (seed, 0)}
    for name, (value, least) in numbers.items():
        if value is not None and not least <= value < 2**63:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    if not prompt:
        raise UserError("--prompt is empty: give at least one character to continue")
    from zoo import checkpoints

    path = checkpoints.resolve(ckpt_path)
    settings = checkpoints.load(path).get("hyper_parameters", {})
    if "vocabulary" not in settings:
        raise UserError(f"checkpoint {path} is of no character model: it has no vocabulary")
    return sample(path, prompt, length, temperature, top_k, seed)


def sample(path: Path, prompt: str, length: int, temperature: float, top_k: int | None, seed: int) -> str:
    """Load the model, and sample."""
    import torch

    from tasks import CharLM

    try:
        model = CharLM.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    except Exception as error:  # what a checkpoint names may be missing here, or be something else
        reason = str(error).strip().splitlines()[-1]
        hint = "run it where its parameterization is found"
        raise UserError(f"checkpoint '{path}' cannot be rebuilt here ({reason}); {hint}") from error
    try:
        ids = model.encode(prompt)
    except ValueError as error:
        raise UserError(f"--prompt: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    return model.decode(model.net.generate(ids, length, temperature, top_k, generator)[0])
