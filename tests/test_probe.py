"""The probe: what it taps, what it leaves behind, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from zoo import ZOO, Concatenated, Plain, Residual, Tokens

import torchloupe as loupe
from torchloupe.errors import BadInput, NoGradient
from torchloupe.names import resolve
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.taps import same_memory, tapped
from torchloupe.targets.classes import Classes, Each, Top, Truth, class_index
from torchloupe.testing import state

D = torch.float64


def probe(net: nn.Module, *layers: str, **subject: object) -> Probe:
    return Probe(Subject(net.to(D), **subject), layers, Classes((1,)))  # type: ignore[arg-type]


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    return Batch(torch.rand(2, 3, 12, 8, dtype=D))


def test_in_place_layers_do_not_change_what_was_tapped(batch: Batch) -> None:
    net = Residual().to(D).eval()
    seen = probe(net, "bn2", "stem")(batch)
    identity = net.stem(batch.x)
    bn2 = net.bn2(net.conv2(torch.relu(net.bn1(net.conv1(identity)))))
    assert torch.allclose(seen.act["bn2"][:, :, 0], bn2)
    assert (bn2 < 0).any()
    out = bn2.detach().requires_grad_()
    (want,) = torch.autograd.grad(net.head(torch.relu(out + identity.detach()).mean((2, 3)))[:, 1].sum(), out)
    assert torch.allclose(seen.grad["bn2"][0, :, :, 0], want)


def test_layers_in_a_network_full_of_in_place_work(batch: Batch) -> None:
    net, forwards = Residual().to(D).eval(), []
    net.stem.register_forward_pre_hook(lambda *_: forwards.append(1))
    layers = ("stem", "conv1", "bn1", "relu#0", "conv2", "relu#1")
    seen = probe(net, *layers)(batch)
    assert len(forwards) == 1
    stem = net.stem(batch.x).detach()
    conv1 = net.conv1(stem).detach().requires_grad_()
    bn1 = net.bn1(conv1)
    relu = torch.relu(bn1)
    conv2 = net.conv2(relu)
    last = torch.relu(net.bn2(conv2) + stem)
    wanted = dict(zip(layers[1:], (conv1, bn1, relu, conv2, last), strict=True))
    score = net.head(last.mean((2, 3)))[:, 1].sum()
    for (name, act), grad in zip(wanted.items(), torch.autograd.grad(score, list(wanted.values())), strict=True):
        assert torch.allclose(seen.act[name][:, :, 0], act), name
        assert torch.allclose(seen.grad[name][0, :, :, 0], grad), name


def test_a_sum_in_place_is_seen_by_a_second_forward(batch: Batch) -> None:
    net, forwards = Residual().to(D).eval(), []
    net.stem.register_forward_pre_hook(lambda *_: forwards.append(1))
    seen = probe(net, "conv2", "bn2")(batch)
    assert len(forwards) == 2
    alone = probe(net, "bn2")(batch)
    assert len(forwards) == 3
    assert torch.equal(seen.act["bn2"], alone.act["bn2"])
    assert torch.equal(seen.grad["bn2"], alone.grad["bn2"])


def test_what_a_leaky_relu_changes_is_undone_without_memory(batch: Batch) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1, inplace=True), nn.LeakyReLU(0.5, inplace=True), nn.Conv2d(4, 4, 3)
    )
    net = nn.Sequential(net, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 8 * 4, 5)).to(D)
    given: list[Tensor] = []
    net[0][1].register_forward_pre_hook(lambda _part, inputs: given.append(inputs[0].clone()))
    memory: list[Tensor] = []
    net[0][0].register_forward_hook(lambda _part, _inputs, out: memory.append(out))
    with tapped(net, ("0.0", "0.3"), False) as taps:
        net(batch.x)
    assert not taps.spoiled()
    assert torch.allclose(taps.outputs("0.0")[0], given[0], rtol=1e-14)
    assert (given[0] < 0).any()
    assert same_memory(taps.calls["0.0"][0].tensor, memory[0])
    assert (taps.outputs("0.3")[0] < 0).any()


def test_a_model_that_runs_in_inference_mode_has_activations(batch: Batch) -> None:
    class Inferring(Residual):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    net, plain = Inferring().to(D), Residual().to(D)
    plain.load_state_dict(net.state_dict())
    for layers in (("bn2",), ("stem", "bn1", "conv2")):
        seen, want = (probe(one, *layers)(batch, grad=False).act for one in (net, plain))
        assert all(torch.equal(seen[layer], want[layer]) for layer in layers)


def test_a_network_keeps_nothing_of_an_asking(batch: Batch) -> None:
    class Keeping(Plain):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = self.one(x)
            return self.head(self.two(self.kept).mean((2, 3)))

    net = Keeping().to(D)
    net(batch.x)
    mine = net.kept
    for layers in (("one",), ("one", "two")):
        probe(net, *layers)(batch)
        assert net.kept is mine
        assert not mine._backward_hooks
    with pytest.raises(BadInput):
        probe(net, "one", "two").at("one", "two#7")(batch)
    assert net.kept is mine


def test_gradients_are_let_go_as_they_are_taken(batch: Batch) -> None:
    net = Plain().to(D)
    held: list[StorageWeakRef] = []

    def take(layer: str, act: Tensor, grad: Tensor) -> Tensor:
        assert all(one.expired() for one in held)
        held.append(StorageWeakRef(grad.untyped_storage()))
        return (act * grad).sum()

    asked = Probe(Subject(net), ("one.0", "two.0"), Classes((1, 0)))
    seen, whole = asked(batch, take=take), asked(batch)
    assert len(held) == 4
    assert not seen.act
    assert not seen.grad
    for layer, taken in seen.taken.items():
        want = (whole.act[layer] * whole.grad[layer]).flatten(1).sum(1)
        assert torch.allclose(torch.stack(taken), want)


def test_a_module_that_runs_twice_must_be_numbered(batch: Batch) -> None:
    net = Residual()
    with pytest.raises(BadInput, match="relu#0"):
        probe(net, "relu")(batch)
    both = probe(net, "relu#0", "relu#1")(batch)
    assert not torch.equal(both.act["relu#0"], both.act["relu#1"])
    with pytest.raises(BadInput, match="did not run"):
        probe(net, "relu#2")(batch)


def test_the_graph_begins_at_the_earliest_tapped_layer(batch: Batch) -> None:
    net = Plain()
    seen: list[bool] = []
    net.one.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    net.two.register_forward_hook(lambda _m, _i, out: seen.append(out.requires_grad))
    probe(net, "two.0")(batch)
    assert seen == [False, True]


def test_frozen_models_and_no_grad_and_inference_callers(batch: Batch) -> None:
    net = Plain()
    want = loupe.gradcam(probe(net, "two"), batch)["two"]
    for part in net.parameters():
        part.requires_grad_(False)
    assert torch.equal(loupe.gradcam(probe(net, "two"), batch)["two"], want)
    assert not any(part.requires_grad for part in net.parameters())
    with torch.no_grad():
        assert torch.equal(loupe.gradcam(probe(net, "two"), batch)["two"], want)
    with torch.inference_mode():
        assert torch.equal(loupe.gradcam(probe(net, "two"), batch)["two"], want)


def test_partly_frozen_models_with_several_layers(batch: Batch) -> None:
    net = Plain()
    want = loupe.gradcam(probe(net, "one", "two"), batch)
    for part in net.one.parameters():
        part.requires_grad_(False)
    found = loupe.gradcam(probe(net, "one", "two"), batch)
    assert torch.equal(found["one"], want["one"])
    assert torch.equal(found["two"], want["two"])


def test_gradients_that_the_user_has_gathered_stay(batch: Batch) -> None:
    net = Plain().to(D)
    net(batch.x).sum().backward()
    kept = [part.grad.clone() for part in net.parameters()]
    before = state(net)
    loupe.gradcam(probe(net, "two", INPUT), batch)
    assert state(net) == before
    assert all(torch.equal(part.grad, grad) for part, grad in zip(net.parameters(), kept, strict=True))


def test_modes_of_parts_come_back(batch: Batch) -> None:
    net = Residual().train()
    net.bn1.eval()
    running = net.bn2.running_mean.clone()
    loupe.gradcam(probe(net, "bn2"), batch)
    assert net.training
    assert not net.bn1.training
    assert net.bn2.training
    assert torch.equal(net.bn2.running_mean, running.to(D))


def test_the_input_is_left_alone(batch: Batch) -> None:
    class Bites(Plain):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(2)
            return super().forward(x)

    kept = batch.x.clone()
    for layer in (INPUT, "two"):
        seen = probe(Bites(), layer)
        loupe.gradient_x_input(seen, batch) if layer == INPUT else loupe.gradcam(seen, batch)
        seen.ask(batch)
        assert torch.equal(batch.x, kept)
    loupe.ablationcam(seen, batch)
    assert torch.equal(batch.x, kept)
    assert not batch.x.requires_grad


def test_outputs_of_any_build_are_read() -> None:
    case = next(case for case in ZOO if case.name == "tuples")
    seen = case.probe()(case.batch())
    assert seen.scores.value.shape == (2, 2)
    with pytest.raises(BadInput, match="no tensor was found"):
        probe(Plain(), "two", call=lambda module, asked: "nothing")(Batch(torch.rand(2, 3, 12, 8)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype: torch.dtype, batch: Batch) -> None:
    net = Plain()
    want = loupe.gradcam(probe(net, "two"), batch)["two"]
    found = loupe.gradcam(Probe(Subject(net.to(dtype)), ("two",), Classes((1,))), batch)["two"]
    assert found.dtype == torch.float32
    assert torch.corrcoef(torch.stack([found.flatten().to(D), want.flatten()]))[0, 1] > 0.99


def test_autocast(batch: Batch) -> None:
    net = Plain()
    want = loupe.gradcam(probe(net, "two"), batch)["two"]
    with torch.autocast("cpu", torch.bfloat16):
        found = loupe.gradcam(Probe(Subject(net.float()), ("two",), Classes((1,))), batch.at(batch.x.float()))["two"]
    assert torch.isfinite(found).all()
    assert torch.corrcoef(torch.stack([found.flatten().to(D), want.flatten()]))[0, 1] > 0.99


def test_a_layer_behind_the_last_attention_is_explained(batch: Batch) -> None:
    net = Tokens()
    with pytest.raises(NoGradient, match="class token alone.*use 'blocks.1.norm1'"):
        loupe.gradcam(probe(net, "norm", layers=("blocks.1.norm1",)), batch)
    with pytest.raises(NoGradient, match="use an earlier layer"):
        loupe.gradcam(probe(net, "blocks"), batch)
    assert loupe.gradcam(probe(net, "blocks.1.norm1"), batch)["blocks.1.norm1"].any()


def test_a_layer_beside_the_way_is_explained(batch: Batch) -> None:
    class Side(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.side(x)
            return super().forward(x)

    with pytest.raises(NoGradient, match="does not depend on layer 'side'"):
        loupe.gradcam(probe(Side(), "two", "side"), batch)
    with pytest.raises(NoGradient, match="does not depend on"):
        loupe.gradcam(probe(Side(), "side"), batch)


def test_layers_without_a_picture(batch: Batch) -> None:
    with pytest.raises(BadInput, match="runs on windows"):
        case = next(case for case in ZOO if case.name == "windows")
        Probe(Subject(case.make().to(D)), ("inside",), Classes((1,)))(batch)


def test_names_of_layers() -> None:
    net = Concatenated()
    assert resolve(dict(net.named_modules()), "layers[-1]") == "layers.2"
    assert resolve(dict(net.named_modules()), "layers[0]") == "layers.0"
    assert resolve(dict(net.named_modules()), "last#0") == "last#0"
    for wrong, match in {
        "layer.1": "Did you mean layers.1",
        "layers[-4]": "has 3 layers",
        "last[-1]": "not a list",
        "last#x": "call number",
        "": "no layer",
        "layers[3]": "no layer",
    }.items():
        with pytest.raises(BadInput, match=match):
            resolve(dict(net.named_modules()), wrong)
    with pytest.raises(BadInput, match="no layer was named"):
        Probe(Subject(net), (), Classes((1,)))


def test_wrapped_modules_get_a_clear_word() -> None:
    net = Plain()
    with pytest.raises(BadInput, match=r"model\.module"):
        probe(nn.DataParallel(net), "two")
    with pytest.raises(BadInput, match="_orig_mod"):
        probe(torch.compile(net, backend="eager"), "two")
    with pytest.raises(BadInput, match="TorchScript"):
        probe(torch.jit.trace(net.to(D), torch.rand(1, 3, 12, 8, dtype=D)), "two")


def test_nan_and_wrong_scores_name_the_samples(batch: Batch) -> None:
    x = batch.x.clone()
    x[1, 0, 0, 0] = float("nan")
    bad = Batch(x, ids=("good.png", "bad.png"))
    with pytest.raises(BadInput, match=r"not finite.*for bad\.png"):
        loupe.gradcam(probe(Plain(), "two"), bad)
    with pytest.raises(BadInput, match=r"expected \(questions, 2\)"):
        loupe.gradcam(Probe(Subject(Plain().to(D)), ("two",), lambda out, b: loupe.Scores(out, ())), batch)


@pytest.mark.parametrize(
    ("target", "match"),
    [
        (Top(0), "top 0 of 5 classes"),
        (Top(6), "top 6 of 5 classes"),
        (Classes((5,)), "class 5: the model has 5 classes"),
        (Classes(("cat",)), "no class names"),
        (Classes(("cta",), ("cat", "dog", "bird", "fish", "cow")), "Did you mean cat"),
        (Classes(("x",), ("x, a", "x, b", "c", "d", "e")), "fits 2 classes"),
        (Each((1, 2, 3)), "3 targets for 2 pictures"),
        (Truth(), "true class is not known"),
    ],
)
def test_targets_refuse(target: object, match: str, batch: Batch) -> None:
    with pytest.raises(BadInput, match=match):
        loupe.gradcam(Probe(Subject(Plain().to(D)), ("two",), target), batch)  # type: ignore[arg-type]


def test_a_true_label_out_of_range_names_its_picture(batch: Batch) -> None:
    labelled = Batch(batch.x, ids=("a", "b"), truth={"label": torch.tensor([1, 7])})
    with pytest.raises(BadInput, match="label 7 of b"):
        loupe.gradcam(Probe(Subject(Plain().to(D)), ("two",), Truth()), labelled)


def test_class_names() -> None:
    names = ("tabby, tabby cat", "Greater Swiss Mountain dog", "cat")
    assert class_index("tabby", names, 3) == 0
    assert class_index("greater swiss mountain dog", names, 3) == 1
    assert class_index("cat", names, 3) == 2
    assert class_index("2", names, 3) == 2


def test_a_target_that_is_any_function(batch: Batch) -> None:
    def contrast(output: Tensor, asked: Batch) -> loupe.Scores:
        return loupe.Scores((output[:, 0] - output[:, 1])[None], (("0 - 1",) * asked.n,))

    net = Plain().to(D)
    found = loupe.gradcam(Probe(Subject(net), ("two",), contrast), batch, relu=False)["two"]
    parts = loupe.gradcam(Probe(Subject(net), ("two",), Classes((0, 1))), batch, relu=False)["two"]
    assert torch.allclose(found[0], parts[0] - parts[1])


def test_batches_are_taken_apart() -> None:
    batch = Batch(
        torch.arange(6.0).view(3, 1, 2, 1).repeat(1, 1, 1, 2),
        ids=("a", "b", "c"),
        extra={"facts": torch.arange(3), "flag": True},
        truth={"label": torch.tensor([5, 6, 7])},
    )
    some = batch.take([2, 0, 2])
    assert some.ids == ("c", "a", "c")
    assert some.truth["label"].tolist() == [7, 5, 7]
    assert some.extra["facts"].tolist() == [2, 0, 2]
    assert some.extra["flag"] is True
    assert torch.equal(some.x, batch.x[[2, 0, 2]])
    wide = batch.take([1]).spread(4)
    assert wide.n == 4
    assert torch.equal(wide.x, batch.x[[1, 1, 1, 1]])
    with pytest.raises(BadInput, match="one sample"):
        batch.spread(2)
    with pytest.raises(BadInput, match="2 ids for 3"):
        Batch(batch.x, ids=("a", "b"))


def test_extra_inputs_follow_their_samples_through_perturbation() -> None:
    case = next(case for case in ZOO if case.name == "two inputs")
    found = loupe.occlusion(case.probe(), case.batch())["input"]
    for i in range(2):
        assert torch.allclose(found[:, i : i + 1], loupe.occlusion(case.probe(), case.batch().take([i]))["input"])


def test_videos_of_tokens_are_found_with_their_channels_last():
    """(n, t, h, w, c) as in video transformers, beside (n, c, t, h, w)."""
    from torchloupe.axes import Layout
    from torchloupe.trace import Trace, Visit, find_layout

    def found(shape: tuple[int, ...], module: torch.nn.Module) -> object:
        visit = Visit("block", module, 0, (shape,))
        return find_layout(visit, Trace([visit]), 1, (7, 64, 44))

    assert found((1, 7, 15, 10, 256), torch.nn.Identity()) == Layout("n t h w c")
    assert found((1, 256, 7, 15, 10), torch.nn.Identity()) == Layout("n c t h w")
    assert found((1, 7, 14, 10, 7), torch.nn.LayerNorm(7)) == Layout("n t h w c")
    assert found((1, 7, 14, 10, 7), torch.nn.Conv3d(1, 7, 3)) == Layout("n c t h w")
