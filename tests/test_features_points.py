"""Points: every kind of place, every kind of output, and nothing left behind."""

from __future__ import annotations

import functools
import types
from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput
from torchloupe.names import locate, parse
from torchloupe.probe import INPUT, Batch, Subject
from torchloupe.sites import capture, features
from torchloupe.taps import leaves

Pair = namedtuple("Pair", "fine coarse")


class Pyramid(nn.Module):
    """Returns two levels, as a detector's neck does; a method, a static method, a keyword argument, a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.full((4, 2, 3, 3), 2.0))

    def smooth(self, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def halve(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @classmethod
    def negate(cls, x: Tensor) -> Tensor:
        return -x

    def forward(self, x: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        fine = self.smooth(self.side(x)) + (0 if bias is None else bias)
        return fine, self.negate(self.halve(fine))


class Wide(Pyramid):
    """Has its methods from its parent."""


def blended(a: Tensor, b: Tensor) -> Tensor:
    return a + b


class Net(nn.Module):
    """In-place ReLU behind a convolution, a ReLU that runs twice, an unused layer, softmax in Python and in C++."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.neck = Wide()
        self.unused = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        out = self.relu(self.conv(x))
        fine, coarse = self.neck(out, bias=out.mean())
        out = self.relu(fine)
        weights = F.softmax(out.flatten(2), dim=-1)
        out = out + blended(b=F.softmax(weights, dim=-1).view_as(out), a=torch.tanh(out))
        return {"logits": self.head(out.mean((2, 3))), "levels": Pair(fine, coarse)}


@pytest.fixture
def net() -> Subject:
    torch.manual_seed(0)
    return Subject(Net().double())


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.randn(2, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def by_hand(net: Subject, batch: Batch) -> dict[str, Tensor]:
    """The forward of Net and Pyramid written out, nothing in place."""
    m = net.module
    with torch.no_grad():
        conv = m.conv(batch.x)
        first = conv.clamp_min(0)
        fine = 2 * m.neck.side(first) + first.mean()
        coarse = -F.avg_pool2d(fine, 2)
        second = fine.clamp_min(0)
        soft = torch.softmax(second.flatten(2), -1)
        return {"conv": conv, "first": first, "fine": fine, "coarse": coarse, "second": second, "soft": soft}


def picture(x: Tensor) -> Tensor:
    return x[:, :, None]


def test_every_place_holds_what_the_network_computes(net: Subject, batch: Batch) -> None:
    want = by_hand(net, batch)
    places = {
        "conv": want["conv"],
        "relu#0": want["first"],
        "relu#1": want["second"],
        "in:relu#1": want["fine"],
        "neck@0": want["fine"],
        "neck@1": want["coarse"],
        "neck@-1": want["coarse"],
        "in:neck@x": want["first"],
        "in:neck@0": want["first"],
        "in:conv": batch.x,
        INPUT: batch.x,
        f"fn:{__name__}.Pyramid.halve": -want["coarse"],
        f"fn:{__name__}.Pyramid.negate": want["coarse"],
        f"fn:{__name__}:Pyramid.smooth": want["fine"] - want["first"].mean(),
        f"fn:{__name__}.Wide.negate": want["coarse"],
        f"in-fn:{__name__}.blended#0@0": want["second"].tanh(),
        f"in-fn:{__name__}.blended#0@b": want["soft"].softmax(-1).view_as(want["second"]),
        f"in-fn:{__name__}.Pyramid.smooth": (want["fine"] - want["first"].mean()) / 2,
        "fn:torch.tanh": want["second"].tanh(),
    }
    found = features(net, batch, tuple(places))
    for place, value in places.items():
        torch.testing.assert_close(found[place], picture(value), msg=place)


def test_several_calls_and_tensors_get_a_label_each(net: Subject, batch: Batch) -> None:
    found = features(net, batch, ("relu", "neck"))
    assert list(found.values) == ["relu#0", "relu#1", "neck@0", "neck@1"]
    named = features(net, batch, {"p3": "neck@0", "p4": "neck@1"})
    assert list(named.values) == ["p3", "p4"]
    assert torch.equal(named["p4"], found["neck@1"])


def test_functions_by_call(net: Subject, batch: Batch) -> None:
    want = by_hand(net, batch)["soft"]
    seen = capture(net, batch, ("fn:torch.nn.functional.softmax#0", "fn:torch.nn.functional.softmax#1"))
    first, second = seen.values()
    torch.testing.assert_close(first.raw, want)
    torch.testing.assert_close(second.raw, want.softmax(-1))


def test_a_network_that_is_its_own_output(net: Subject, batch: Batch) -> None:
    assert [keys for keys, _ in leaves(net.module(batch.x))] == [("logits",), ("levels", "0"), ("levels", "1")]


def test_globs(net: Subject, batch: Batch) -> None:
    assert list(features(net, batch, ("*.side", "c?nv")).values) == ["neck.side", "conv"]
    found = capture(net, batch, ("param:*conv.weight", "param:head.*"))
    assert list(found) == ["param:conv.weight", "param:head.weight", "param:head.bias"]


def test_parameters(net: Subject, batch: Batch) -> None:
    found = features(net, batch, ("param:neck.scale", "param:head.weight", "param:head.bias"))
    assert found["param:neck.scale"].shape == (1, 8, 1, 3, 3)
    assert torch.equal(found["param:head.weight"][0, 0, 0], net.module.head.weight.detach())
    assert torch.equal(found["param:head.bias"].flatten(), net.module.head.bias.detach())
    assert set(found.loose) == set(found.values)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 6))
        self.place = nn.Parameter(torch.randn(1, 6, 6))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens + self.place], 1)
        heads = self.norm(tokens).view(len(x), -1, 2, 3).transpose(1, 2)
        weights = F.softmax(heads @ heads.transpose(-1, -2), dim=-1)
        return (weights @ heads).transpose(1, 2).flatten(2)


def test_tokens_and_attention(batch: Batch) -> None:
    subject = Subject(Attention().double(), layout=lambda name: None)
    found = features(subject, batch, ("patch", "fn:torch.nn.functional.softmax", "param:place"))
    assert found["fn:torch.nn.functional.softmax"].shape == (2, 2, 1, 7, 7)
    assert found["param:place"].shape == (1, 6, 1, 2, 3)
    assert found.loose == ("fn:torch.nn.functional.softmax",)


def test_a_declared_layout_joins_calls(batch: Batch) -> None:
    net = Subject(Net().double(), layout=lambda name: Layout(join="h") if name == "relu" else None)
    parts = features(net, batch, ("relu#0", "relu#1"))
    whole = features(net, batch, ("relu",))["relu"]
    assert torch.equal(whole, torch.cat([parts["relu#0"], parts["relu#1"]], dim=3))


def test_in_place_layers_do_not_reach_what_was_kept(net: Subject, batch: Batch) -> None:
    assert (features(net, batch, ("conv",))["conv"] < 0).any()


def test_a_module_in_place_costs_no_second_forward(net: Subject, batch: Batch) -> None:
    ran: list[int] = []
    net.module.conv.register_forward_pre_hook(lambda *_: ran.append(1))
    found = features(net, batch, ("conv", "in:relu#0", "relu#0", "in:relu#1"))
    plain = net.module.conv(batch.x)
    assert len(ran) == 2
    assert torch.equal(found["conv"].squeeze(2), plain)
    assert torch.equal(found["in:relu#0"].squeeze(2), plain)
    assert torch.equal(found["relu#0"].squeeze(2), plain.relu())


class InPlace(nn.Module):
    """A sum in place behind the first convolution; a module that gives its weight, one that gives a slice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.place = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), Place()
        self.slice = Slice()
        self.forwards: list[int] = []
        forwards = self.forwards
        self.first.register_forward_pre_hook(lambda *_: forwards.append(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.div_(2))
        x += 10
        return self.slice(self.second(x)) + self.place(x)


class Place(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight


class Slice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


def test_sums_in_place_do_not_reach_what_was_kept_or_given(batch: Batch) -> None:
    net, given = InPlace().double(), batch.x.clone()
    found = features(Subject(net), batch, ("first", "in:second"))
    plain = F.conv2d(given / 2, net.first.weight, net.first.bias)
    assert torch.equal(batch.x, given)
    assert torch.equal(found["first"].squeeze(2), plain)
    assert torch.equal(found["in:second"].squeeze(2), plain + 10)
    assert len(net.forwards) == 2


def test_nothing_is_copied_or_run_again_where_nothing_is_in_place(batch: Batch) -> None:
    net, outputs = InPlace().double(), []
    net.second.register_forward_hook(lambda _m, _i, out: outputs.append(out.data_ptr()))
    seen = capture(Subject(net), batch, ("second",))
    assert len(net.forwards) == 1
    assert seen["second"].raw.data_ptr() == outputs[0]


def test_a_model_that_runs_in_inference_mode_is_seen(batch: Batch) -> None:
    class Inferring(InPlace):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net = Inferring().double()
    found = features(Subject(net), batch, ("first",))["first"].squeeze(2)
    assert torch.equal(found, F.conv2d(batch.x / 2, net.first.weight, net.first.bias))


def test_weights_and_slices_are_copied(batch: Batch) -> None:
    net = InPlace().double()
    seen = capture(Subject(net), batch, ("place", "slice"))
    kept = seen["place"].raw.clone()
    net.place.weight.data.add_(1)
    assert torch.equal(seen["place"].raw, kept)
    part = seen["slice"].raw
    assert part.untyped_storage().nbytes() == part.numel() * part.element_size()


def places_of_patches() -> list[Any]:
    owned = [vars(Pyramid)[name] for name in ("smooth", "halve", "negate")]
    return [*owned, F.softmax, torch.tanh, vars(torch.Tensor).get("sigmoid")]


EVERYTHING = (
    "relu", "in:neck", "fn:torch.nn.functional.softmax", "in-fn:torch.nn.functional.softmax", "fn:torch.tanh",
    f"fn:{__name__}.Pyramid.smooth", f"fn:{__name__}.Pyramid.halve", f"fn:{__name__}.Pyramid.negate",
)  # fmt: skip


@pytest.mark.parametrize("fault", [None, RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(net: Subject, batch: Batch, fault: type[BaseException] | None) -> None:
    net.module.train()
    before = places_of_patches()
    flags = [p.requires_grad for p in net.module.parameters()]

    def fail(*_: Any) -> None:
        raise fault

    if fault is None:
        capture(net, batch, EVERYTHING)
    else:
        handle = net.module.head.register_forward_hook(fail)
        with pytest.raises(fault):
            capture(net, batch, EVERYTHING)
        handle.remove()
    after = places_of_patches()
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in net.module.modules())
    assert net.module.training
    assert [p.requires_grad for p in net.module.parameters()] == flags


def test_the_method_of_a_parent_class_is_left_where_it_was(net: Subject, batch: Batch) -> None:
    with pytest.raises(BadInput, match="not called"):
        capture(net, batch, (f"fn:{__name__}.Pyramid.half",))
    assert "half" not in vars(Pyramid)


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ("nek", "no layer 'nek' in this model. Did you mean neck"),
        ("param:hed.weight", "Did you mean head.weight"),
        ("unused", "'unused': the module did not run"),
        ("relu#7", "the module ran 2 times in the forward, #0 to #1"),
        ("relu#x", "expected name, in:name"),
        ("fnn:torch.tanh", "Did you mean fn"),
        ("neck@5", "'neck@5': neck has 2 elements, so there is no '5'"),
        ("conv@logits", "is a tensor of shape"),
        ("in:neck@nothing", "has the keys 0, bias"),
        ("head", None),
        ("fn:torch.nn.functional.softmacks", "torch.nn.functional has no 'softmacks'. Did you mean softmax"),
        ("fn:torch.nn.functional.gelu", "was not called"),
        ("fn:nowhere.at.all", "there is no module 'nowhere'"),
        ("fn:torch.nn.Conv2d", "is not a function or method"),
        ("fn:torch..tanh", "with a name between any two dots"),
        ("fn:torch._C.TensorBase.mean", "built into C\\+\\+ and cannot be patched"),
        ("x*", "no layer fits"),
        ("", "expected name"),
    ],
)
def test_bad_points_are_said_in_one_line(net: Subject, batch: Batch, point: str, words: str | None) -> None:
    if words is None:
        assert features(net, batch, (point,))[point].shape == (2, 2, 1, 1, 1)
        return
    with pytest.raises(BadInput, match=words) as error:
        features(net, batch, (point,))
    assert "\n" not in str(error.value)


def test_a_function_held_under_another_name_is_found(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    home, user = types.ModuleType("loupe_home"), types.ModuleType("loupe_user")
    home.double = user.double = functools.wraps(torch.add)(lambda x: x * 2)
    monkeypatch.setitem(sys.modules, "loupe_home", home)
    monkeypatch.setitem(sys.modules, "loupe_user", user)

    class Uses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return user.double(x)

    with pytest.raises(BadInput, match="such as fn:loupe_user.double"):
        features(Subject(Uses()), batch, ("fn:loupe_home.double",))
    assert torch.equal(
        features(Subject(Uses()), batch, ("fn:loupe_user.double",)).values.popitem()[1][:, :, 0], 2 * batch.x
    )


def test_a_tensor_without_image_axes(net: Subject, batch: Batch) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.part(x.new_zeros(5, 7))

    with pytest.raises(BadInput, match=r"'part': shape \(5, 7\) has no image axes"):
        features(Subject(Odd()), batch, ("part",))
    assert features(Subject(Odd()), batch, ("part",), skip_flat=True).values == {}


def test_a_point_reads_as_it_was_written() -> None:
    for text in ("neck", "in:neck@0@x", "fn:a.b.c#2", "in-fn:a.b.c", "param:a.weight", "relu#1@-1"):
        assert str(parse(text)) == text
    assert str(parse("fn:a.b:C.d")) == "fn:a.b.C.d"
    assert locate("torch.nn.functional.softmax") == (F, "softmax")
