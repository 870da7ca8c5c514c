"""An option is taken for what it says, or refused by name: bad values of every option, in one
process.
"""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Mistake, refused
from every import thinned

from zoo.__main__ import main, prepare_process
from zoo.cli.fit.config_files import written_out
from zoo.cli.fit.trainer_options import check_seed, follow_launcher
from zoo.errors import UserError

T, O, P = "trainer", "model.optimizer", "model.parameterization"
BAD = {
    f"{T}.max_epochs": "-5 0 1.5",
    f"{T}.min_epochs": "-5",
    f"{T}.max_steps": "0 true inf null",
    f"{T}.min_steps": "-5",
    f"{T}.max_time": "x 00:00:00:00 -1:0:0:0 ''",
    f"{T}.limit_train_batches": "-1 0 0.0 nan",
    f"{T}.limit_val_batches": "-1 true",
    f"{T}.overfit_batches": "-1",
    f"{T}.val_check_interval": "-1 0 0.0 nan 1.5 true 00:00:00:00",
    f"{T}.check_val_every_n_epoch": "0",
    f"{T}.num_sanity_val_steps": "-2",
    f"{T}.log_every_n_steps": "-1",
    f"{T}.accumulate_grad_batches": "-1 0",
    f"{T}.gradient_clip_val": "-1 0 nan inf -inf true",
    f"{T}.gradient_clip_algorithm": "value x",
    f"{T}.devices": "-1 0 1.5 true '' [] [0,0] x 1000000",
    f"{T}.num_nodes": "0 2",
    f"{T}.accelerator": "abacus tpu",
    f"{T}.strategy": "x ''",
    f"{T}.precision": "x transformer-engine",
    f"{T}.profiler": "x",
    f"{T}.plugins": "x",
    f"{T}.logger": "3",
    f"{T}.callbacks": "x EarlyStopping",
    f"{T}.default_root_dir": "''",
    f"{T}.model_registry": "x",
    f"{T}.barebones": "true",
    f"{T}.enable_checkpointing": "true false",
    f"{T}.enable_progress_bar": "x",
    "seed_everything": "true false null -1 1.5 18446744073709551616",
    "name": "'' .. ' '",
    "stable_rank.every_n_steps": "-1 true",
    "spectral_energy.every_n_steps": "-1",
    "spectral_energy.null_draws": "0",
    "checkpoint.every_n_steps": "-1 true",
    "checkpoint.monitor": "'' val/nope loss",
    "model.seed": "3",
    "data.seed": "3",
    "model.block_size": "4",
    f"{O}.name": "x ''",
    f"{O}.lr": "-1 nan -inf 1e400 -1e-3 ''",
    f"{O}.weight_decay": "-1 1e400",
    f"{O}.beta1": "-1 1 nan null",
    f"{O}.beta2": "1",
    f"{O}.momentum": "1",
    f"{O}.warmup": "-1 1e400",
    f"{O}.final_lr": "-1 1.5",
    f"{O}.clip": "-1 0 nan 1e400 true",
    f"{P}.ratio": "1e-9 0 nan -1 '' true",
    "model.budget.coefficients": "0 -1 true",
    "model.width": "0 true 10000000000",
    "model.targets": "[] 3",
    "model": "'' 3 CharData nowhere.Model",
    "data": "3 CharLM",
    "data.corpus": "null",
    "data.batch_size": "null",
    "data.block_size": "null",
    "model.layers": "null",
    "model.dropout": "null",
    "model.recompute": "null",
    f"{P}.selection": "null",
    f"{P}.seed": "null",
    P: "null",
    "checkpoint.mode": "x",
    "stable_rank": "null",
}
"""Values of each option of `zoo fit`.

Negative, zero, fractions, no number, infinite, true, huge, of another type, empty.
"""
COMMANDS = {
    "report runs --margin": "0 -1 nan inf x",
    "analyze run --null": "0 4 -1 1.5 x",
    "mask run --budgets": "0 -1 101 nan x ''",
    "mask run --draws": "0 -1 x",
    "generate --ckpt_path run --length": "-1 x 1.5",
    "bench --seconds": "0 -1 nan inf x",
    "generate --ckpt_path run --temperature": "-1 nan inf x",
    "generate --ckpt_path run --top_k": "0 -1 x",
    "generate --ckpt_path run --seed": "-1 x",
    "bench --tokens": "0 -1 x ''",
    "bench --shape": "0x4 4 x ''",
    "bench --threads": "0 -1 x",
    "coordinates --ratio": "0 -1 2 nan x",
    "coordinates --lr": "-1 nan inf x",
    "coordinates --steps": "0 -1 x",
    "coordinates --widths": "0 -1 x ''",
    "coordinates --seeds": "0 -1 x",
    "sweep --config char_lm_sweep --trials-per-device": "0 -1 x",
    "sweep --config char_lm_sweep --max-trials": "0 -1 x",
    "export run --to peft --rank": "0 -1 x",
    "analyze run --transform": "x ''",
    "mask run --order": "x ''",
    "sweep --config": "-",
    "check DCT --set": "ratio=0 ratio=x ratio=1e-9 ratio",
}


def cases(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(option, value) for option, values in table.items() for value in shlex.split(values)]


@pytest.mark.parametrize(
    ("option", "value"),
    thinned(cases(BAD), 6),
)
def test_a_bad_value_is_one_line_and_nothing_is_written(
    option: str, value: str, mistake: Mistake
) -> None:
    named = {"accelerator": "", "precision": "", "model": "", "data": ""}
    last = option.rpartition(".")[2]
    mistake(f"fit --config dct_half.yaml --{option} {shlex.quote(value)}", [named.get(last, last)])


@pytest.mark.parametrize(("command", "value"), cases(COMMANDS))
def test_other_commands_do_the_same(command, value, place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = sorted(Path().rglob("*"))
    try:
        status = main([*shlex.split(command), value])
    except SystemExit as stop:
        status = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith("zoo: "), lines
    assert sorted(Path().rglob("*")) == before


GLUE = "config 'dct_half.yaml' makes the model a CharLM, and what stands before it a GlueClassifier"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--config glue_rte.yaml --config lora_8.yaml --config dct_half.yaml", GLUE),
        (
            "--config glue_rte.yaml --config lora_8.yaml --config dct_half.yaml --model CharLM",
            "--data CharData",
        ),
        (
            "--model CharLM --config glue_rte.yaml --config lora_8.yaml",
            "makes the model a GlueClassifier",
        ),
        ("--config dct_half.yaml --config two.yaml", "'two.yaml' makes the data a GlueData"),
        ("--config both.yaml", GLUE),
        ("--config 'base: x'", "no config"),
        ("--config dct_half.yaml --config '{data: tasks.GlueData}'", "makes the data a GlueData"),
        ("--config twice.yaml", "'twice.yaml', line 3: 'max_steps' is given a second time"),
        (
            "--config '{trainer: {max_steps: 1}, trainer: {}}'",
            "line 1: 'trainer' is given a second time",
        ),
        (
            "--config dct_half.yaml --model.overrides '{a: {class_path: DCT}, a: {}}'",
            "'a' is given a second time",
        ),
        ("--config dct_half.yaml --trainer part.yaml", "'max_steps' is given a second time"),
        (
            "--config lora_8.yaml --config glue_rte.yaml",
            "config 'glue_rte.yaml' says which model it is, and what stands",
        ),
        (
            "--config late.yaml",
            "config 'late.yaml' says which model it is, and 'lora_8.yaml' sets something of it",
        ),
        ("--config lora_8.yaml", "nothing says what to train"),
        ("--config glue_rte_lora.yaml", "is two now: glue_rte.yaml, and after it lora_8.yaml"),
        ("--config glue_mnli_dense", "is two now: glue_mnli.yaml, and after it full.yaml"),
        (
            "--config gone.yaml",
            "config 'glue_qqp_dct.yaml' is two now: glue_qqp.yaml, and after it dct_8.yaml",
        ),
    ],
)
def test_configs_that_say_two_things(words, said, place, small, capsys):
    Path("two.yaml").write_text("data: {class_path: tasks.glue.GlueData}\n")
    Path("both.yaml").write_text("base: [glue_rte.yaml, dct_half.yaml]\n")
    Path("late.yaml").write_text("base: [lora_8.yaml, glue_rte.yaml]\n")
    Path("gone.yaml").write_text("base: glue_qqp_dct.yaml\n")
    Path("twice.yaml").write_text("trainer:\n  max_steps: 1\n  max_steps: 2\n")
    Path("part.yaml").write_text("max_steps: 1\nmax_steps: 2\n")
    refused(capsys, ["fit", *shlex.split(words)], said)


def test_a_config_of_the_same_task_merges(place, small, capsys):
    Path("same.yaml").write_text(
        "model: {class_path: tasks.char_lm.CharLM, init_args: {dropout: 0.5}}\n"
    )
    Path("none.yaml").write_text("model: {init_args: {layers: 1}}\n")
    for words in (
        ["--config", "same.yaml", "--config", "none.yaml"],
        ["--config", "lora_48"],
        [
            "--config",
            "glue_rte.yaml",
            "--config",
            "lora_8.yaml",
            "--model",
            "CharLM",
            "--data",
            "CharData",
        ],
    ):
        assert main(["fit", "--config", "dct_half.yaml", *words, *small, "--print_config"]) == 0
        assert "tasks.char_lm" in capsys.readouterr().out or words


def test_a_base_counts_inline_too(place, small, capsys):
    config = "{base: dct_half.yaml, trainer: {max_steps: 7}}"
    assert main(["fit", "--config", config, *small[:-1], "--print_config"]) == 0
    assert "ratio: 0.5" in capsys.readouterr().out


def test_configs_from_pipes_are_written_out(monkeypatch, tmp_path):
    """As text in the words, since processes for other ranks read them again."""
    read, write = os.pipe()
    os.write(write, "trainer: {max_steps: 3}\nname: \u00fc\n".encode())
    os.close(write)
    words = ["fit", "--config", f"/dev/fd/{read}", "--config=dct_half.yaml"]
    assert written_out(words) == [
        "fit",
        "--config",
        '{"trainer": {"max_steps": 3}, "name": "\\u00fc"}',
        words[3],
    ]
    os.close(read)
    for content, said in (
        (b"a: 1\na: 2\n", "line 2: 'a' is given"),
        (b"\xff", "no UTF-8"),
        (b"- 1", "not a list"),
    ):
        Path(tmp_path, "in").write_bytes(content)
        with Path(tmp_path, "in").open() as file:
            before = os.dup(0)
            os.dup2(file.fileno(), 0)
            try:
                with pytest.raises(UserError, match=said):
                    written_out(["fit", "--config=-"])
            finally:
                os.dup2(before, 0)
                os.close(before)


def test_no_progress_bar_is_no_progress(place, small, capsys):
    assert (
        main(["fit", "--config", "dct_half.yaml", *small, "--trainer.enable_progress_bar", "false"])
        == 0
    )
    assert "steps/s" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "started", "becomes"),
    [
        ({"devices": "auto", "num_nodes": 1}, (2, 2), (2, 1)),
        ({"devices": "auto", "num_nodes": 1}, (2, 4), (2, 2)),
        ({"devices": 2, "num_nodes": 1}, (2, 2), (2, 1)),
        ({"devices": "2", "num_nodes": 2}, (2, 4), ("2", 2)),
        ({"devices": 1, "num_nodes": 1}, (2, 2), "--trainer.devices 2"),
        ({"devices": "auto", "num_nodes": 3}, (1, 2), "--trainer.num_nodes 2"),
    ],
)
def test_torchrun_says_how_many_processes_there_are(given, started, becomes, monkeypatch):
    local, world = started
    for key, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": local,
        "WORLD_SIZE": world,
    }.items():
        monkeypatch.setenv(key, str(value))
    if isinstance(becomes, str):
        with pytest.raises(UserError, match=becomes):
            follow_launcher(given)
    else:
        follow_launcher(given)
        assert (given["devices"], given["num_nodes"]) == becomes


@pytest.mark.parametrize("seed", [True, False, None, -1, 2**32, 1.0, "1"])
def test_what_is_no_seed(seed):
    check_seed(0)
    check_seed(2**32 - 1)
    with pytest.raises(UserError, match="seed_everything must be a whole number from 0"):
        check_seed(seed)


HARSH = {
    "PYTHONIOENCODING": "ascii",
    "PYTHONWARNINGS": "error",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
}


@pytest.mark.slow
def test_another_console_locale_and_warnings_change_nothing(place, small, text):
    """Configs are UTF-8 whatever the locale, what a console cannot show is escaped, and no warning
    is an error.
    """
    Path("mine.yaml").write_text("base: dct_half.yaml  # f\u00fcr\nname: mine\n", encoding="utf-8")
    text.write_text(text.read_text() + "\u00fc\u4e16 " * 40, encoding="utf-8")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))
    } | HARSH
    words = [
        sys.executable,
        "-m",
        "zoo",
        "fit",
        "--config",
        "mine.yaml",
        *small,
        "--trainer.max_steps=1",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert (
        "runs/mine/version_0" in done.stdout and Path("runs/mine/version_0/summary.json").is_file()
    )


def test_what_a_console_cannot_show_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_process()
    print("the \u00fc", flush=True)
    assert stream.buffer.getvalue() == b"the \\xfc\n"


def test_a_deleted_folder(place, monkeypatch, capsys):
    gone = place / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for command in ("list", "fit", "report", "bench"):
        assert main([command]) == 2
        assert capsys.readouterr().err == "zoo: the current folder was deleted: go to another one\n"
    monkeypatch.chdir(place)
