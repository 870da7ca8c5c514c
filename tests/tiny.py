"""Tiny pretrained networks and GLUE files, made on the spot: what the hub would give, offline and
in a second.
"""

import random
from pathlib import Path

WORDS = [
    "the",
    "a",
    "good",
    "bad",
    "film",
    "story",
    "was",
    "is",
    "not",
    "very",
    "rather",
    "truly",
    "dull",
    "fine",
    "plot",
    "ends",
    "well",
    "badly",
    "no",
    "one",
    "knows",
    "why",
]
SIZES = {
    "bert": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
    "roberta": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    },
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    **dict.fromkeys(
        ("gemma3_text", "llama", "qwen3"),
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 48,
        },
    ),
}
DECODERS = ("gemma3_text", "gpt2", "llama", "qwen3")


def sentence(draw: random.Random, words: int = 6) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(2, words)))


def save_backbone(kind: str, folder: Path) -> Path:
    """A network of this kind, most without a head, and its tokenizer, as `save_pretrained` leaves
    them.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

    texts = [sentence(random.Random(i), 20) for i in range(50)]
    if kind in ("bert", "distilbert"):
        names = {
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
        }
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(
            vocab_size=200, special_tokens=list(names.values()), show_progress=False
        )
    else:
        names = {"bos_token": "<s>", "eos_token": "</s>"}
        if kind == "roberta":
            names |= {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=list(dict.fromkeys(names.values())),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(texts, trainer)
    if kind not in DECODERS:
        first, last = ("[CLS]", "[SEP]") if kind != "roberta" else ("<s>", "</s>")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}",
            pair=f"{first} $A {last} $B:1 {last}:1",
            special_tokens=[
                (first, tokenizer.token_to_id(first)),
                (last, tokenizer.token_to_id(last)),
            ],
        )
    inputs = ["input_ids", "attention_mask"] + (["token_type_ids"] if kind == "bert" else [])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, model_input_names=inputs, **names
    )
    size = dict(SIZES[kind])
    if kind != "gpt2":
        size["max_position_embeddings"] = 66 if kind == "roberta" else 64
    ids = {
        "pad_token_id": fast.pad_token_id,
        "eos_token_id": fast.eos_token_id,
        "bos_token_id": fast.bos_token_id,
    }
    config = AutoConfig.for_model(kind, vocab_size=len(fast), **size, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Whose head may be its own.
        auto = AutoModelForCausalLM if kind in DECODERS and kind != "gpt2" else AutoModel
        auto.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_glue(folder: Path, train: int = 40, dev: int = 16) -> Path:
    """The nine tasks in the official layout, with labels that can be learnt from the word `not`."""
    draw = random.Random(0)
    for split in ("train", "dev", "dev_matched", "dev_mismatched"):
        count = train if split == "train" else dev
        rows = [(sentence(draw) + draw.choice((" not", "")), sentence(draw)) for _ in range(count)]
        yes = [int("not" in a.split()) for a, _ in rows]
        three = ("entailment", "neutral", "contradiction")
        two = ("not_entailment", "entailment")
        tables = {
            "CoLA": [["gj04", y, "" if y else "*", a] for (a, _), y in zip(rows, yes, strict=True)],
            "SST-2": [
                ["sentence", "label"],
                *([a, y] for (a, _), y in zip(rows, yes, strict=True)),
            ],
            "MRPC": [
                ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"],
                *([y, i, i, a, b] for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))),
            ],
            "STS-B": [
                ["index", "genre", "sentence1", "sentence2", "score"],
                *(
                    [i, "news", a, b, f"{y + len(a) / 20:.3f}"]
                    for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))
                ),
            ],
            "QQP": [
                ["id", "qid1", "qid2", "question1", "question2", "is_duplicate"],
                *([i, i, i, a, b, y] for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))),
            ],
            "MNLI": [
                ["index", "sentence1", "sentence2", "gold_label"],
                *(
                    [i, a, b, three[y + i % 2]]
                    for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))
                ),
            ],
            "QNLI": [
                ["index", "question", "sentence", "label"],
                *([i, a, b, two[y]] for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))),
            ],
            "RTE": [
                ["index", "sentence1", "sentence2", "label"],
                *([i, a, b, two[y]] for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))),
            ],
            "WNLI": [
                ["index", "sentence1", "sentence2", "label"],
                *([i, a, b, y] for i, ((a, b), y) in enumerate(zip(rows, yes, strict=True))),
            ],
        }
        for task, table in tables.items():
            if (task == "MNLI") == (split in ("dev_matched", "dev_mismatched")) or split == "train":
                path = folder / task / f"{split}.tsv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join("\t".join(map(str, row)) + "\n" for row in table))
    return folder
