"""Classifiers of every architecture, as the GLUE task makes them: their heads, and their weights in
bfloat16.
"""

import functools

import pytest
import torch
from architectures import CLASSIFIERS, VOCABULARY, configuration, ids
from every import thinned

from tasks import GlueClassifier
from tasks.finetuning import Tuning
from tasks.hub import PADDED_POSITIONS, check_length
from zoo.errors import UserError
from zoo.layers.convert import zoo_layers
from zoo.layers.presets import PRESETS
from zoo.parameterizations import DCT
from zoo.runs import checkpoints

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("kind", thinned([*CLASSIFIERS, "gemma3_text", "t5"], 4))
def test_a_classifier_trains_and_comes_back_from_its_checkpoint(kind, tmp_path):
    """Head and coefficients are float32 and have gradients; all else is frozen bfloat16, and so in
    no checkpoint.
    """
    settings = {"decoder_start_token_id": 0} if kind == "t5" else {}
    transformers.AutoModel.from_config(configuration(kind, **settings)).save_pretrained(
        tmp_path / "backbone"
    )
    factory = functools.partial(DCT, ratio=0.3)
    tuning = Tuning(preset="all", scale=0.5, dtype="bfloat16")
    model = GlueClassifier(str(tmp_path / "backbone"), "rte", factory, tuning=tuning)
    inputs = ids().where(torch.arange(6) < 5, 2)  # T5 reads the place of its one end of text
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(0.3 * torch.randn_like(p))

    model.net(input_ids=inputs).logits.square().mean().backward()
    for name, p in model.named_parameters():
        inside = name.startswith(f"net.{model.net.base_model_prefix}.")
        assert (
            p.requires_grad == (p.grad is not None) == (".parameterization." in name or not inside)
        ), name
        assert p.dtype == (torch.float32 if p.requires_grad else torch.bfloat16), name
    assert (
        len(zoo_layers(model.net)) == len(model.targets) * (1 if kind == "albert" else 2)
        or kind == "t5"
    )

    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(checkpoints.snapshot(model), folder / "last.ckpt")
    torch.manual_seed(1)
    again = checkpoints.rebuild(checkpoints.resolve(str(tmp_path / "run"))).eval()
    with torch.no_grad():
        assert torch.equal(
            again.net(input_ids=inputs).logits, model.eval().net(input_ids=inputs).logits
        )


def test_an_architecture_that_keeps_its_activations_is_named(tmp_path):
    transformers.AutoModel.from_config(configuration("albert")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="albert networks cannot compute their activations again"):
        GlueClassifier(str(tmp_path), "rte", tuning=Tuning(gradient_checkpointing=True))


@pytest.mark.parametrize("kind", thinned(sorted({*PADDED_POSITIONS, *PRESETS}), 4))
def test_the_longest_text_that_is_let_through_has_positions(kind, tmp_path):
    """And where positions are counted from behind the padding token, one token more has none."""
    config = configuration(kind, pad_token_id=1, bos_token_id=0)
    config.save_pretrained(tmp_path)
    positions = getattr(config, "max_position_embeddings", None) or 40
    longest = positions - 2 if kind in PADDED_POSITIONS else positions
    check_length(str(tmp_path), longest, "--data.max_length")
    network = transformers.AutoModel.from_config(config).eval()
    if kind == "xmod":
        network.set_default_language(config.languages[0])
    rows = torch.arange(longest + 1).remainder(VOCABULARY - 5)[None] + 3
    more = {"decoder_input_ids": rows[:, :2]} if config.is_encoder_decoder else {}
    with torch.no_grad():
        network(input_ids=rows[:, 1:], **more)
        if kind in PADDED_POSITIONS:
            with pytest.raises(UserError, match=f"must be at most {longest}"):
                check_length(str(tmp_path), longest + 1, "--data.max_length")
            with pytest.raises((IndexError, RuntimeError)):
                network(input_ids=rows, **more)
