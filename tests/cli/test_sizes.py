"""Sizes that no machine can have, and texts from wherever they are sent: one line, or what was
meant.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import pytest
import torch
from conftest import refused
from every import thinned
from fits import fit

from tasks import CharData, CharLM
from tasks.char_lm.model import GPT, parameters
from tasks.text import corpus
from zoo.__main__ import main
from zoo.cli.fit import messages
from zoo.errors import UserError

CONFIG = ["fit", "--config", "dct_half.yaml"]
HUGE = 10**9

SIZES = [
    ("--data.batch_size", HUGE, ["data.batch_size", "at most 65,536", "1,000,000,000"]),
    ("--data.batch_size", 10**30, ["data.batch_size", "at most 65,536"]),
    ("--data.block_size", HUGE, ["data.block_size", "at most 1,048,576"]),
    ("--data.block_size", 2**20, ["too short", "--data.block_size"]),
    ("--model.width", HUGE, ["width", "more than the memory"]),
    ("--model.width", 10**30, ["width", "more than the memory"]),
    ("--model.layers", HUGE, ["layers", "at most 10,000"]),
    ("--model.heads", HUGE, ["heads must divide width"]),
]


@pytest.mark.parametrize(("option", "size", "words"), thinned(SIZES, 2))
def test_absurd_sizes(
    option: str, size: int, words: list[str], small: list[str], place: Path, capsys
) -> None:
    refused(capsys, [*CONFIG, *small, option, str(size)], *words)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: torch.zeros(10**14),
        lambda: torch.zeros(10**12, 10**12),
        lambda: torch.nn.Linear(10**20, 2),
        lambda: bytearray(10**16),
    ],
    ids=["more than there is", "more than can be counted", "no size", "Python's own"],
)
def test_memory_that_is_not_there_is_a_mistake(attempt) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011  whatever torch raises
        attempt()
    line = messages.user_error(raised.value)
    assert line is not None and "too large for this machine" in line and "\n" not in line
    assert (
        messages.user_error(RuntimeError("")) is None
        and messages.user_error(TypeError("no")) is None
    )


@pytest.mark.parametrize("sizes", [(65, 128, 4, 128), (3, 7, 2, 8)])
def test_the_count_of_parameters_is_that_of_the_network(sizes: tuple[int, int, int, int]) -> None:
    assert parameters(*sizes) == sum(p.numel() for p in GPT(*sizes, heads=2).parameters())


def test_a_network_on_the_meta_device_takes_no_memory() -> None:
    with torch.device("meta"):
        assert GPT(65, width=2**17, heads=2, layers=1).head.weight.is_meta
    with pytest.raises(ValueError, match="more than the memory"):
        GPT(65, width=2**17, heads=2, layers=10_000)


NUMBERS = [
    ("length", "100001", "100,000"),
    ("length", str(10**12), "100,000"),
    ("length", "-1", "at least 0"),
    ("temperature", "nan", "1,000"),
    ("temperature", "inf", "1,000"),
    ("temperature", "-0.5", "at least 0"),
    ("temperature", "1e300", "1,000"),
    ("top_k", "0", "at least 1"),
    ("top_k", str(10**20), "at most"),
    ("seed", "-1", "at least 0"),
    ("seed", str(2**63), "at most"),
]


@pytest.mark.parametrize(("option", "value", "words"), NUMBERS)
def test_numbers_of_generate(option: str, value: str, words: str, place: Path, capsys) -> None:
    """Before any checkpoint is read."""
    refused(
        capsys,
        ["generate", "--ckpt_path", "nowhere", f"--{option}={value}"],
        f"--{option} must be",
        words,
    )


@pytest.mark.parametrize(
    ("prompt", "words"), [("x" * 100_001, "100,001"), ("", "is empty"), ("\udcff", "UTF-8")]
)
def test_prompts_of_generate(prompt: str, words: str, place: Path, capsys) -> None:
    refused(capsys, ["generate", "--ckpt_path", "nowhere", "--prompt", prompt], "--prompt", words)


def test_the_largest_numbers_of_generate() -> None:
    """The bounds are sampled as any other number is."""
    model = CharLM("abcde", block_size=4, width=8, heads=2, layers=1).eval()
    assert len(model.generate("ab", 20, temperature=1000, top_k=2**31 - 1, seed=2**63 - 1)) == 22


def test_sampling_from_what_is_no_number_is_refused() -> None:
    model = CharLM("abcde", block_size=4, width=8, heads=2, layers=1).eval()
    torch.nn.init.constant_(model.net.head.bias, float("nan"))
    for temperature in (0, 1):
        with pytest.raises(UserError, match="no finite number"):
            model.generate("ab", 3, temperature)


# ---- Texts ---------------------------------------------------------------------------------------

TEXT = "the quick brown fox jumps over the lazy dog, and runs away.\n" * 67


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_character(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("l'été\r\n\ufeff.", encoding=encoding, newline="")
    data = CharData(str(tmp_path / "t.txt"), block_size=1)
    assert data.corpus.text == "l'été\r\n\ufeff."
    assert data.corpus.sha256 == hashlib.sha256("l'été\r\n\ufeff.".encode()).hexdigest()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *(
            (
                TEXT.encode(encoding),
                f"is {encoding[:6].upper()}, .*iconv -f {encoding[:6].upper()} -t UTF-8",
            )
            for encoding in ("utf-16", "utf-32")
        ),
        ("\ufeffab".encode("utf-16-be"), "is UTF-16"),
        (TEXT.encode("utf-16-le"), "binary"),
        (b"a\xff", "not UTF-8"),
        (b"a\0", "binary"),
        (b"", "empty"),
        (b"\xef\xbb\xbf", "empty"),
    ],
)
def test_what_is_no_text(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"corpus '.*t.txt' .*{words}"):
        corpus.from_file(tmp_path / "t.txt")


def test_a_text_without_end(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(corpus, "LARGEST", 10)
    (tmp_path / "t.txt").write_text("x" * 11)
    with pytest.raises(UserError, match="more than 10 bytes"):
        corpus.from_file(tmp_path / "t.txt")


@pytest.fixture
def pipe():
    """A pipe as the shell's <(...) gives one, with something in it."""
    ends = []

    def send(content: bytes) -> str:
        out, into = os.pipe()
        ends.append(out)
        os.write(into, content)
        os.close(into)
        return f"/dev/fd/{out}"

    yield send
    for out in ends:
        os.close(out)


@pytest.mark.parametrize("form", ["{} {}", "{}={}"])
@pytest.mark.parametrize("option", corpus.OPTIONS)
def test_a_pipe_stands_as_a_file(form: str, option: str, pipe, place: Path) -> None:
    words = [
        "fit",
        *form.format(option, pipe(b"\xef\xbb\xbf" + TEXT.encode())).split(),
        "--data.block_size",
        "4",
    ]
    found = corpus.kept(words)
    path = Path(found[-3].partition("=")[2] or found[-3])
    assert path.read_text() == TEXT and path.parent == place.parent / "cache" / "zoo" / "corpora"
    assert [
        word.replace(str(path), words[-3].partition("=")[2] or words[-3]) for word in found
    ] == words
    assert corpus.kept(found) == found


def test_words_that_name_files_stay(place: Path) -> None:
    words = [
        "fit",
        "--data.corpus",
        "pydoc",
        "--data.corpus=t.txt",
        "--other",
        "-",
        "--data.corpus",
    ]
    assert corpus.kept(words) == words


def test_a_run_on_a_pipe_goes_on(pipe, small: list[str], place: Path, capsys) -> None:
    """Its config names the file that the text is kept in."""
    folder = fit(*small, "--data.corpus", pipe(TEXT.encode()))
    facts = json.loads((folder / "summary.json").read_text())
    assert facts["corpus_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert facts["corpus"] == f"sent-{facts['corpus_sha256'][:12]}"
    assert main(["validate", "--ckpt_path", str(folder)]) == 0
    assert main(["fit", "--ckpt_path", str(folder), "--trainer.max_steps", "8"]) == 0
    refused(capsys, [*CONFIG, *small, "--data.corpus", pipe(b"")], "'/dev/fd/", "empty")
    refused(capsys, [*CONFIG, *small, "--data.corpus", pipe(b"a\xff")], "'/dev/fd/", "not UTF-8")


def test_standard_input(place: Path, monkeypatch) -> None:
    real = io.open
    monkeypatch.setattr(
        "builtins.open",
        lambda name, *rest, **options: (
            io.BytesIO(TEXT.encode()) if name == 0 else real(name, *rest, **options)
        ),
    )
    (path,) = corpus.kept(["--data.corpus=-"])
    assert Path(path.partition("=")[2]).read_text() == TEXT


@pytest.mark.parametrize("name", ["-", "fifo"])
def test_what_a_config_names_is_never_waited_for(
    name: str, small: list[str], place: Path, capsys
) -> None:
    """A run's config may come from anyone."""
    os.mkfifo("fifo")
    Path("mine.yaml").write_text(
        json.dumps({"base": "dct_half.yaml", "data": {"init_args": {"corpus": name}}})
    )
    words = [word for word in small if not word.startswith("--data.corpus")]
    refused(capsys, ["fit", "--config", "mine.yaml", *words], "no corpus", name)


def nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_no_cache_is_no_reason_not_to_train(
    small: list[str], pipe, place: Path, monkeypatch, capsys
) -> None:
    """But a text that is sent needs a place to stay."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("tasks.folders.Path.home", nobody)
    fit(*small)
    refused(
        capsys,
        [*CONFIG, *small, "--data.corpus", pipe(TEXT.encode())],
        "cannot keep",
        "XDG_CACHE_HOME",
    )
