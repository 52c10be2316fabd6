"""PoseIG: target, blur path and integral, against a transcription of the template with plain loops in float64."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchloupe.errors import BadInput
from torchloupe.methods.blur import Curve, blur, blur_curve, blurred, gauss_legendre, kernel, scouted, straight_curve
from torchloupe.methods.path import Path, integrated_gradients, quadrature, straight
from torchloupe.methods.poseig import poseig
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.targets.pose import Joints, Peaks, joint_index, merge_mirrored, peaks, soft_argmax, surest

N, J, H, W = 2, 4, 40, 36


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 5, 2, 2), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, J, 1)]
    return nn.Sequential(*layers).double()


def batch(weight: list[list[float]] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 3, H, W, generator=generator, dtype=torch.float64)
    heatmaps = torch.rand(N, J, H // 4, W // 4, generator=generator, dtype=torch.float64) ** 6
    found = torch.tensor(weight or [[1.0, 1, 1, 1]] * N)
    heatmaps = heatmaps * (found > 0)[:, :, None, None]
    return Batch(x, truth={"heatmaps": heatmaps, "weight": found})


def subject(module: nn.Module | None = None) -> Subject:
    return Subject(module or net(), read=lambda output: output, kind="pose")


def template_soft_argmax(heatmap: np.ndarray) -> np.ndarray:
    total = u = v = 0.0
    top = heatmap.max()
    for row in range(heatmap.shape[0]):
        for column in range(heatmap.shape[1]):
            share = math.exp(10 * (heatmap[row, column] - top))
            total, u, v = total + share, u + share * column, v + share * row
    return np.array([u / total, v / total])


def template_blurred(x: np.ndarray, sigma: float) -> np.ndarray:
    """One channel (h, w), the full 31 x 31 kernel, reflecting."""
    weight = np.zeros((31, 31))
    for a in range(31):
        for b in range(31):
            weight[a, b] = math.exp(-((a - 15) ** 2 + (b - 15) ** 2) / (2 * (sigma + 1e-5) ** 2))
    weight /= weight.sum()
    wide = np.pad(x, 15, mode="reflect")
    made = np.zeros_like(x)
    for a in range(31):
        for b in range(31):
            made += weight[a, b] * wide[a : a + x.shape[0], b : b + x.shape[1]]
    return made


def template_maps(module: nn.Module, x: Tensor, heatmaps: Tensor, folds: int) -> np.ndarray:
    """The template's stored maps (j, h, w) of one sample x (3, h, w): every joint, left-hand folds, normalised."""
    sigmas = np.linspace(19, 0, folds + 1)
    images = [np.stack([template_blurred(channel, s) for channel in x.numpy()]) for s in sigmas]
    true = [template_soft_argmax(h) for h in heatmaps.numpy()]
    total = np.zeros((J, *x.shape))
    for i in range(folds):
        for j in range(J):
            at = torch.tensor(images[i], requires_grad=True)
            share = (10 * module(at[None])[0, j]).flatten().softmax(0).reshape(heatmaps.shape[-2:])
            u = sum(share[:, c].sum() * c for c in range(share.shape[1]))
            v = sum(share[r].sum() * r for r in range(share.shape[0]))
            distance = ((u - true[j][0]) ** 2 + (v - true[j][1]) ** 2) ** 0.5
            torch.exp(-0.3 * distance).backward()
            total[j] += at.grad.numpy() * (images[i + 1] - images[i]) * folds
    maps = np.abs(total.sum(1))
    return maps / maps.max((1, 2), keepdims=True)


def test_reference_settings_reproduce_the_template() -> None:
    seen = batch()
    path = blur(19, 31, "left", bend=1)
    maps = poseig(Probe(subject(), (INPUT,), Joints(every=True)), seen, path=path, steps=6)[INPUT][:, :, 0].abs()
    maps = maps / maps.amax((-2, -1), keepdim=True)
    for n in range(N):
        theirs = template_maps(net(), seen.x[n], seen.truth["heatmaps"][n], 6)
        assert np.abs(maps[:, n].numpy() - theirs).max() < 1e-9


def test_the_blur_is_the_full_kernel() -> None:
    x = torch.randn(1, 2, 33, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for sigma in (0.0, 0.3, 2.0, 19.0):
        naive = np.stack([template_blurred(channel, sigma) for channel in x[0].numpy()])
        np.testing.assert_allclose(blurred(x, sigma)[0].numpy(), naive, atol=1e-12)
    assert torch.equal(blurred(x, 0.0), x)
    assert kernel(torch.tensor([19.0, 0.0]), 31).sum(1).tolist() == pytest.approx([1, 1])
    two = torch.cat([x, x])
    assert torch.allclose(blurred(two, torch.tensor([2.0, 19.0])), torch.cat([blurred(x, 2.0), blurred(x, 19.0)]))
    with pytest.raises(BadInput, match="needs pictures of more than 15 pixels, found 12 x 40"):
        blurred(x[:, :, :12], 2.0)
    with pytest.raises(BadInput, match="is odd, found 30"):
        blurred(x, 2.0, 30)


@pytest.mark.parametrize("curve", [blur_curve(), straight_curve(-1.0), straight_curve(lambda x: blurred(x, 9.0))])
def test_a_scouted_path_leads_from_the_baseline_to_the_picture(curve: Curve) -> None:
    probe = Probe(subject(), (INPUT,), Joints())
    _, seen = probe.ask(batch())
    path = scouted(curve, probe, seen)
    zero = torch.zeros(N)
    assert torch.allclose(sum(step for _, step in path(seen.x, 5)), seen.x - curve(seen.x, zero))
    assert torch.allclose(curve(seen.x, zero + 1), seen.x, atol=1e-12)
    found = poseig(probe, seen, path=path, steps=12)
    assert found.notes["completeness_residual"].abs().max() < 0.1


def test_one_sample_does_not_change_another() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()
    together = poseig(probe, seen, steps=5)[INPUT]
    alone = torch.cat([poseig(probe, seen.take([n]), steps=5)[INPUT] for n in range(N)], 1)
    assert torch.allclose(together, alone)


@pytest.mark.parametrize("rule", ["midpoint", "left"])
@pytest.mark.parametrize("bend", [1.0, 2.0, 3.0])
def test_steps_lead_from_the_blurred_picture_to_the_picture(rule: str, bend: float) -> None:
    x = batch().x
    walked = list(blur(19, 31, rule, bend)(x, 5))
    assert len(walked) == 5
    assert torch.allclose(sum(step for _, step in walked), x - blurred(x, 19.0))
    if rule == "left":
        assert torch.allclose(walked[0][0], blurred(x, 19.0))


def test_poseig_is_integrated_gradients_of_the_core() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch([[1, 1, 0, 1], [1, 0, 0, 0]])
    for path in (blur(9, 15), straight()):
        mine, cores = poseig(probe, seen, path=path, steps=7), integrated_gradients(probe, seen, path=path, steps=7)
        assert torch.allclose(mine[INPUT], cores[INPUT])
        gap = "completeness_residual"
        assert torch.allclose(mine.notes[gap], cores.notes[gap], atol=1e-9)


def test_completeness_and_tolerance() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()
    coarse = poseig(probe, seen, steps=2)
    at_start, _ = probe.ask(seen.at(blurred(seen.x, 19.0)))
    change = coarse.scores.value - at_start.value
    gap = coarse[INPUT].sum((-3, -2, -1)) - change
    assert torch.allclose(coarse.notes["completeness_residual"], gap)
    fine = poseig(probe, seen, steps=2, tolerance=0.02)
    assert fine.notes["completeness_residual"].abs().max() <= 0.02 < gap.abs().max()
    assert fine.notes["steps"].unique().tolist() in ([4.0], [8.0], [16.0], [32.0], [64.0])
    short = poseig(probe, seen, steps=2, tolerance=1e-12, most=8)
    assert short.notes["steps"].unique().tolist() == [8.0]
    with pytest.raises(BadInput, match="tolerance is 0"):
        poseig(probe, seen, tolerance=0.0)


def test_the_default_needs_fewer_steps_than_the_template() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()

    def gap(steps: int, path: Path | None = None) -> float:
        return float(poseig(probe, seen, path=path, steps=steps).notes["completeness_residual"].abs().mean())

    assert gap(16) < gap(50, blur(19, 31, "left", bend=1))


def test_joints_that_are_not_annotated_are_not_asked() -> None:
    seen = batch([[1, 0, 1, 1], [0, 0, 1, 0]])
    probe = Probe(subject(), (INPUT,), Joints(names=("a", "b", "c", "d")))
    scores, pinned = probe.ask(seen)
    assert scores.labels == (("a", "c"), ("c", ""), ("d", ""))
    assert pinned.asked["joints"].tolist() == [[0, 2, 3], [2, -1, -1]]
    assert scores.value[1:, 1].tolist() == [0, 0]
    found = poseig(probe, seen, path=blur(), steps=2)[INPUT]
    alone = poseig(probe, seen.take([1]), path=blur(), steps=2)[INPUT]
    assert torch.allclose(found[0, 1], alone[0, 0])
    assert found[1:, 1].abs().max() == 0
    single = Probe(subject(), (INPUT,), Joints(only=("c",), names=("a", "b", "c", "d")))
    assert torch.allclose(poseig(single, seen, path=blur(), steps=2)[INPUT][0, 0], found[1, 0])


def test_the_score_is_its_formula_and_follows_regression() -> None:
    points = torch.tensor([[[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]]])
    seen = Batch(torch.zeros(1, 3, 4, 4), truth={"coordinates": torch.zeros(1, 2, 3), "weight": torch.ones(1, 2)})
    value = Joints()(points, seen).value
    assert value[:, 0].tolist() == pytest.approx([math.exp(-1.5), math.exp(-0.3 * 3**0.5)])


def test_bad_outputs_and_truths_are_named() -> None:
    flat = Probe(subject(nn.Sequential(net(), nn.Flatten())), (INPUT,), Joints())
    with pytest.raises(BadInput, match=r"pose targets need heatmaps .* the model gave \(2, 360\)"):
        flat.ask(batch())
    with pytest.raises(BadInput, match="the batch has no truth\\['heatmaps'\\]"):
        Probe(subject(), (INPUT,), Joints()).ask(Batch(batch().x))
    wrong = batch()
    wrong.truth["heatmaps"] = wrong.truth["heatmaps"][:, :, :5]
    with pytest.raises(BadInput, match="check the number of joints"):
        Probe(subject(), (INPUT,), Joints()).ask(wrong)
    with pytest.raises(BadInput, match="there are 4 joints"):
        joint_index("7", (), 4)
    with pytest.raises(BadInput, match=r"no joint 'nos'\. Did you mean nose"):
        joint_index("nos", ("nose", "ear"), 2)


class Breaks(torch.autograd.Function):
    """The identity, whose gradient has two NaN."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        grad[:, 0, 0, :2] = float("nan")
        return grad


def test_gradients_that_are_not_finite_count_as_zero_and_are_counted() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(Breaks.apply(x))

    found = poseig(Probe(subject(Broken()), (INPUT,), Joints()), batch(), steps=3)
    assert found[INPUT].isfinite().all()
    assert found.notes["nan_gradients"].tolist() == [[6.0] * N] * J


def test_noise_is_repeatable_and_scaled_by_the_range() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()
    plain, noisy = poseig(probe, seen, steps=3), poseig(probe, seen, steps=3, noise=0.01, seed=4)
    assert torch.equal(noisy[INPUT], poseig(probe, seen, steps=3, noise=0.01, seed=4)[INPUT])
    assert not torch.equal(noisy[INPUT], plain[INPUT])
    close = poseig(probe, seen, steps=3, noise=1e-9)
    assert torch.allclose(close[INPUT], plain[INPUT], atol=1e-6)


def test_power_is_taken_channel_by_channel() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()
    channels = [poseig(probe, seen, path=partial(only_channel, c), steps=3)[INPUT] for c in range(3)]
    assert torch.allclose(sum(channels), poseig(probe, seen, path=blur(), steps=3)[INPUT])
    assert torch.allclose(sum(part**2 for part in channels), poseig(probe, seen, path=blur(), steps=3, power=2)[INPUT])


def only_channel(c: int, x: Tensor, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    keep = torch.zeros(1, 3, 1, 1, dtype=x.dtype)
    keep[:, c] = 1
    for point, step in blur()(x, steps):
        yield point, step * keep


def test_nothing_is_left_behind() -> None:
    module = net().train()
    poseig(Probe(subject(module), (INPUT,), Joints()), batch(), steps=2)
    assert all(part.training for part in module.modules())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_soft_argmax_is_the_naive_sum() -> None:
    heatmaps = torch.rand(1, 2, 5, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    made = soft_argmax(heatmaps)
    for j in range(2):
        np.testing.assert_allclose(made[0, j].numpy(), template_soft_argmax(heatmaps[0, j].numpy()))
    centre = soft_argmax(torch.zeros(1, 1, 5, 7))
    assert centre.flatten().tolist() == pytest.approx([3, 2])


def test_peaks_are_the_naive_loop() -> None:
    heatmaps = torch.rand(5, 8, 9, 7, generator=torch.Generator().manual_seed(4)).numpy() - 0.1
    heatmaps[0, 0] = -1
    heatmaps[0, 1], heatmaps[0, 2] = 0, 0
    heatmaps[0, 1, 4, 1] = heatmaps[0, 2, 4, 2] = 1
    heatmaps[0, 2, 4, 3] = 0.5
    made, height = peaks(torch.from_numpy(heatmaps))
    for n in range(5):
        for j in range(8):
            one = heatmaps[n, j]
            row, column = divmod(int(one.argmax()), 7)
            at = np.array([column, row], float) if one.max() > 0 else np.zeros(2)
            if 1 < at[0] < 6 and 1 < at[1] < 8:
                at[0] += 0.25 * np.sign(one[row, column + 1] - one[row, column - 1])
                at[1] += 0.25 * np.sign(one[row + 1, column] - one[row - 1, column])
            np.testing.assert_allclose(made[n, j].numpy(), at)
            assert float(height[n, j]) == one.max()
    assert made[0, 1].tolist() == [1, 4]
    assert made[0, 2].tolist() == [2.25, 4]
    assert (peaks(torch.from_numpy(heatmaps), shift=False)[0] % 1 == 0).all()


def test_the_flip_test_of_a_symmetric_network_changes_nothing() -> None:
    heatmaps = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(5))
    seen_in_mirror = heatmaps.flip(-1)[:, [0, 2, 1]]
    assert torch.allclose(merge_mirrored(heatmaps, seen_in_mirror, [(1, 2)], shift=False), heatmaps)
    shifted = merge_mirrored(heatmaps, seen_in_mirror, [(1, 2)], shift=True)
    assert torch.allclose(shifted[..., 1:], (heatmaps[..., 1:] + heatmaps[..., :-1]) / 2)
    assert torch.allclose(shifted[..., 0], heatmaps[..., 0])


def test_gauss_legendre_takes_the_exact_derivative_of_the_curve() -> None:
    x = batch().x
    for curve in (blur_curve(9.0, 15), straight_curve(lambda x: blurred(x, 9.0))):
        for (point, step), node, weight in zip(
            gauss_legendre(curve)(x, 4), *quadrature(4, "gauss-legendre"), strict=True
        ):
            at = torch.full((N,), node, dtype=torch.float64)
            assert torch.allclose(point, curve(x, at))
            slope = (curve(x, at + 1e-6) - curve(x, at - 1e-6)) / 2e-6
            assert torch.allclose(step, weight * slope, atol=1e-7)
    # on a straight line steps are exact, and a network that is linear has no residual with one point
    linear = Probe(subject(nn.Conv2d(3, J, 1).double()), (INPUT,), Joints(score=height))
    curve = straight_curve(0.0)
    one = poseig(linear, batch(), path=gauss_legendre(curve), start=torch.zeros_like, steps=1)
    assert one.notes["completeness_residual"].abs().max() < 1e-9


def height(output: Tensor, _: Batch) -> Tensor:
    return output[:, :, 3, 4]


def test_the_residual_of_gauss_legendre_is_taken_at_the_path_s_own_start() -> None:
    probe, seen = Probe(subject(), (INPUT,), Joints()), batch()
    curve = blur_curve()
    found = poseig(probe, seen, path=gauss_legendre(curve), start=lambda x: blurred(x, 19.0), steps=48)
    end, start = probe.ask(seen)[0].value, probe.ask(seen.at(blurred(seen.x, 19.0)))[0].value
    gap = found[INPUT].sum((-3, -2, -1)) - (end - start)
    assert torch.allclose(found.notes["completeness_residual"], gap)
    assert gap.abs().max() < 0.05


def test_a_picture_of_another_memory_format_is_blurred_alike() -> None:
    x = batch().x
    assert torch.allclose(blurred(x.to(memory_format=torch.channels_last), 3.0), blurred(x, 3.0))


def held() -> int:
    """Bytes of all tensors that are alive."""
    storages = (one.untyped_storage() for one in gc.get_objects() if type(one) in (Tensor, nn.Parameter))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_memory_grows_by_one_map_a_joint_and_not_with_steps() -> None:
    module = net()

    def peak(steps: int, joints: int) -> int:
        seen: list[int] = []

        def watched(x: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
            for i, (point, step) in enumerate(blur()(x, count)):
                # looking at all that is alive takes a while
                if i in (1, count - 1):
                    seen.append(held())
                yield point, step

        asked = batch([[1.0] * joints + [0.0] * (J - joints)] * N)
        gc.collect()
        before = held()
        poseig(Probe(subject(module), (INPUT,), Joints()), asked, path=watched, steps=steps)
        return max(seen) - before

    peak(2, J)
    # the places of the steps themselves are a few numbers each
    assert peak(24, J) == pytest.approx(peak(3, J), abs=1000)
    one_map = N * H * W * 8
    assert peak(3, J) - peak(3, 1) == pytest.approx((J - 1) * one_map, abs=1000)


def test_a_pose_model_is_asked_how_sure_it_is_of_a_joint() -> None:
    probe, seen = Probe(subject(), (INPUT,), Peaks(top=2)), batch()
    with torch.no_grad():
        heights = net()(seen.x).flatten(2).amax(2)
    scores, pinned = probe.ask(seen)
    order = heights.sort(1, descending=True)
    assert torch.allclose(scores.value.T, order.values[:, :2])
    assert pinned.asked["joints"].tolist() == order.indices[:, :2].tolist()
    assert scores.labels[0] == tuple(f"joint {j}" for j in order.indices[:, 0].tolist())
    named, _ = Probe(subject(), (INPUT,), surest(["b", "3"], ("a", "b", "c", "d"))).ask(seen)
    assert torch.allclose(named.value.T, heights[:, [1, 3]])
    assert named.labels == (("b", "b"), ("d", "d"))
    assert surest([]) == surest(["predicted"]) == Peaks()
    assert surest(["top3"]) == Peaks(top=3)
    with pytest.raises(BadInput, match="joints 1 and top2 at once"):
        surest(["1", "top2"])
    with pytest.raises(BadInput, match="there are 4 joints, 0 to 3"):
        Probe(subject(), (INPUT,), surest(["9"])).ask(seen)
    with pytest.raises(BadInput, match="only heatmaps tell how sure"):
        Peaks()(torch.zeros(1, 4, 2), Batch(torch.zeros(1, 3, 4, 4)))


def test_each_picture_is_asked_about_a_joint_of_its_own() -> None:
    seen, names = batch(), tuple("abcd")
    with torch.no_grad():
        heights = net()(seen.x).flatten(2).amax(2)
    words = ("c", "predicted", "0")[:N]
    probe = Probe(subject(), (INPUT,), Peaks(words, each=True, names=names))
    scores, _ = probe.ask(seen)
    wanted = [{"c": 2, "0": 0}.get(word, int(heights[n].argmax())) for n, word in enumerate(words)]
    assert torch.allclose(scores.value[0], heights[range(N), wanted])
    assert scores.labels == (tuple(names[j] for j in wanted),)
    with pytest.raises(BadInput, match=f"1 joints for {N} pictures"):
        Probe(subject(), (INPUT,), Peaks(("c",), each=True, names=names)).ask(seen)
    with pytest.raises(BadInput, match="no joint 'c'. Joints have no names here: give a number from 0 to 3"):
        Probe(subject(), (INPUT,), Peaks(("c",) * N, each=True)).ask(seen)
