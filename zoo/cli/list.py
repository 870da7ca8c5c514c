"""`zoo list`: parameterizations, tasks and shipped configs, one line each."""

import inspect

from zoo.cli.arguments import call


def main(argv: list[str]) -> int:
    """Print what there is."""
    call(print_all, argv)
    return 0


def print_all() -> None:
    """Print parameterizations, tasks and shipped configs, one line each."""
    import tasks
    import zoo.parameterizations as zoo
    from zoo.cli.fit.config_files import load, shipped
    from zoo.files.access import read_text
    from zoo.training.module import ZooModule

    classes = [getattr(zoo, name) for name in zoo.__all__]
    section(
        "parameterizations",
        {c.__name__: first_line(c) for c in classes if not inspect.isabstract(c)},
    )
    section("to subclass", {c.__name__: first_line(c) for c in classes if inspect.isabstract(c)})
    kinds = [getattr(tasks, name) for name in tasks.__all__]
    section("tasks", {c.__name__: first_line(c) for c in kinds if issubclass(c, ZooModule)})
    section("data", {c.__name__: first_line(c) for c in kinds if not issubclass(c, ZooModule)})
    about = {name: read_text(path).splitlines()[0].lstrip("# ") for name, path in shipped().items()}
    sweeps = {name for name, path in shipped().items() if "grid" in load(path)}
    section("configs", {name: line for name, line in about.items() if name not in sweeps})
    section("sweeps", {name: line for name, line in about.items() if name in sweeps})


def first_line(cls: type) -> str:
    """Return the first line of a class' docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def section(title: str, rows: dict[str, str]) -> None:
    """Print a heading, and names with their lines, cut to 80 columns."""
    width = max(map(len, rows))
    print(title)
    for name, line in rows.items():
        text = f"  {name:<{width}}  {line}"
        print(text if len(text) <= 80 else text[:77] + "...")
    print()
