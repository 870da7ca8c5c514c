"""The linear layers of well-known transformers by what they do, as globs for `convert`.

A preset names layers of the blocks alone: no head, no pooler, and no projection of embeddings
(ELECTRA's `embeddings_project`, ALBERT's `embedding_hidden_mapping_in`, OPT's `project_in`) or of
relative positions (DeBERTa's `pos_proj`).
"""

from typing import Literal

from torch import nn

from zoo.errors import UserError
from zoo.layers.convert import linear_layers
from zoo.layers.names import summary

Preset = Literal["query_value", "attention", "mlp", "all"]


def _layers(query_value: str, attention: str, mlp: str) -> dict[str, tuple[str, ...]]:
    """Make the presets of an architecture from globs that are parted by spaces."""
    names = {"query_value": query_value, "attention": attention, "mlp": mlp}
    return {preset: tuple(globs.split()) for preset, globs in names.items()}


GATED = "gate_proj up_proj down_proj"
QKVO = "q_proj k_proj v_proj o_proj"
BERT_MLP = "intermediate.dense *[0-9].output.dense"
BERT = _layers("query value", "query key value attention.output.dense", BERT_MLP)
BART = _layers("q_proj v_proj", "q_proj k_proj v_proj *_attn.out_proj", "fc1 fc2")
GPT2 = _layers("attn.c_attn", "attn.c_attn attn.c_proj", "mlp.c_fc mlp.c_proj")
LLAMA = _layers("q_proj v_proj", QKVO, GATED)
# wi, or wi_0 and wi_1 where it is gated.
T5 = _layers("q v", "q k v o", "DenseReluDense.wi* DenseReluDense.wo")

PRESETS: dict[str, dict[str, tuple[str, ...]]] = {
    "albert": _layers("query value", "query key value attention.dense", "ffn ffn_output"),
    **dict.fromkeys(("bart", "mbart"), BART),
    **dict.fromkeys(
        (
            "bert",
            "bert-generation",
            "big_bird",
            "camembert",
            "data2vec-text",
            "electra",
            "ernie",
            "esm",
            "layoutlm",
            "megatron-bert",
            "mobilebert",
            "rembert",
            "roberta",
            "roberta-prelayernorm",
            "roformer",
            "xlm-roberta",
            "xlm-roberta-xl",
        ),
        BERT,
    ),
    **dict.fromkeys(
        ("bloom", "falcon"),
        _layers(
            "query_key_value", "query_key_value self_attention.dense", "dense_h_to_4h dense_4h_to_h"
        ),
    ),
    "codegen": _layers("qkv_proj", "qkv_proj out_proj", "fc_in fc_out"),
    "deberta": _layers("in_proj", "in_proj attention.output.dense", BERT_MLP),
    "deberta-v2": _layers(
        "query_proj value_proj", "query_proj key_proj value_proj attention.output.dense", BERT_MLP
    ),
    "distilbert": _layers("q_lin v_lin", "q_lin k_lin v_lin out_lin", "ffn.lin1 ffn.lin2"),
    **dict.fromkeys(("glm", "glm4"), _layers("q_proj v_proj", QKVO, "gate_up_proj down_proj")),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "openai-gpt"), GPT2),
    "gpt_neo": _layers("q_proj v_proj", "q_proj k_proj v_proj out_proj", "mlp.c_fc mlp.c_proj"),
    "gpt_neox": _layers(
        "query_key_value", "query_key_value attention.dense", "dense_h_to_4h dense_4h_to_h"
    ),
    "gptj": _layers("q_proj v_proj", "q_proj k_proj v_proj out_proj", "fc_in fc_out"),
    **dict.fromkeys(
        (
            "cohere",
            "cohere2",
            "cwm",
            "ernie4_5",
            "eurobert",
            "exaone4",
            "gemma",
            "gemma2",
            "gemma3_text",
            "granite",
            "helium",
            "hunyuan_v1_dense",
            "llama",
            "ministral",
            "ministral3",
            "mistral",
            "nomic_bert",
            "olmo",
            "olmo2",
            "olmo3",
            "qwen2",
            "qwen3",
            "seed_oss",
            "smollm3",
            "stablelm",
            "vaultgemma",
        ),
        LLAMA,
    ),
    "modernbert": _layers("attn.Wqkv", "attn.Wqkv attn.Wo", "mlp.Wi mlp.Wo"),
    "modernbert-decoder": _layers("q_proj v_proj", "q_proj k_proj v_proj attn.Wo", "mlp.Wi mlp.Wo"),
    "mpnet": _layers("attn.q attn.v", "attn.q attn.k attn.v attn.o", BERT_MLP),
    "mpt": _layers("attn.Wqkv", "attn.Wqkv attn.out_proj", "up_proj down_proj"),
    **dict.fromkeys(
        ("apertus", "arcee", "nemotron"), _layers("q_proj v_proj", QKVO, "up_proj down_proj")
    ),
    **dict.fromkeys(
        ("biogpt", "opt", "xglm"),
        _layers("q_proj v_proj", "q_proj k_proj v_proj out_proj", "fc1 fc2"),
    ),
    "persimmon": _layers(
        "query_key_value", "query_key_value self_attn.dense", "dense_h_to_4h dense_4h_to_h"
    ),
    "phi": _layers("q_proj v_proj", "q_proj k_proj v_proj self_attn.dense", "fc1 fc2"),
    "phi3": _layers("qkv_proj", "qkv_proj o_proj", "gate_up_proj down_proj"),
    "starcoder2": _layers("q_proj v_proj", QKVO, "mlp.c_fc mlp.c_proj"),
    **dict.fromkeys(("mt5", "t5", "umt5"), T5),
}
"""The layers that a preset names, by the architecture's `model_type`; `all` is attention and mlp.

Where one layer makes query, key and value (GPT-2's `c_attn`, NeoX', BLOOM's and Falcon's
`query_key_value`, Phi-3's `qkv_proj`, ModernBERT's `Wqkv`, DeBERTa's `in_proj`), `query_value` is
that layer.
"""


def preset_targets(network: nn.Module, preset: Preset) -> list[str]:
    """Return the globs of a preset for the architecture of a network.

    Args:
        network: any network of transformers; its `config.model_type` names the architecture.
        preset: which layers of its blocks are meant.

    Raises:
        UserError: if the architecture has no presets.
    """
    architecture = str(network.config.model_type)  # type: ignore[union-attr]
    if architecture not in PRESETS:
        raise UserError(
            f"no preset for a {architecture}: name layers as --model.targets '[\"...\"]'; "
            f"there are: {summary(linear_layers(network))}"
        )
    presets = PRESETS[architecture]
    return [*presets["attention"], *presets["mlp"]] if preset == "all" else list(presets[preset])
