"""Points of a network from MMRazor's recorder configs, as they are, and from the same thing in YAML."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchloupe.errors import BadInput, nearest
from torchloupe.store.reading import reading

TYPES = {
    "ModuleOutputs": "",
    "ModuleInputs": "in:",
    "FunctionOutputs": "fn:",
    "FunctionInputs": "in-fn:",
    "MethodOutputs": "fn:",
    "MethodInputs": "in-fn:",
    "Parameter": "param:",
}


def points(path: str | Path) -> dict[str, str]:
    """A config with recorders and mappings -> label -> point, as torchloupe.names.parse takes it.

    Errors: BadInput for a file that is absent or not such a config.
    """
    held = read(path)
    if "mappings1" in held:
        raise BadInput(f"{path}: has the recorders of two networks; give it to `loupe diff`")
    return _mapped(held, "recorders", "mappings", path)


def pairs(path: str | Path) -> list[tuple[str, str, str]]:
    """A config with recorders and mappings of two networks -> (label, point of the first, point of the second).

    The mappings are matched by the order of their names. A config of one network stands for both.
    Errors: as points; BadInput where the two have different numbers of mappings.
    """
    held = read(path)
    if "mappings1" not in held and "mappings" in held:
        return [(label, point, point) for label, point in _mapped(held, "recorders", "mappings", path).items()]
    first, second = (_mapped(held, f"recorders{i}", f"mappings{i}", path) for i in (1, 2))
    if len(first) != len(second):
        raise BadInput(f"{path}: {len(first)} mappings1 and {len(second)} mappings2; expected as many of both")
    matched = zip(first.items(), second.items(), strict=True)
    return [(a if a == b else f"{a}-{b}", one, other) for (a, one), (b, other) in matched]


def read(path: str | Path) -> Mapping[str, Any]:
    """A Python config of assignments, or YAML. The Python is read, not run: literals and dict(...) only.

    In a training config, what its visualization hook (default_hooks.visualization) is given.

    Errors: BadInput for a file that is absent, unreadable or holds anything else.
    """
    file = Path(path)
    with reading(file, "a recorder config, .py or .yaml"):
        text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return _hooked(_python(text, file))
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise BadInput(f"{file}: expected a recorder config that ends in .py, .yaml or .yml")
    import yaml

    with reading(file, "a recorder config in YAML"):
        held = yaml.safe_load(text)
    if not isinstance(held, Mapping):
        raise BadInput(f"{file}: expected 'recorders' and 'mappings', found {type(held).__name__}")
    return _hooked(held)


def _hooked(held: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a training config gives to MMRazor's visualization hook, where it has one; else the config as it is."""
    hooks = held.get("default_hooks")
    hook = hooks.get("visualization") if isinstance(hooks, Mapping) else None
    if not isinstance(hook, Mapping) or "mappings" not in hook or "mappings" in held:
        return held
    # There the network is a part of the algorithm that trains it.
    recorders = {
        name: {**one, "source": str(one.get("source", "")).removeprefix("architecture.")}
        if isinstance(one, Mapping)
        else one
        for name, one in dict(hook.get("recorders", {})).items()
    }
    return {"recorders": recorders, "mappings": hook["mappings"]}


def _python(text: str, file: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise BadInput(f"{file}: {where}not Python ({getattr(error, 'msg', error)})") from error
    held: dict[str, Any] = {}
    for line in tree.body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue
        if not isinstance(line, ast.Assign) or len(line.targets) != 1 or not isinstance(line.targets[0], ast.Name):
            raise BadInput(f"{file}: line {line.lineno}: expected NAME = dict(...) and nothing else, as it is not run")
        held[line.targets[0].id] = _value(line.value, file)
    return held


def _value(node: ast.expr, file: Path) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {str(part.arg): _value(part.value, file) for part in node.keywords}
    try:
        if isinstance(node, ast.Dict):
            keys = [_value(key, file) for key in node.keys if key is not None]
            return dict(zip(keys, (_value(value, file) for value in node.values), strict=True))
        return ast.literal_eval(node)
    except BadInput:
        raise
    except (ValueError, TypeError):
        raise BadInput(f"{file}: line {node.lineno}: expected a literal or dict(...), as it is not run") from None


def _mapped(held: Mapping[str, Any], recorders: str, mappings: str, path: str | Path) -> dict[str, str]:
    sources = held.get(recorders)
    wanted = held.get(mappings)
    for name, found in ((recorders, sources), (mappings, wanted)):
        if not isinstance(found, Mapping) or not found:
            raise BadInput(f"{path}: no {name!r} in it; it has {', '.join(held) or 'nothing'}")
    return {str(label): _point(label, one, sources, path) for label, one in wanted.items()}  # type: ignore[union-attr]


def _point(label: str, mapping: Any, recorders: Any, path: str | Path) -> str:
    said = mapping.get("recorder") if isinstance(mapping, Mapping) else mapping
    if not isinstance(mapping, Mapping) or not isinstance(said, (str, int)) or said not in recorders:
        raise BadInput(f"{path}: mapping {label!r}: no recorder {said!r}; it has {', '.join(map(str, recorders))}")
    recorder = recorders[said] if isinstance(recorders[said], Mapping) else {}
    kind = str(recorder.get("type", "")).removesuffix("Recorder").rpartition(".")[2]
    if kind not in TYPES or "source" not in recorder:
        known = ", ".join(TYPES)
        raise BadInput(
            f"{path}: recorder {said!r}: expected a source and a type out of {known}.{nearest(kind, TYPES) if kind else ''}"
        )
    number = mapping.get("record_idx", 0)
    if type(number) is not int or number < 0:
        raise BadInput(f"{path}: mapping {label!r}: record_idx {number!r}: expected the number of a call, 0 or more")
    call = "" if kind == "Parameter" else f"#{number}"
    keys = mapping.get("data_idx")
    keys = [] if keys is None else keys if isinstance(keys, (list, tuple)) else [keys]
    if not all(type(key) in (int, str) and str(key) for key in keys):
        raise BadInput(
            f"{path}: mapping {label!r}: data_idx {keys!r}: expected a number or a key, or several in a list"
        )
    return TYPES[kind] + str(recorder["source"]) + call + "".join(f"@{key}" for key in keys)
