"""Reading other people's configs: OpenMMLab Python files (which run as code), OpenGait and HRNet YAML, `a:b?c=d` specs."""

from __future__ import annotations

import ast
import copy
import difflib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from torchloupe.errors import BadInput, LoupeWarning, MissingPackage, need
from torchloupe.sources import openmmlab, patches
from torchloupe.store.reading import reading

CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".json")
# OpenGait's configs/default.yaml, which every one of its configs is laid over.
OPENGAIT_DEFAULTS: Mapping[str, Any] = {
    "data_cfg": {"dataset_name": "CASIA-B", "data_in_use": None},
    "evaluator_cfg": {
        "restore_hint": 0,
        "save_name": "tmp",
        "metric": "euc",
        "sampler": {"sample_type": "all_ordered"},
        "transform": [{"type": "BaseSilCuttingTransform"}],
    },
    "trainer_cfg": {
        "total_iter": 80000,
        "sampler": {"batch_size": [8, 16]},
        "transform": [{"type": "BaseSilCuttingTransform"}],
    },
    "optimizer_cfg": {"solver": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0005},
    "scheduler_cfg": {"scheduler": "MultiStepLR", "milestones": [20000, 40000, 60000], "gamma": 0.1},
    "model_cfg": {},
}


def one_line(error: BaseException) -> str:
    """An exception as one short line: its kind and the first lines of what it says."""
    # mmengine's registries go on with advice for their own users.
    text = " ".join(str(error).split()).partition(". Please check whether")[0]
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


def literal(text: str) -> Any:
    """The Python value that the text spells ('1e-3', '[1, 2]', 'true', 'None'), else the text itself."""
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text


def options(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as a dict of values; `a,b` without brackets is a list. Errors: BadInput without `=`."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key.strip():
            raise BadInput(f"--cfg-options {word}: expected key=value, for example train_dataloader.batch_size=64")
        value = literal(text)
        if isinstance(value, str) and "," in value and not value.startswith(("[", "(", "{", "'", '"')):
            value = [literal(part) for part in value.split(",")]
        found[key.strip()] = list(value) if isinstance(value, tuple) else value
    return found


def spec(text: str) -> tuple[str, str, dict[str, Any]]:
    """'timm:cosine?epochs=9' -> ('timm', 'cosine', {'epochs': 9})."""
    head, _, query = text.partition("?")
    kind, _, rest = head.partition(":")
    return kind, rest, {key: literal(value) for key, value in parse_qsl(query, keep_blank_values=True)}


REPOSITORIES = ("mmpretrain", "mmdet", "mmpose", "mmseg", "mmaction", "mmrotate", "mmyolo")


def located(source: str, otherwise: str) -> str:
    """A config or folder of configs: where it is, or `configs/...` among the configs of an installed OpenMMLab package.

    Errors: BadInput, with the nearest name that there is; `otherwise` says what else could stand here.
    """
    path = Path(source)
    # An empty word is no path, though Python takes it for the current folder.
    if source and path.exists():
        return source
    parts = [part for part in path.parts if part not in (".", "..", "/")]
    rest = parts[parts.index("configs") + 1 :] if "configs" in parts else parts
    names = {file.stem for file in path.parent.glob("*.*") if file.suffix in CONFIG_SUFFIXES}
    for package in REPOSITORIES:
        found = importlib.util.find_spec(package)
        for place in (found.submodule_search_locations or ()) if found else ():
            home = Path(place) / ".mim/configs"
            inside = home.joinpath(*rest)
            if rest and inside.exists():
                warnings.warn(f"{source}: not here, so taken from {package}'s own configs", LoupeWarning, stacklevel=3)
                return str(inside)
            names |= {file.stem for file in home.rglob("*.py") if not file.parent.is_relative_to(home / "_base_")}
    if path.suffix not in CONFIG_SUFFIXES and ("/" not in source or ":" in source):
        raise BadInput(f"{source}: neither a config file, a folder of configs nor {otherwise}")
    near = ", ".join(sorted(names, key=lambda name: -_likeness(path.stem, name))[:3])
    raise BadInput(f"{source}: no such config.{f' Did you mean {near}?' if near else ''} Or else: {otherwise}")


def _likeness(one: str, other: str) -> float:
    """How much a name says the same as another one: the share that they begin with counts as much as all they share."""
    pairs = enumerate(zip(one, other, strict=False))
    begin = next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))
    return begin / max(len(one), 1) + difflib.SequenceMatcher(None, one, other).ratio()


def expand(source: str) -> list[str]:
    """A folder of configs as the sorted paths of its configs (sub-folders too, `_base_` not); else the source itself."""
    path = Path(source)
    if not path.is_dir():
        return [source]
    found = sorted(
        str(file)
        for file in path.rglob("*")
        if file.suffix in (".py", ".yaml", ".yml")
        and not any(part.startswith(("_", ".")) for part in file.relative_to(path).parts)
        and file.stem not in ("metafile", "model-index", "default")
        and not (file.suffix != ".py" and _catalogue(file))
    )
    if not found:
        raise BadInput(
            f"{source}: no config (.py, .yaml) in this folder; for a folder of pictures write folder:{source}"
        )
    return found


def _catalogue(path: Path) -> bool:
    """Whether a YAML file lists the models of OpenMMLab's configs, whatever it is called."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return any(line.startswith(("Collections:", "Models:", "Import:")) for line in file)


def yaml_config(path: str | Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A YAML file as a dict, with `a.b=value` changes made. Errors: BadInput for a file that is no YAML mapping."""
    import yaml

    with reading(path, "a config in YAML"):
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a YAML mapping, found {type(content).__name__}")
    return changed(content, changes, path)


def changed(content: Mapping[str, Any], changes: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """A copy of a config's blocks with `a.b=value` changes made. Errors: BadInput for a value in a block's place."""
    made = copy.deepcopy(dict(content))
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = made
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise BadInput(f"--cfg-options {key}: {parent} in {path} holds a value, not a block")
        place[last] = value
    return made


def opengait_default(path: str | Path) -> Path | None:
    """The `default.yaml` that an OpenGait config is laid over: the nearest of its own folder and the three above it, there
    or in their `configs`, else that of ./configs; None without one. One of another tool (none of OpenGait's blocks in
    it) is passed by. Errors: BadInput for one that is no YAML."""
    import yaml

    own = Path(path).resolve()
    places = [folder / name for folder in list(own.parents)[:4] for name in ("default.yaml", "configs/default.yaml")]
    for place in (*places, Path("configs/default.yaml")):
        if not place.is_file() or place.resolve() == own:
            continue
        with reading(place, "a config in YAML"):
            content = yaml.safe_load(place.read_text(encoding="utf-8"))
        if isinstance(content, Mapping) and any(block in content for block in OPENGAIT_DEFAULTS):
            return place
    return None


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `under`: mappings merge, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def openmmlab_config(path: str, changes: Mapping[str, Any]) -> Any:
    """An OpenMMLab config, `_base_` files merged in, changes made. The file is Python and runs as code.

    Errors: MissingPackage without mmengine; BadInput for a file that is absent or does not load.
    """
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise need("mmengine", "mmpretrain") from error
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such config file")
    try:
        config = Config.fromfile(path)
        config.merge_from_dict(dict(changes))
    except ImportError as error:
        raise missing(path, error) from error
    except Exception as error:
        raise BadInput(f"{path}: does not load as an OpenMMLab config: {one_line(error)}") from error
    return config


# The extras that bring OpenMMLab's packages; the others are installed by their own names.
EXTRAS = {"mmengine": "mmpretrain", "mmpretrain": "mmpretrain", "mmdet": "mmdet"}
# What packages are called where they are installed from, where that differs.
PROJECTS = {"pkg_resources": "'setuptools<81'", "cv2": "opencv-python", "PIL": "pillow", "sklearn": "scikit-learn"}


def missing(path: str, error: ImportError) -> MissingPackage:
    """The error for a package that a config needs: what is absent and how to install it."""
    absent = (error.name or "").partition(".")[0]
    if absent == "mmcv" or "mmcv._ext" in str(error):
        advice = "mmcv with its compiled operators is not installed (mmcv-lite has none); install mmcv >= 2.0.1, < 2.2"
    elif absent in EXTRAS:
        advice = str(need(absent, EXTRAS[absent]))
    elif isinstance(error, ModuleNotFoundError) and absent:
        advice = f"needs {absent}, which is not installed; install it: pip install {PROJECTS.get(absent, absent)}"
    else:
        advice = one_line(error)
    return MissingPackage(f"{path}: {advice}")


@contextmanager
def openmmlab_scope(path: str, config: Any, parts: Sequence[str] = ()) -> Iterator[str]:
    """Inside, names in the config are looked up in its own package (default_scope); outside nothing has changed.

    parts: modules of that package to import for what they register, such as `datasets`.
    Errors: MissingPackage where that package is not installed.
    """
    from mmengine.registry import DefaultScope

    scope = config.get("default_scope") or "mmengine"
    with patches.absent_operators() if parts else nullcontext():
        try:
            if "mmpretrain.models" not in sys.modules and importlib.util.find_spec("mmpretrain") is not None:
                # Its own way in: a plain import fails beside transformers 5. Others take parts of it, too.
                openmmlab._import()
                if "mmpretrain.models" not in sys.modules:
                    # Somebody imported mmpretrain before us; its models are still to come.
                    vars(importlib.import_module("mmpretrain.utils.dependency"))["WITH_MULTIMODAL"] = False
            importlib.import_module(scope)
            for part in parts:
                if importlib.util.find_spec(f"{scope}.{part}") is not None:
                    importlib.import_module(f"{scope}.{part}")
        except ModuleNotFoundError as error:
            raise missing(path, error) from error
        except Exception as error:
            raise MissingPackage(f"{path}: {scope} does not import: {one_line(error)}") from error
        with DefaultScope.overwrite_default_scope(scope):
            yield scope
