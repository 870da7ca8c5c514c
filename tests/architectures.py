"""Tiny networks of transformers' architectures, made from configurations on the spot, with nothing
downloaded.
"""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CLASSIFIERS = (
    "albert",
    "bert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
)
DECODERS = (
    "bloom",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "gptj",
    "llama",
    "mistral",
    "olmo2",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
ENCODERS = ("t5",)
ARCHITECTURES = (*CLASSIFIERS, *DECODERS, *ENCODERS)

WIDTH, VOCABULARY, LENGTH = 16, 40, 6
SIZE: dict[str, Any] = {
    **dict.fromkeys(
        ("hidden_size", "dim", "n_embd", "embedding_size", "word_embed_proj_dim", "d_model"), WIDTH
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "hidden_dim",
            "ffn_dim",
            "d_ff",
            "n_inner",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
        ),
        24,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "n_layers",
            "n_layer",
            "num_layers",
            "num_decoder_layers",
            "encoder_layers",
            "decoder_layers",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_heads",
            "n_head",
            "num_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
        ),
        2,
    ),
    **dict.fromkeys(("head_dim", "d_kv", "rotary_dim", "query_pre_attn_scalar"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 32),
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
    "decoder_start_token_id": 0,
    "num_labels": 3,
}
"""What configurations call their sizes; each takes the names that it has.

Keys and values are fewer than queries.
"""

OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 12},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "electra": {"embedding_size": 12},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 12},
    "opt": {"word_embed_proj_dim": 12},
    "phi3": {"original_max_position_embeddings": 32},
}
"""What puts projections of embeddings and of relative positions beside the layers of the blocks.

What must fit is set as well.
"""


def configuration(kind: str, **settings: Any) -> Any:
    """A tiny configuration without dropout, and with weights of a size at which every layer
    matters.
    """
    transformers = pytest.importorskip("transformers")
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    known = transformers.CONFIG_MAPPING[kind]().to_dict()
    size = {name: value for name, value in SIZE.items() if name in known}
    still = {
        name: 0.0
        for name, value in known.items()
        if isinstance(value, float) and ("dropout" in name or "pdrop" in name)
    }
    return transformers.AutoConfig.for_model(
        kind, **{**size, **still, **OWN.get(kind, {}), **settings}
    )


def build(config: Any) -> nn.Module:
    """A network of this configuration with its usual head, every parameter drawn, in eval mode."""
    import transformers

    kind = config.model_type
    head = (
        "AutoModelForSequenceClassification"
        if kind in CLASSIFIERS
        else "AutoModelForCausalLM"
        if kind in DECODERS
        else "AutoModelForTextEncoding"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = getattr(transformers, head).from_config(config)
        for parameter in network.parameters():  # norms and biases too, which else are 1 and 0
            nn.init.normal_(
                parameter, std=parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            )
    return network.eval()


@functools.cache
def _built(kind: str) -> nn.Module:
    return build(configuration(kind))


def plain(kind: str) -> nn.Module:
    """A tiny network of this architecture, the same at every call."""
    return copy.deepcopy(_built(kind))


def ids() -> Tensor:
    """Two rows of tokens; (2, LENGTH)."""
    return torch.arange(2 * LENGTH).view(2, LENGTH) * 7 % (VOCABULARY - 3) + 3


def outputs(network: nn.Module) -> Tensor:
    """Logits, or the last hidden state of an encoder without a head."""
    found = network(input_ids=ids())
    return found["logits" if "logits" in found else "last_hidden_state"]
