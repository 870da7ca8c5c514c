"""`zoo generate`: text from a trained language model."""

from zoo.cli.arguments import call
from zoo.errors import UserError
from zoo.files.trust import NOBODY, Trust

LONGEST = 100_000
"""How many characters a prompt may have, and how many characters or tokens are added at most."""
HOTTEST = 1000
"""The temperature at which all that can come is as good as equally likely."""


def main(argv: list[str]) -> int:
    """Print the prompt and its continuation."""
    print(call(generate, argv))
    return 0


def generate(
    *,
    ckpt_path: str,
    backbone: str | None = None,
    prompt: str = "\n",
    length: int = 500,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    trust: Trust = NOBODY,
) -> str:
    """Continue a prompt; returns it and what was added.

    Args:
        ckpt_path: a checkpoint, or a run's folder.
        backbone: where the pretrained network is now, if it was moved.
        prompt: the text to continue.
        length: characters, or tokens, to add; at most 100,000.
        temperature: 0 takes the likeliest.
        top_k: sample among the k likeliest only.
        seed: of the sampling.
        trust: which classes besides zoo's own the checkpoint may name.

    Raises:
        UserError: for a checkpoint of no language model, a prompt that it cannot read, or a number
            out of range.
    """
    numbers = {
        "length": (length, 0, LONGEST),
        "temperature": (temperature, 0, HOTTEST),
        "top_k": (top_k, 1, 2**31 - 1),
        "seed": (seed, 0, 2**63 - 1),
    }
    for name, (value, least, most) in numbers.items():
        if value is not None and not least <= value <= most:  # nan too
            raise UserError(
                f"--{name} must be at least {least} and at most {most:,}, got {value:,}"
            )
    if not prompt:
        raise UserError("--prompt is empty: give at least one character to continue")
    if len(prompt) > LONGEST:
        raise UserError(f"--prompt must have at most {LONGEST:,} characters, got {len(prompt):,}")
    try:
        prompt.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no text
        raise UserError(f"--prompt is not UTF-8 text: {prompt[:80]!r}; give characters") from None
    from tasks.text.module import LanguageModel
    from zoo.layers.convert import zoo_layers
    from zoo.runs import checkpoints

    path = checkpoints.resolve(ckpt_path)
    model = checkpoints.rebuild(path, backbone, trust=trust)
    if not isinstance(model, LanguageModel):
        raise UserError(
            f"checkpoint '{path}' is of a {type(model).__name__}, which writes no text: use "
            "another one"
        )
    for layer in zoo_layers(model.net).values():
        layer.recompute = False  # each W is built once for all steps
    try:
        return model.generate(prompt, length, temperature, top_k, seed)
    except UserError as error:
        raise UserError(f"--prompt: {error}") from error
