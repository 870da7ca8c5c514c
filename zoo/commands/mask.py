"""`zoo mask`: keep a share of an update's coefficients, rebuild the network, and evaluate it on its validation data."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from zoo.commands.arguments import parse
from zoo.commands.laboratory import JOURNAL, SHARED, WRITTEN, Bar, check_out, columns, facts, need_extra, words
from zoo.errors import UserError

BUDGETS, ORDERS = "1,2,5,10,25,50,75,100", "magnitude,frequency,random"
OPTIONS: dict[str, dict[str, Any]] = {
    "runs": {"nargs": "+", "metavar": "RUN", "help": "a run's folder, a checkpoint in one, or an adapter.safetensors"},
    "--budgets": {"default": BUDGETS, "metavar": "PERCENTS", "help": f"kept, in (0, 100]; by default {BUDGETS}"},
    "--order": {"default": ORDERS, "metavar": "NAMES", "help": "which are kept: the largest, those of the lowest "
                f"frequencies, some at random; by default {ORDERS}"},
    "--draws": {"type": int, "default": 3, "metavar": "N", "help": "of random masks; by default 3"},
    **SHARED,
    "--out": {"default": None, "metavar": "DIR", "help": "a new folder for mask.json, mask.html and figures; the same "
              "one again goes on after an interruption"},
    "--save": {"action": "store_true", "help": "write each masked run to --out too, as a file taken like a run"},
}


def main(argv: list[str]) -> int:
    """Print the scores, and write them if asked to."""
    options = vars(parse("mask", __doc__ or "", argv, OPTIONS))
    print(mask(argv=argv[1:], **options))
    return 0


def mask(
    runs: list[str], budgets: str, order: str, transform: str, draws: int, backbone: str | None, out: str | None,
    save: bool, force: bool, argv: list[str],
) -> str:
    """Evaluate and write; what is to be printed.

    Raises:
        UserError: for an option out of range, a folder that holds something, or a run that cannot be evaluated.
    """
    start = time.perf_counter()
    shares = percents(budgets)
    if draws < 1:
        raise UserError(f"--draws must be at least 1, got {draws}")
    if save and out is None:
        raise UserError("--save writes into a folder: give one as --out")
    folder = check_out(out, force)
    need_extra()
    from zoo.frequencies import TRANSFORMS
    from zoo.lab import masks

    transforms = words("--transform", transform, list(TRANSFORMS))
    wanted = words("--order", order, masks.ORDERS)
    orders = [each for each in masks.ORDERS if each in wanted]
    from zoo import checkpoints
    from zoo.cli import open_run
    from zoo.files import new_folder
    from zoo.lab import masking
    from zoo.lab.facts import label
    from zoo.lab.updates import Source, read

    plan = masking.Plan(transforms, orders, shares, draws)
    sources = label([read(run, backbone=backbone) for run in dict.fromkeys(runs)])
    journal = masking.Journal(folder / JOURNAL if folder else None)
    bar = Bar("evaluations")
    done = bar.expect(len(sources) * plan.evaluations())

    def run(source: Source, saved: Path | None) -> dict[str, Any]:
        model, data, trainer = open_run(source.path, backbone)

        def evaluate() -> float:
            trainer.validate(model, datamodule=data, verbose=False)
            return trainer.callback_metrics[model.monitor].item()

        files = masking.MaskedFiles(checkpoints.resolve(source.path), model) if saved else None

        def write(name: str, kept: dict[str, masks.Kept]) -> None:
            if files is not None and saved is not None:
                saved.mkdir(exist_ok=True)
                files.write(saved / f"{source.name}-{name}.safetensors", kept)

        return masking.mask_run(source, model, evaluate, plan, journal, done, write)

    with new_folder(folder, "--out", WRITTEN, force=True) if folder else nullcontext() as part:
        try:
            found = [run(source, part / "masked" if part and save else None) for source in sources]
        finally:
            bar.close()
        report = {
            **facts("mask", argv, start), "transforms": transforms, "orders": orders, "budgets": shares,
            "draws": draws, "runs": found, "groups": masking.groups(found),
        }
        lines = [describe(group, report) for group in report["groups"]]
        if part is not None:
            from zoo.lab.figures import mask_figures
            from zoo.lab.mask_page import mask_page
            from zoo.lab.page import write_report

            write_report(part, "mask", report, mask_figures(report), mask_page)
            lines.append(f"written to  {folder}\nlook        {folder}/mask.html")
    return "\n\n".join(lines)


def percents(text: str) -> list[float]:
    """Budgets, ascending, each once.

    Raises:
        UserError: naming one that is no number in (0, 100].
    """
    found = set()
    for word in text.split(","):
        try:
            value = float(word)
        except ValueError:
            value = -1.0
        if not 0 < value <= 100:
            raise UserError(f"--budgets takes percents in (0, 100], as in 1,10,100, got {word.strip()!r}")
        found.add(value)
    return sorted(found)


def describe(group: dict[str, Any], report: dict[str, Any]) -> str:
    """Scores and bytes of a group of runs, within 80 columns; bytes are of the first run and the first order."""
    first = next(run for run in report["runs"] if run["group"] == group["group"])
    n, orders = group["n"], report["orders"]
    lines = [group["group"], f"{group['metric']} of {n} run{'s' * (n > 1)}, unmasked {plus_minus(group['unmasked'])}"]
    for transform in report["transforms"]:
        rows: list[tuple[str, ...]] = [(transform, *(f"{order} " for order in orders), "bytes")]
        for budget in report["budgets"]:
            scores, sizes = (
                {p["order"]: p for p in points if (p["transform"], p["budget"]) == (transform, budget)}
                for points in (group["points"], first["points"])
            )
            size = sizes[orders[0]]["bytes"]
            cells = [plus_minus(p) + (" " if p["p_holm"] is None or p["p_holm"] >= 0.05 else "*")
                     for p in (scores[order] for order in orders)]
            rows.append((f"{budget:g} %", *cells, f"{size['values'] + size['places']:,}"))
        lines += ["", *columns(rows, 1)]
    size = first["bytes"]
    lines += ["", f"bytes  dense {size['dense']:,}, as trained {size['trained']:,}, besides {size['other']:,}"]
    if n > 1:
        lines.append("*      differs from unmasked: paired t-test, Holm-corrected p < 0.05")
    return "\n".join(lines)


def plus_minus(value: dict[str, Any]) -> str:
    """A mean, and its standard deviation if there is one."""
    return f"{value['mean']:.4f}" if value["sd"] is None else f"{value['mean']:.3f} +- {value['sd']:.3f}"
