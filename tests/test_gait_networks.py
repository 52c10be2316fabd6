from __future__ import annotations

import numpy as np
import pytest
import torch
from gait_formula import SHARED, needs_reference, poses, reference, silhouettes, weights
from gait_models import MODELS, deepgait, gaitset

from torchloupe.errors import BadInput
from torchloupe.networks.gait import NETWORKS, leaves
from torchloupe.networks.gait.blocks import FocalConv2d, pyramid
from torchloupe.networks.gait.gaitgl import GeMHPP, GLConv
from torchloupe.networks.gait.gaitpart import TemporalAggregator
from torchloupe.networks.gait.skeletons import COCO, OPENPOSE, adjacency, joints_velocity_bones, positions_steps_bones

VECTORS = [
    *(["gaitset_casiab", "gaitpart_casiab", "gaitgl_casiab", "gln_p1_casiab", "gln_p2_casiab", "gaitbase_casiab"]),
    *(["deepgaitv2_casiab", "skeletongait_gait3d", "skeletongaitpp_gait3d"]),
    *(["gaitgraph1_casiab", "gaitgraph2_casiab_notta", "gaittr_gait3d"]),
]
SEED_TABLE = {
    "gaitbase_casiab": [1, 5, 8, 10, 13, 17, 20, 24, 27],
    "gaitset_casiab": [1, 3, 6, 8, 11, 13, 15, 17, 20, 22],
    "gaitpart_casiab": [1, 3, 6, 8, 11, 13],
    "gln_p1_casiab": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 26, 29],
    "gln_p2_casiab": [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 26, 29],
    "gaitgl_casiab": [1, 3, 5, 6, 8, 9, 10, 11],
}


def network(name: str) -> torch.nn.Module:
    config, dataset = MODELS[name]
    return NETWORKS[config["model"]](config, dataset).eval()


@needs_reference
@pytest.mark.parametrize("name", MODELS)
def test_every_key_and_shape_and_leaf_number_is_the_published_one(name):
    want = reference("keys", name)
    with torch.device("meta"):
        module = network(name)
    got = {key: list(value.shape) for key, value in module.state_dict().items()}
    assert got == {key: value["shape"] for key, value in want["state_dict"].items()}
    assert leaves(module) == {number: leaf for number, leaf, _ in want["leaf_modules"]}


@needs_reference
@pytest.mark.parametrize("name", VECTORS)
def test_embedding_is_that_of_the_real_model(name):
    facts = reference("vectors", "summary")[name]
    module = network(name.removesuffix("_notta"))
    if name.endswith("_notta"):
        module.thrice = False
    shape = tuple(facts["input_shapes"][0])
    if "graph" in name or "gaittr" in name:
        x = poses(shape)
    elif len(shape) == 5:
        x = silhouettes(shape[1], *shape[3:], channels=shape[2])
    else:
        x = silhouettes(*shape[1:])
    module.load_state_dict(weights(module, facts["gain"]))
    want = torch.tensor(np.load(SHARED / "vectors" / f"{name}.npy"))
    with torch.no_grad():
        got = module(x)
    # GLN's reference was rounded in float32 over 23 000 products: it is itself 6e-5 away from float64
    tolerance = 1e-4 if name.startswith("gln") else 1e-5
    assert got.shape == want.shape
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("name", SEED_TABLE)
def test_the_numbers_of_the_seed_are_convolutions(name):
    with torch.device("meta"):
        module = network(name)
    numbered = leaves(module)
    for number in SEED_TABLE[name]:
        assert type(module.get_submodule(numbered[number])).__name__ in ("Conv2d", "Conv3d")


def test_pyramid_and_gem_against_loops():
    x = torch.rand(1, 2, 8, 3, dtype=torch.float64)
    got = pyramid(x, (4, 1))
    gem = GeMHPP(8).double()
    for c in range(2):
        for i in range(4):
            strip = [float(x[0, c, row, column]) for row in (2 * i, 2 * i + 1) for column in range(3)]
            assert float(got[0, c, i]) == pytest.approx(sum(strip) / 6 + max(strip))
        assert float(got[0, c, 4]) == pytest.approx(float(x[0, c].mean() + x[0, c].max()))
        for row in range(8):
            powers = [float(x[0, c, row, column]) ** 6.5 for column in range(3)]
            assert float(gem(x)[0, c, row].detach()) == pytest.approx((sum(powers) / 3) ** (1 / 6.5))


def test_focal_and_local_convolutions_do_not_see_across_strips():
    focal, local = FocalConv2d(1, 1, 3, 1, halving=1), GLConv(1, 1, halving=1, stack=True)
    x = torch.rand(1, 1, 8, 4)
    changed = x.clone()
    changed[:, :, 4:] += 1
    assert torch.equal(focal(x)[:, :, :4], focal(changed)[:, :, :4])
    before, after = local(x[:, :, None]), local(changed[:, :, None])
    assert before.shape == (1, 1, 1, 16, 4)
    assert torch.equal(before[..., 8:12, :], after[..., 8:12, :])
    assert not torch.equal(before[..., 3:4, :], after[..., 3:4, :])


def test_temporal_aggregator_against_loops():
    torch.manual_seed(0)
    module = TemporalAggregator(4, 2).double()
    x = torch.randn(1, 4, 5, 2, dtype=torch.float64)
    got = module(x)
    for p in range(2):
        part = x[:, :, :, p]
        gates = [module.conv1d3x1[p](part).sigmoid()[0], module.conv1d3x3[p](part).sigmoid()[0]]
        for c in range(4):
            best = -np.inf
            for t in range(5):
                total = 0.0
                for gate, reach in zip(gates, (1, 2), strict=True):
                    window = [float(part[0, c, s]) for s in range(t - reach, t + reach + 1) if 0 <= s < 5]
                    total += gate[c, t].item() * (sum(window) / (2 * reach + 1) + max(window))
                best = max(best, total)
            assert float(got[0, c, p]) == pytest.approx(best)


@pytest.mark.parametrize("mode", ["2d", "3d"])
def test_other_modes_of_deepgait_run_and_3d_mixes_frames(mode):
    module = NETWORKS["DeepGaitV2"](deepgait(4, [1, 1, 1, 1], mode=mode), "").eval()
    x = silhouettes(3, 64, 44)
    assert module(x).shape == (1, 256, 16)
    name = "layer2.forward_block.0.conv1.weight" if mode == "2d" else "layer2.0.conv1.weight"
    assert module.state_dict()[name].shape == ((128, 64, 3, 3) if mode == "2d" else (128, 64, 3, 3, 3))


def test_a_batch_is_the_same_as_one_by_one():
    torch.manual_seed(0)
    for name in ("gaitset_casiab", "gaitpart_casiab", "gaitgl_casiab", "gaitbase_casiab"):
        module = network(name)
        x = torch.cat([silhouettes(4, 64, 44), silhouettes(4, 64, 44).flip(1)])
        with torch.no_grad():
            torch.testing.assert_close(module(x), torch.cat([module(x[:1]), module(x[1:])]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2])
def test_gaitgl_takes_fewer_frames_than_its_window(frames):
    with torch.no_grad():
        assert network("gaitgl_casiab")(silhouettes(frames, 64, 44)).shape == (1, 128, 64)


def test_adjacency_counts_hops_and_its_columns_sum_to_one():
    for shape in (COCO, OPENPOSE):
        matrix = adjacency(shape)
        torch.testing.assert_close(matrix.sum((0, 1)), torch.ones(len(shape.joints)))
        assert (matrix[0] > 0).sum() == len(shape.joints)
        assert matrix[1, 0, 1] > 0
        assert matrix[0, 0, 1] == 0


def test_inputs_of_skeleton_models_against_loops():
    rng = np.random.default_rng(0)
    pose = torch.tensor(rng.normal(size=(4, 17, 3)))
    made, flat = joints_velocity_bones(pose, COCO, 0), positions_steps_bones(pose, COCO)
    for t in range(4):
        for v in range(17):
            x, y, score = pose[t, v].tolist()
            bone = pose[t, v, :2] - pose[t, COCO.parents[v], :2]
            moved = t < 2
            step = (pose[t + 1, v] - pose[t, v]).tolist() if moved else [0, 0]
            leap = (pose[t + 2, v] - pose[t, v]).tolist() if moved else [0, 0]
            middle = (pose[t, v] - pose[t, 0]).tolist()
            angle = np.arccos(float(bone[1]) / (float(bone.square().sum()) ** 0.5 + 0.0001))
            np.testing.assert_allclose(made[t, v, 0], [x, y, score, middle[0], middle[1]])
            np.testing.assert_allclose(made[t, v, 1], [step[0], step[1], 0, score, leap[1]])
            np.testing.assert_allclose(made[t, v, 2], [bone[0], bone[1], 0, score, angle])
            np.testing.assert_allclose(flat[t, v], [x, y, *middle[:2], *step[:2], *leap[:2], *bone.tolist()])


def test_tta_of_skeleton_models_averages_or_joins_the_passes():
    torch.manual_seed(0)
    one, two = network("gaitgraph1_casiab"), network("gaitgraph2_casiab")
    one.load_state_dict({key: value * 3 if value.dim() == 4 else value for key, value in one.state_dict().items()})
    x = torch.randn(1, 3, 12, 17, 1)
    with torch.no_grad():
        passes = [one.ResGCN(x[..., 0][:, None]), one.ResGCN(x.flip(2)[..., 0][:, None])]
        # each pass has unit length, their mean has not
        want = sum(out / out.norm(dim=1) for out in passes) / 2
        torch.testing.assert_close(one(x)[..., 0], want)
        assert want.norm() < 0.9999
        pose = torch.rand(1, 12, 17, 3)
        made = joints_velocity_bones(pose[0], COCO, 0)[None]
        assert two(made).shape == (1, 384, 1)
        mirrored = joints_velocity_bones(pose[0][:, list(COCO.mirror)], COCO, 0)[None]
        two.thrice = False
        plain, third = two(made), two(mirrored)
        two.thrice = True
        torch.testing.assert_close(two(made)[:, :128], plain)
        torch.testing.assert_close(two(made)[:, 256:], third)


def test_only_the_models_that_read_use_emb2_embed_behind_the_neck():
    plus = {"Backbone": {"in_channels": 3, "blocks": [1, 1, 1, 1], "C": 1}, "SeparateBNNecks": {"class_num": 4}}
    for name, config, channels in (
        ("DeepGaitV2", deepgait(4, [1, 1, 1, 1]), None),
        ("SkeletonGaitPP", plus, 3),
        ("Baseline", MODELS["gaitbase_casiab"][0], None),
    ):
        module = NETWORKS[name]({**config, "use_emb2": True}, "").eval()
        with torch.no_grad():
            length = module(silhouettes(2, 64, 44, channels)).norm(dim=1)
        assert torch.allclose(length, torch.ones_like(length), atol=1e-5) == (name != "Baseline")


def test_what_is_not_built_is_said():
    with pytest.raises(BadInput, match="expected one of 2d, 3d, p3d"):
        NETWORKS["DeepGaitV2"](deepgait(4, [1, 1, 1, 1], mode="4d"), "")
    config = {**MODELS["gaitbase_casiab"][0], "backbone_cfg": {"type": "ResNet50"}}
    with pytest.raises(BadInput, match="ResNet50 is not known"):
        NETWORKS["Baseline"](config, "")
    with pytest.raises(KeyError):
        NETWORKS["GaitSet"]({key: value for key, value in gaitset([1, 1, 1]).items() if key != "bin_num"}, "")
