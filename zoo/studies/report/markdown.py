"""The report as Markdown to paste."""

from zoo.pages.data import Data
from zoo.pages.markdown import code, escape, table
from zoo.pages.numbers import typeset
from zoo.studies.report.sentences import answers, legend, notes, search, settings
from zoo.studies.report.tables import methods_table


def markdown(data: Data) -> str:
    """Return a table per comparison with what it is of, what was skipped, and the command."""
    parts = [_comparison(data, comparison) for comparison in data["comparisons"]]
    if data["skipped"]:
        skipped = (escape(f"{run['path']} ({run['why']})") for run in data["skipped"])
        parts.append(f"Skipped {len(data['skipped'])}: {'; '.join(skipped)}")
    parts.append(f"{code(data['command'])} · zoo {data['zoo']} · {data['date'][:10]}")
    return "\n\n".join(parts) + "\n"


def _comparison(data: Data, comparison: Data) -> str:
    about = [
        *map(typeset, answers(data, comparison)),
        f"{settings(comparison)}.",
        legend(data, comparison),
        f"Search: {search(comparison)}",
        *(f"Note: {typeset(note)}" for note in notes(comparison)),
    ]
    lines = "  \n".join(map(escape, about))  # two blanks: lines stay lines
    shown = table(methods_table(comparison, data["level"]))
    return f"### {escape(comparison['name'])}\n\n{shown}\n\n{lines}"
