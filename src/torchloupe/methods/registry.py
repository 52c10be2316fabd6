"""Every method under its published name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, TypeVar, cast

from torchloupe.errors import BadInput, nearest
from torchloupe.named import called, is_path, plugged, registered
from torchloupe.outputs import Maps
from torchloupe.subjects import as_batch

Method = Callable[..., Maps]
OWN = ("cam", "path", "backprop", "perturb", "opengait", "attention", "lrp", "masks", "dense", "refine")
BY_GRADIENT = ("gradient_shap", "gradient_x_input", "integrated_gradients", "refinecam", "smoothgrad")
_KNOWN: dict[str, Method] = {}
M = TypeVar("M", bound=Method)


class _Methods(Mapping[str, Method]):
    """name -> method, whole from the start: our own, those that packages register, those that were made here and now."""

    def __getitem__(self, name: str) -> Method:
        own = _all()
        if name in own:
            return own[name]
        return _plugged(name)

    def __iter__(self) -> Iterator[str]:
        return iter({**_all(), **registered("methods")})

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __repr__(self) -> str:
        return f"METHODS({', '.join(sorted(self))})"


METHODS: Mapping[str, Method] = _Methods()


def method(fn: M) -> M:
    """Registers a method under its own name; what it is given as a batch may then be a tensor or array. Unless it is not ours and one of ours has that name, which stays."""

    @wraps(fn)
    def asked(probe: Any, batch: Any, *args: Any, libra: bool = False, **options: Any) -> Maps:
        for name, value in options.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise BadInput(f"{name} is {value}; expected a finite number")
        if libra and not librates(asked):
            raise BadInput(f"{fn.__name__}: libra changes gradients, which it does not take as they are")
        return fn(_librated(probe) if libra else probe, as_batch(batch), *args, **options)

    mine = fn.__module__.startswith("torchloupe.methods.")
    if mine or fn.__name__ not in ours():
        _KNOWN[fn.__name__] = asked
    return cast(M, asked)


def named(name: str) -> Method:
    """A method by its published name, or by "package.module:function"; case, '-' and '+' as people write them ("Grad-CAM++")
    are understood.

    Errors: BadInput that offers the nearest names, and as torchloupe.named.imported.
    """
    if is_path(name):
        return _foreign(name)
    plain = re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))
    found = {re.sub(r"[^a-z0-9]", "", known.lower()): known for known in METHODS}.get(plain)
    if found is None:
        raise BadInput(
            f"no method {name!r}.{nearest(name, METHODS)} Known: {', '.join(sorted(METHODS))}; "
            "or package.module:function of your own"
        )
    return METHODS[found]


def options_of(fn: Method) -> dict[str, Parameter]:
    """The keyword options of a method, by name."""
    own = {name: part for name, part in signature(fn).parameters.items() if part.kind is Parameter.KEYWORD_ONLY}
    return own | ({"libra": Parameter("libra", Parameter.KEYWORD_ONLY, default=False)} if librates(fn) else {})


def librates(fn: Method) -> bool:
    """Whether a method takes libra=True: LibraGrad's rules for the backward pass whose gradients it uses."""
    return bool(getattr(fn, "needs_grad", False)) or fn.__name__ in BY_GRADIENT


def needs_attention(fn: Method) -> bool:
    """Whether a method is of attention alone, and refuses networks without any."""
    return fn.__module__ in ("torchloupe.methods.attention", "torchloupe.methods.dense")


def _librated(probe: Any) -> Any:
    from torchloupe.methods.libra import librated

    return librated(probe)


def ours() -> dict[str, Method]:
    """The methods of this package, by name."""
    return {name: fn for name, fn in _all().items() if fn.__module__.startswith("torchloupe.methods.")}


def _all() -> dict[str, Method]:
    for file in OWN:
        import_module(f"torchloupe.methods.{file}")
    return _KNOWN


@cache
def _foreign(path: str) -> Method:
    found = called(path, "--method", "a function (probe, batch, **options) -> Maps")
    return _checked(found, path)


@cache
def _plugged(name: str) -> Method:
    return _checked(plugged(registered("methods")[name]), name)


def _checked(fn: Method, name: str) -> Method:
    """Errors: BadInput unless it can be called with a probe and a batch, and has a name that is not one of ours."""
    try:
        signature(fn).bind(None, None)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"method {name!r}: takes {signature(fn) if callable(fn) else type(fn).__name__}; expected a function "
            "(probe, batch, **options) -> Maps, or a formula behind @loupe.rule or @loupe.weights"
        ) from error
    if not hasattr(fn, "__name__"):
        raise BadInput(f"method {name!r}: a {type(fn).__name__} without a name of its own; expected a function")
    if ours().get(fn.__name__, fn) is not fn:
        raise BadInput(f"method {name!r}: torchloupe has a method {fn.__name__!r}; give yours another name")
    return fn
