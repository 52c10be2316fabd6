"""A network is never touched, in no thread: its shadow is asked."""

from __future__ import annotations

import gc
import threading
import warnings
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import Plain, Residual

import torchloupe as loupe
from torchloupe.errors import LoupeWarning
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.shadow import is_shadow, shadowed
from torchloupe.targets.classes import Classes
from torchloupe.testing import state


def built(make: Any, *args: Any) -> nn.Module:
    torch.manual_seed(0)
    return make(*args)


def probe(net: nn.Module, *layers: str, **subject: Any) -> Probe:
    return Probe(Subject(net, **subject), layers, Classes(1))


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.rand(2, 3, 12, 8))


@pytest.fixture(autouse=True)
def silent() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", LoupeWarning)
        yield


def test_threads_on_one_model(batch: Batch) -> None:
    net = built(Residual).train()
    net.drop = nn.Dropout()
    asked = probe(net, "bn2")
    want = loupe.gradcam(asked, batch)["bn2"]
    trained = net(batch.x).detach()  # in train mode, with the batch's own statistics
    before, wrong = state(net), []

    def explain() -> None:
        for _ in range(15):
            wrong.append(not torch.equal(loupe.gradcam(asked, batch)["bn2"], want))

    def run() -> None:
        for _ in range(60):
            for part in (net, net.bn1, net.bn2):
                wrong.append(not part.training)
            wrong.append(any(part._forward_hooks for part in net.modules()))
            wrong.append(any(not p.requires_grad for p in net.parameters()))

    threads = [threading.Thread(target=explain) for _ in range(3)] + [threading.Thread(target=run)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 45 + 60 * 5
    assert not any(wrong)
    assert state(net) == before
    assert torch.allclose(net(batch.x), trained)


def test_a_shadow_shares_tensors_and_sees_training(batch: Batch) -> None:
    net = built(Plain)
    with shadowed(net) as mine:
        assert mine is not net
        assert is_shadow(mine)
        assert [p.data_ptr() for p in mine.parameters()] == [p.data_ptr() for p in net.parameters()]
        assert not any(p.requires_grad for p in mine.parameters())
        first = mine
    one = loupe.gradcam(probe(net, "two"), batch)["two"]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1)
    two = loupe.gradcam(probe(net, "two"), batch)["two"]
    assert not torch.equal(one, two)
    with shadowed(net) as mine:
        assert mine is first  # a change of values needs no other shadow


@pytest.mark.parametrize("what", ["parameter", "data", "part", "flag", "hook", "config", "list"])
def test_a_changed_model_is_seen(what: str, batch: Batch) -> None:
    class Configured(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.factor, self.config, self.factors = 1.0, type("Config", (), {})(), [1.0]
            self.config.factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * self.factor * self.config.factor * self.factors[0])

    net = built(Configured)
    before = probe(net, "two")(batch).scores.value
    if what == "parameter":
        net.head.weight = nn.Parameter(torch.ones_like(net.head.weight))
    elif what == "data":
        net.head.weight.data = torch.ones_like(net.head.weight)
    elif what == "part":
        net.two[1] = nn.Tanh()
    elif what == "flag":
        net.factor = 2.0
    elif what == "hook":
        net.two.register_forward_hook(lambda _m, _i, out: out * 2)
    elif what == "config":
        net.config.factor = 2.0
    else:
        net.factors[0] = 2.0
    after = probe(net, "two")(batch).scores.value
    assert not torch.equal(before, after)
    assert torch.allclose(after[0], net.eval()(batch.x)[:, 1].detach(), atol=1e-6)


def test_changes_of_a_shadow_are_undone() -> None:
    net = built(Plain)
    with shadowed(net) as mine:
        mine.two[1] = nn.Tanh()
        mine.head.register_forward_hook(lambda *_: None)
        mine.forward = lambda x: x
        mine.kept = torch.ones(3)
        mine.one.training = True
        first = mine
    with shadowed(net) as mine:
        assert mine is first
        assert isinstance(mine.two[1], nn.ReLU)
        assert not mine.head._forward_hooks
        assert "forward" not in vars(mine)
        assert not hasattr(mine, "kept")
        assert not mine.one.training
    with pytest.raises(KeyError), shadowed(net) as mine:
        mine.two[1] = nn.Tanh()
        raise KeyError
    with shadowed(net) as mine:
        assert isinstance(mine.two[1], nn.ReLU)


def test_a_network_and_its_shadows_go_away_together() -> None:
    net = built(Plain)
    with shadowed(net) as mine:
        gone = weakref.ref(net), weakref.ref(mine)
    del net, mine
    gc.collect()
    assert [one() for one in gone] == [None, None]


class Closed(nn.Module):
    """Its forward is a function that holds its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        conv, head = self.conv, self.head
        self.run = lambda x: head(torch.relu(conv(x)).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Weak(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.top = weakref.ref(self.head)


class Locked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.counter = (number for number in range(3))


@pytest.mark.parametrize(
    ("make", "said"), [(Closed, "in its closure"), (Weak, "weak reference"), (Locked, "cannot be copied")]
)
def test_what_has_no_shadow_is_asked_itself_and_that_is_said(make: Any, said: str, batch: Batch) -> None:
    net = built(make).train()
    layer, before = ("conv" if make is Closed else "two"), state(net)
    with pytest.warns(LoupeWarning, match=f"is asked itself.*{said}"):
        found = loupe.gradcam(probe(net, layer), batch)[layer]
    assert found.any()
    assert state(net) == before
    assert torch.equal(loupe.gradcam(probe(net, layer), batch)[layer], found)  # and is not said again
    results: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(torch.equal(loupe.gradcam(probe(net, layer), batch)[layer], found))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4
    assert state(net) == before


def test_a_call_that_holds_the_network_is_noticed(batch: Batch) -> None:
    net = built(Plain)
    asked = probe(net, "two", call=lambda module, given: net(given.x))
    with pytest.warns(LoupeWarning, match="the function that calls it holds"):
        found = loupe.gradcam(asked, batch)["two"]
    assert torch.equal(found, loupe.gradcam(probe(net, "two"), batch)["two"])


HIDDEN: list[nn.Module] = []


def test_layers_that_run_past_the_copy_are_noticed(batch: Batch) -> None:
    class Past(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(HIDDEN[0].two(self.one(x)).mean((2, 3)))

    net = built(Past)
    HIDDEN[:] = [net]
    with pytest.warns(LoupeWarning, match="'?two'? runs past the copy"):
        found = loupe.gradcam(probe(net, "two"), batch)["two"]
    HIDDEN[:] = [built(Plain)]
    assert torch.equal(found, loupe.gradcam(probe(HIDDEN[0], "two"), batch)["two"])


class Recorder:
    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def note(self, _part: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.shapes.append(tuple(output.shape))

    def __call__(self, part: nn.Module, inputs: Any, output: Tensor) -> None:
        self.note(part, inputs, output)


@pytest.mark.parametrize("hook", ["note", "__call__"])
def test_hooks_of_the_user_go_on_recording(hook: str, batch: Batch) -> None:
    net, mine = built(Plain), Recorder()
    net.two.register_forward_hook(mine.note if hook == "note" else mine)
    probe(net, "two")(batch)
    assert mine.shapes == [(2, 6, 6, 4)]


def test_gradient_checkpointing_loses_nothing(batch: Batch) -> None:
    class Checkpointed(Plain):
        grad_checkpointing = False

        def forward(self, x: Tensor) -> Tensor:
            y = checkpoint(self.one, x, use_reentrant=False) if self.grad_checkpointing else self.one(x)
            y = checkpoint(self.two, y, use_reentrant=False) if self.grad_checkpointing else self.two(y)
            return self.head(y.mean((2, 3)))

    net = built(Checkpointed)
    want = loupe.gradcam(probe(net, "one", "two"), batch)
    net.grad_checkpointing = True
    found = loupe.gradcam(probe(net, "one", "two"), batch)
    assert net.grad_checkpointing
    for layer in ("one", "two"):
        assert torch.equal(found[layer], want[layer])


def test_compiled_parts_are_looked_through(batch: Batch) -> None:
    net = built(Plain)
    want = loupe.gradcam(probe(net, "two"), batch)["two"]
    net.two.compile(backend="eager")
    assert torch.equal(loupe.gradcam(probe(net, "two"), batch)["two"], want)
    other = built(Plain)
    other.one = torch.compile(other.one, backend="eager")
    assert torch.equal(loupe.gradcam(probe(other, "two"), batch)["two"], want)
    assert loupe.gradcam(probe(other, "one._orig_mod.0"), batch)["one._orig_mod.0"].any()


class Recurrent(nn.Module):
    """A CNN with an LSTM on its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 5)
        self.lstm = nn.LSTM(4 * 8, 6, 2, batch_first=True, dropout=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(torch.tanh(self.conv(x)).permute(0, 2, 1, 3).flatten(2))[0][:, -1])


def test_recurrent_layers_are_asked_so_that_cudnn_gives_their_gradient(batch: Batch) -> None:
    net = built(Recurrent).eval()
    with shadowed(net) as mine:
        assert mine.lstm.training  # cuDNN's backward is for training mode only
        assert not mine.conv.training
        assert torch.equal(mine(batch.x), net(batch.x))  # and without dropout it is the same
    x = batch.x.clone().requires_grad_()
    (want,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    assert torch.allclose(probe(net, INPUT)(batch).grad[INPUT][0, :, :, 0], want)
    assert (net.lstm.training, net.lstm.dropout) == (False, 0.5)


class TokensOfConvolutions(nn.Module):
    """Batch norm, then tokens: on a CPU torch's own gradient of such a network is wrong for one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.norm, self.fc, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8 * 96, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head((y + torch.tanh(self.fc(self.norm(y)))).flatten(1))


def test_one_picture_has_the_gradient_that_it_has_among_others(batch: Batch) -> None:
    net = built(TokensOfConvolutions).eval()
    both = probe(net, "conv")(batch).grad["conv"]
    alone = probe(net, "conv")(batch.take([0])).grad["conv"]
    assert torch.allclose(alone, both[:, :1], atol=1e-6)


def test_nothing_grows_without_the_collector(batch: Batch) -> None:
    net = built(Residual)
    asked, deep = probe(net, "bn2", "stem"), probe(net, INPUT)

    def ask() -> None:
        loupe.gradcam(asked, batch)
        deep(batch)
        loupe.features(asked.subject, batch, ["bn2"])

    def live() -> int:
        return sum(isinstance(one, Tensor) for one in gc.get_objects())

    ask()
    gc.collect()
    before = live()
    gc.disable()
    try:
        for _ in range(100):
            ask()
        grown = live() - before
    finally:
        gc.enable()
    assert grown == 0
