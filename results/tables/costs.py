"""Tables of time and memory beside peft, and of a quantized base."""

from results.rows import read
from results.tables.page import Cells


def encoder_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of encoder.csv; what is own, less the frozen encoder, stays as it is."""
    name, _, rival = row[0].partition(", ")
    against = "LoRA" if name == "`BlockDCT`" and rival == "LoRA" else "own"
    found = {
        f"{each['tokens']}, {each['targets']}": f"{float(each['ratio']):.2f}"
        for each in reversed(read("encoder"))
        if each["method"].split()[0] == name.strip("`")
        and each["against"] == against
        and "terms" not in each["method"]
    }
    return [row[0], *(found.get(head, "") for head in heads[1:-1]), row[-1]]


def api_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of api.csv."""
    name = row[0].partition(",")[0].strip("`")
    found = {each["operation"]: each for each in read("api") if each["method"] == name}
    saved = int(found["save"]["zoo_bytes"]) / int(found["save"]["peft_bytes"])
    ratios = [f"{float(found[head]['ratio']):.2f}" for head in heads[1:-1]]
    return [row[0], *ratios, f"{saved:.2f}"]


def goals_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of goals.csv beside peft: time, and peak memory."""
    ours, _, theirs = row[0].partition(" to ")
    pair = f"{ours.replace(' with `recompute`', ', recompute').replace('`', '')} to peft "
    pair += theirs.split()[0].removesuffix(",")
    measured = {each["case"]: each["measured_ratio"] for each in read("goals")}
    found = []
    for tokens, targets in (
        ("4x16", "query and value"),
        ("32x16", "query and value"),
        ("32x16", "all layers"),
    ):
        cases = [f"{what}, {pair}, {tokens} tokens, {targets}" for what in ("step", "peak memory")]
        both = [f"{float(measured[case]):.2f}" for case in cases if case in measured]
        found.append(", ".join(both))
    return [row[0], *found]


NAMES = {"bfloat16": "bf16", "no update": "none"}


def quantized_row(row: Cells, heads: Cells) -> Cells:
    """Recompute a row of quantized.csv; repetitions are equal."""
    rows = [each for each in read("quantized") if each["base"] == NAMES.get(row[0], row[0])]
    taken = {each["method"]: each["mib"] for each in rows}
    size = int(rows[0]["bytes"]) / 2**20
    return [row[0], f"{size:.1f}", *(taken[NAMES.get(x, x).strip("`")] for x in heads[2:])]
