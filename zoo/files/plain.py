"""Plain data from JSON and YAML that anyone may have written: within bounds, and each key once."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

DEEPEST, MOST, BITS = 60, 1_000_000, 2048
"""The most levels and values, and bits of a whole number, that JSON or YAML may have."""
LONG = 5_000
"""How many characters a text may have for it to be read again to say exactly what is wrong."""


class Damaged(ValueError):
    """A text that is no plain data within bounds.

    Args:
        problem: in words.
        line: where it is, from 1, if that is known.
    """

    def __init__(self, problem: object, line: int | None = None) -> None:
        super().__init__(f"line {line}: {problem}" if line else str(problem))
        self.problem, self.line = problem, line


class Twice(Damaged):
    """A mapping gives a key twice, of which a reader would take the last."""

    def __init__(self, key: object, line: int) -> None:
        shown = f"{str(key)[:57]}..." if len(str(key)) > 60 else str(key)
        super().__init__(f"{shown!r} is given a second time: take one of the two out", line)


def check_bounds(value: Any) -> None:
    """Refuse plain data that is nested too deeply or has too many values.

    A value counts as often as it is referred to.

    Raises:
        Damaged: naming the bound.
    """
    todo, seen = [(value, 1)], 0
    while todo:
        item, depth = todo.pop()
        seen += 1
        if depth > DEEPEST:
            raise Damaged(f"nested deeper than {DEEPEST}")
        if seen > MOST:
            raise Damaged(f"more than {MOST:,} values")
        if isinstance(item, int) and item.bit_length() > BITS:
            raise Damaged(f"a number of more than {BITS} bits")
        if isinstance(item, dict):
            todo += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list | tuple | set):
            todo += [(each, depth + 1) for each in item]


def parse_json(text: str) -> Any:
    """Read plain data from JSON, within bounds.

    Raises:
        ValueError: if it is damaged, beyond them, or gives a key twice, of which Python would take
            the last.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            lines = [
                number
                for number, line in enumerate(text.splitlines(), 1)
                if json.dumps(twice) in line
            ]
            raise Twice(twice, lines[-1] if lines else 1)
        return mapping

    try:
        value = json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise Damaged(f"nested deeper than {DEEPEST}") from None
    check_bounds(value)
    return value


def parse_yaml(text: str) -> Any:
    """Read plain data from YAML, within bounds.

    Nesting is counted before anything is built, and an alias counts as what it stands for.

    Raises:
        Damaged: if it is damaged, beyond them, or gives a key twice, of which YAML would take
            the last.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise Damaged(f"nested deeper than {DEEPEST}")
        loading = loader(text)
        try:
            root = loading.get_single_node()
            _check_keys(root, loading)
            value = None if root is None else loading.construct_document(root)
        finally:
            loading.dispose()
    except yaml.YAMLError as error:
        problem = _telling(text) or error  # libyaml does not say which character it is
        mark = getattr(problem, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise Damaged(getattr(problem, "problem", None) or "no YAML", line) from None
    except Damaged:
        raise
    except ValueError as error:
        raise Damaged(error) from None
    except Exception:  # what its constructors make of a value that is none of its tag's
        raise Damaged("a value that is none of its kind") from None
    check_bounds(value)
    return value


def strings_in(value: Any) -> Iterator[str]:
    """List the texts in plain data, without the keys of mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from strings_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_in(each)


def _check_keys(root: Any, loading: Any) -> None:
    """Raise Twice for a mapping of a YAML document that gives a key twice."""
    import yaml

    todo, seen = [root], set()
    while todo:
        node = todo.pop()
        # What an alias stands for is seen once.
        if not isinstance(node, yaml.CollectionNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
            continue
        keys = set()
        for key, value in node.value:
            todo += [key, value]
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name = (
                    key.value
                    if key.tag == "tag:yaml.org,2002:str"
                    else loading.construct_object(key)
                )
                if name in keys:
                    raise Twice(name, key.start_mark.line + 1)
                keys.add(name)


def _telling(text: str) -> Exception | None:
    """Ask the parser in Python what libyaml cannot read, unless that would take minutes."""
    import yaml

    if len(text) > LONG:
        return None
    try:
        for _ in yaml.parse(text, yaml.SafeLoader):
            pass
    except yaml.YAMLError as error:
        return error
    return None
