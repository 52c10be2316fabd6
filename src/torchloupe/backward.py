"""Rules that change a backward pass, or what is computed: for one asking, in one thread, in a shadow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

# what is done to the shadow before it is asked; what it gives back is open while it is asked
Change = Callable[[nn.Module], AbstractContextManager[Any] | None]
# (function, args, kwargs) -> what takes the place of function(*args, **kwargs)
Function = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def replaced(rules: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]]) -> Change:
    """Every module of these types by what its rule makes of it: same arguments and outputs, another backward.

    A subclass obeys its own rule before that of a class above it. What is replaced is not looked into.
    """

    def change(net: nn.Module) -> None:
        made: dict[int, nn.Module] = {}

        def walk(part: nn.Module) -> None:
            for name, child in list(part._modules.items()):
                if child is None:
                    continue
                rule = next((rules[kind] for kind in type(child).__mro__ if kind in rules), None)
                if rule is None:
                    walk(child)
                else:
                    part._modules[name] = made.setdefault(id(child), made.get(id(child)) or rule(child))

        walk(net)

    return change


class _Functions(TorchFunctionMode):
    def __init__(self, rules: Mapping[Callable[..., Any], Function]) -> None:
        super().__init__()
        self._rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = self._rules.get(func)
        return func(*args, **(kwargs or {})) if rule is None else rule(func, args, kwargs or {})


def functions(rules: Mapping[Callable[..., Any], Function]) -> Change:
    """Every call of these functions of torch (F.relu, torch.softmax, Tensor.relu, ...) by its rule, in this thread.

    A rule runs outside, so that it may call the function itself. What runs inside a fused kernel is not seen.
    """

    @contextmanager
    def opened() -> Iterator[None]:
        with _Functions(rules):
            yield

    return lambda _net: opened()
