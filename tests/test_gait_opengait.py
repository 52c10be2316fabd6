from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gait_fixtures import SMALL, write_config, write_walkers
from gait_formula import SHARED, needs_reference, reference
from gait_models import MODELS, gaitgraph, gaittr

import torchloupe as loupe
from torchloupe.errors import BadInput, LoupeWarning, UnsafeFile
from torchloupe.networks.gait import NETWORKS
from torchloupe.networks.gait.layers import passes, seen, windows
from torchloupe.networks.gait.skeletons import COCO, positions_steps_bones
from torchloupe.sources.configs import opengait_default
from torchloupe.sources.opengait import (
    MARKS,
    example,
    gait,
    layer_facts,
    load_weights,
    pick_layers,
)
from torchloupe.sources.opengait_config import build, read_config
from torchloupe.sources.sequences import Walk, sequences
from torchloupe.sources.walk_inputs import TRANSFORMS, prepare, transformed


def walk_of(folder: Path, **arrays: np.ndarray) -> Walk:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(array))
    return sequences(folder)[0] if not arrays else Walk("1", "nm-01", "000", tuple(sorted(folder.glob("*.pkl"))))


def grey(*shape: int, top: int = 255) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top + 1, shape).astype(np.uint8)


def test_a_config_is_merged_over_the_default_of_its_tree(tmp_path):
    tree = tmp_path / "OpenGait" / "configs"
    (tree / "gaitset").mkdir(parents=True)
    below = {"evaluator_cfg": {"metric": "cos", "save_name": "x", "transform": [{"type": "BaseSilTransform"}]}}
    (tree / "default.yaml").write_text(yaml.safe_dump(below))
    own = {"model_cfg": SMALL["gaitset"], "evaluator_cfg": {"save_name": "GaitSet", "restore_hint": 40}}
    file = tree / "gaitset" / "gaitset.yaml"
    file.write_text(yaml.safe_dump(own))
    config = read_config(file)
    assert config.merged == tree / "default.yaml"
    assert (config.metric, config.dataset) == ("cos", "CASIA-B")
    assert config.transforms == [{"type": "BaseSilTransform"}]
    assert config.checkpoint == Path("output/CASIA-B/GaitSet/GaitSet/checkpoints/GaitSet-00040.pt")
    (tree / "default.yaml").unlink()
    alone = read_config(file)
    assert alone.merged is None
    assert (alone.metric, alone.transforms) == ("euc", [{"type": "BaseSilCuttingTransform"}])


def test_the_default_yaml_is_the_nearest_that_is_opengaits(tmp_path, monkeypatch):
    beside, tree = tmp_path / "deep" / "down" / "mine", tmp_path / "deep" / "configs"
    for folder in (beside, tree, tmp_path / "cwd" / "configs"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    file = beside / "a.yaml"
    file.write_text("model_cfg: {model: GaitSet}")
    assert opengait_default(file) is None
    (tmp_path / "cwd" / "configs" / "default.yaml").write_text("trainer_cfg: {total_iter: 3}")
    assert opengait_default(file) == Path("configs/default.yaml")
    (tree / "default.yaml").write_text("trainer_cfg: {total_iter: 2}")
    assert opengait_default(file) == tree / "default.yaml"
    (beside / "default.yaml").write_text("colour: blue\n")  # of another tool
    assert opengait_default(file) == tree / "default.yaml"
    (beside / "default.yaml").write_text("trainer_cfg: {total_iter: 1}")
    assert opengait_default(file) == beside / "default.yaml"
    assert opengait_default(beside / "default.yaml") == tree / "default.yaml"
    (beside / "default.yaml").write_text("trainer_cfg: {")
    with pytest.raises(BadInput, match=r"default\.yaml: cannot be read as a config in YAML"):
        opengait_default(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_cfg: {model: GaitSet", r"x\.yaml: cannot be read as an OpenGait config .*line \d+"),
        ("- 1", "holds list; expected an OpenGait config"),
        ("data_cfg: {}", "model_cfg.model is missing"),
        ("data_cfg: [{}]\nmodel_cfg: {model: GaitSet}", "data_cfg is a list"),
    ],
)
def test_a_file_that_is_no_config_is_said(tmp_path, text, message):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_config(file)
    with pytest.raises(BadInput, match="no such file; expected an OpenGait config"):
        read_config(tmp_path / "y.yaml")


def test_a_model_that_is_not_built_in_or_lacks_an_entry_is_said(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("model_cfg: {model: GaitSets}")
    with pytest.raises(BadInput, match=r"GaitSets is not built in. Did you mean GaitSet.*--opengait DIR"):
        build(read_config(file))
    file.write_text("model_cfg: {model: GaitSet, in_channels: [1, 2, 3, 4]}")
    with pytest.raises(BadInput, match="model_cfg of GaitSet lacks 'SeparateFCs'"):
        build(read_config(file))
    file.write_text(yaml.safe_dump({"model_cfg": {**SMALL["gaitset"], "in_channels": [1, 2]}}))
    with pytest.raises(BadInput, match="model_cfg does not make a GaitSet"):
        build(read_config(file))


@needs_reference
def test_what_a_checkpoint_looks_like_is_told_for_every_known_model():
    for file in sorted((SHARED / "keys").glob("*.json")):
        known = reference("keys", file.stem)
        guess = next((name for name, marks in MARKS if all(mark in known["state_dict"] for mark in marks)), None)
        # ScoNet has the keys of Baseline; SMPLGait and others have no marks
        alike = {"ScoNet": "Baseline"}.get(known["class"], known["class"])
        assert guess in (alike, None), file.stem
        assert guess is not None or known["class"] not in NETWORKS


def test_other_heads_are_told_and_tolerated_other_models_refused(tmp_path):
    config, _ = MODELS["gaitgl_casiab"]
    small = {**config, "channels": [2, 3, 4]}
    own = NETWORKS["GaitGL"](small, "CASIA-B")
    other = NETWORKS["GaitGL"]({**small, "class_num": 9}, "CASIA-B")
    assert load_weights(own, other.state_dict(), "x.pt", "GaitGL") == ("Head1.fc_bin",)
    torch.testing.assert_close(own.Head0.fc_bin, other.Head0.fc_bin)
    prefixed = {f"module.{key}": value for key, value in other.state_dict().items()}
    assert load_weights(own, prefixed, "x.pt", "GaitGL") == ("Head1.fc_bin",)
    wide = NETWORKS["GaitGL"]({**config, "channels": [2, 3, 5]}, "CASIA-B").state_dict()
    with pytest.raises(BadInput, match=r"x.pt: a GaitGL of another config: \S+ is \(.*take the config"):
        load_weights(own, wide, "x.pt", "GaitGL")
    with pytest.raises(BadInput, match="not a checkpoint of GaitGL: .*; it looks like GaitSet"):
        load_weights(own, NETWORKS["GaitSet"](SMALL["gaitset"], "").state_dict(), "x.pt", "GaitGL")


def test_a_subject_by_its_spec_loads_and_warns(tmp_path):
    file = write_config(tmp_path, "gaitgl")
    other = write_config(tmp_path, "other", {**SMALL["gaitgl"], "class_num": 8})
    with pytest.warns(LoupeWarning, match="Head1.fc_bin do not fit the config; the embedding does not use them"):
        made = loupe.subject(f"opengait:{file}", weights=other.with_suffix(".pt"))
    assert made.kind == "embedder"
    assert made.notes["weights"]["left aside"] == ["Head1.fc_bin"]
    assert len(made.notes["weights"]["sha256"]) == 64
    with pytest.raises(BadInput, match="no such weights file"):
        loupe.subject(f"opengait:{file}", weights=tmp_path / "nowhere.pt")
    with pytest.raises(BadInput, match="no option 'size'; expected checkout=DIR"):
        loupe.subject(f"opengait:{file}?size=3")
    torch.save({"model": write_walkers}, tmp_path / "code.pt")
    with pytest.raises(UnsafeFile):
        loupe.subject(f"opengait:{file}", weights=tmp_path / "code.pt")


@pytest.mark.parametrize(
    ("kind", "array", "want"),
    [
        ("BaseSilCuttingTransform", grey(2, 64, 64), lambda a: a[..., 10:54] / 255),
        ("BaseSilCuttingTransform", grey(2, 128, 128), lambda a: a[..., 20:108] / 255),
        ("BaseSilCuttingTransform", grey(2, 64, 44), lambda a: a / 255),
        ("BaseSilTransform", grey(2, 64, 44), lambda a: a / 255),
        ("BaseParsingCuttingTransform", grey(2, 64, 64, top=11), lambda a: a[..., 10:54]),
        ("NoOperation", grey(2, 3), lambda a: a),
        ("SkeletonInput", grey(2, 17, 3), lambda a: a.transpose(0, 2, 1)[..., None]),
        ("GaitGraph1Input", grey(2, 17, 3), lambda a: a.transpose(2, 0, 1)[..., None]),
    ],
)
def test_transforms(kind, array, want, tmp_path):
    np.testing.assert_allclose(transformed(array, {"type": kind, "img_w": 64}, tmp_path), want(array))


@pytest.mark.parametrize(
    ("transform", "array", "want"),
    [
        ({"type": "BaseSilCuttingTransform", "divsor": 1.0}, grey(2, 64, 64, top=1), lambda a: a[..., 10:54]),
        ({"type": "BaseSilTransform", "divsor": 1.0}, grey(2, 64, 44, top=1).astype(bool), lambda a: a * 1.0),
        ({"type": "BaseSilTransform", "divsor": 1}, grey(2, 64, 44) / 255, lambda a: a),
        ({"type": "BaseSilTransform", "divsor": 1.0}, grey(2, 64, 44), lambda a: a),
        ({"type": "RatioHW"}, grey(3, 2) + 1, lambda a: a[:, 1] / a[:, 0]),
        ({"type": "Rearrange", "source": "t h w c", "destination": "t c h w"}, grey(2, 5, 4, 3), lambda a: a.transpose(0, 3, 1, 2)),
        ({"type": "SelectSequenceCenter", "sequence_length": 4}, grey(9, 17, 3), lambda a: a[2:6]),
        ({"type": "SelectSequenceCenter", "sequence_length": 4}, grey(8, 17, 3), lambda a: a[2:6]),
        ({"type": "SelectSequenceCenter", "sequence_length": 5}, grey(8, 17, 3), lambda a: a[1:6]),
        ({"type": "SelectSequenceCenter"}, grey(10, 17, 3), lambda a: a),
    ],
)  # fmt: skip
def test_transforms_with_options(transform, array, want, tmp_path):
    made = transformed(array, transform, tmp_path)
    np.testing.assert_allclose(made, want(array))
    assert made.dtype.kind in "uif"


@pytest.mark.parametrize(
    ("transform", "array", "message"),
    [
        ({"type": "SelectSequenceCenter", "sequence_length": 6}, grey(5, 17, 3), "5 frames; .* sequence_length 6"),
        ({"type": "BaseSilTransform", "divsor": 2.0}, grey(2, 64, 44, top=1), "values 0 to 1; expected grey values 0 to 255"),
        ({"type": "BaseSilTransform", "divsor": 0}, grey(2, 64, 44), "divsor 0; expected a number above 0"),
        ({"type": "BaseSilTransform", "divsor": "x"}, grey(2, 64, 44), "divsor 'x'; expected a number above 0"),
        ({"type": "PointCloudsTransform"}, grey(2, 5, 3), "point clouds are not read"),
        ({"type": "RandomRotate"}, grey(2, 64, 44), "RandomRotate .*by chance; .*evaluator"),
    ],
)  # fmt: skip
def test_transforms_that_do_not_fit_are_said(transform, array, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        transformed(array, transform, tmp_path / "x.pkl")


def test_a_centre_crop_of_poses_crops_what_is_drawn_too(tmp_path):
    model = gaitgraph("GaitGraph1", "coco", [3, 8, 8], [8, 8], 4, 6)
    steps = [{"type": "SelectSequenceCenter", "sequence_length": 4}, {"type": "GaitGraph1Input"}]
    sampler = {"sample_type": "fixed_ordered", "frames_num_fixed": 10}
    blocks = {"evaluator_cfg": {"sampler": sampler, "transform": [{"type": "Compose", "trf_cfg": steps}]}}
    file = write_config(tmp_path, "g1", model, **blocks)
    pose = np.random.default_rng(0).random((20, 17, 3)) + 0.1
    batch = prepare(walk_of(tmp_path / "data", a=pose), read_config(file))
    np.testing.assert_allclose(batch.x[0, ..., 0].numpy(), pose[8:12].transpose(2, 0, 1), rtol=1e-6)
    np.testing.assert_allclose(batch.truth["pose"][0].numpy(), pose[8:12], rtol=1e-6)


def test_transforms_of_colour_empty_joints_and_chains(tmp_path):
    rgb = grey(2, 3, 4, 4)
    centre = np.array([0.485, 0.456, 0.406]) * 255
    spread = np.array([0.229, 0.224, 0.225]) * 255
    want = (rgb - centre[:, None, None]) / spread[:, None, None]
    np.testing.assert_allclose(transformed(rgb, {"type": "BaseRgbTransform"}, tmp_path), want)
    pose = np.random.default_rng(0).random((2, 17, 3))
    pose[1, 4] = 0
    filled = transformed(pose, {"type": "NormalizeEmpty"}, tmp_path)
    np.testing.assert_allclose(filled[1, 4], [*pose[1].mean(0)[:2], 0])
    assert pose[1, 4, 0] == 0
    chain = {"type": "Compose", "trf_cfg": [{"type": "GaitTRMultiInput"}, {"type": "SkeletonInput"}]}
    made = positions_steps_bones(torch.from_numpy(pose), COCO).numpy()
    np.testing.assert_allclose(transformed(pose, chain, tmp_path), made.transpose(0, 2, 1)[..., None])
    with pytest.raises(BadInput, match=r"transform 'BaseSilTransfrom' is not known. Did you mean BaseSilTransform"):
        transformed(rgb, {"type": "BaseSilTransfrom"}, tmp_path)
    assert set(TRANSFORMS) >= {"GaitGraphMultiInput", "GaitTRMultiInput", "BaseRgbTransform"}


@pytest.fixture
def gaitset(tmp_path) -> Path:
    return write_config(tmp_path, "gaitset")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": grey(3, 50, 40)}, r"a\.pkl: frames of 50 x 40; GaitSet by this config takes 64 x 44 or 128 x 88"),
        ({"a": grey(0, 64, 64)}, "no frames"),
        ({"a": np.zeros((3, 64, 64), np.uint8)}, "all 3 frames are empty"),
        ({"a": grey(3, 64, 64).astype(float) / 255}, "values 0 to 1; expected grey values 0 to 255"),
        ({"a": grey(3, 64, 64) > 9}, "dtype bool with values 0 to 1"),
        ({"a": np.array(["x"])}, "dtype <U1; expected numbers"),
        ({"a": grey(3, 64, 64), "b": grey(4, 64, 64)}, r"unequal length \(a.pkl 3, b.pkl 4\)"),
        ({"a": grey(3, 64, 64), "b": grey(3, 64, 64)}, "2 modalities, but the config names 1 transforms"),
        ({"a": grey(64, 64)}, r"shape \(64, 64\); BaseSilCuttingTransform takes silhouettes"),
        ({"a": grey(3, 2, 64, 64)}, "2 channels a frame; GaitSet by this config takes 1"),
        (
            {"a": grey(3, 64, 64, 3)},
            r"colour pictures, shape \(3, 64, 64, 3\); GaitSet by this config takes silhouettes",
        ),
        (
            {"a": grey(3, 3, 64, 64)},
            r"colour pictures, shape \(3, 3, 64, 64\); GaitSet by this config takes silhouettes",
        ),
        (
            {"a": grey(3, 64, 44, 1)},
            r"shape \(3, 64, 44, 1\); GaitSet by this config takes silhouettes \(t, h, w\), without the last axis",
        ),
    ],
)
def test_data_that_does_not_fit_is_one_clear_line(tmp_path, gaitset, arrays, message):
    config = read_config(gaitset)
    with pytest.raises(BadInput, match=message) as caught:
        prepare(walk_of(tmp_path / "w", **arrays), config)
    assert "\n" not in str(caught.value)


def test_empty_frames_and_short_sequences_are_told(tmp_path, gaitset):
    holed = grey(5, 64, 64)
    holed[[1, 3]] = 0
    with pytest.warns(LoupeWarning, match=r"2 of 5 frames are empty \(1, 3\)"):
        prepare(walk_of(tmp_path / "w", a=holed), read_config(gaitset))
    config = read_config(write_config(tmp_path, "gaitgl"))
    with pytest.warns(LoupeWarning, match="2 frames, fewer than the 3 of GaitGL's temporal convolution; repeated"):
        batch = prepare(walk_of(tmp_path / "v", a=grey(2, 64, 64)), config, build(config))
    assert batch.size == (2, 64, 44)


def test_modalities_are_chosen_by_mask_or_by_order(tmp_path):
    arrays = {"a": grey(3, 2, 64, 64), "b": grey(3, 64, 64)}
    walk = walk_of(tmp_path / "w", **arrays)
    for use in ([False, True], [1]):
        file = write_config(tmp_path, "gaitset", data_cfg={"data_in_use": use})
        batch = prepare(walk, read_config(file))
        np.testing.assert_allclose(batch.x[0], arrays["b"][..., 10:54] / 255, rtol=1e-6)
        np.testing.assert_array_equal(batch.pictures[0, ..., 0], arrays["b"][..., 10:54])
    file = write_config(tmp_path, "gaitset", data_cfg={"data_in_use": [True]})
    with pytest.raises(BadInput, match=r"2 modalities \(a.pkl, b.pkl\); data_in_use of the config is about 1"):
        prepare(walk, read_config(file))
    file = write_config(tmp_path, "gaitset", data_cfg={"data_in_use": [5]})
    with pytest.raises(BadInput, match=r"data_in_use of the config asks for \[5\]"):
        prepare(walk, read_config(file))


def test_samplers_take_all_the_middle_or_repeat(tmp_path):
    frames = grey(7, 64, 64)
    walk = walk_of(tmp_path / "w", a=frames)

    def taken(**sampler: object) -> np.ndarray:
        file = write_config(tmp_path, "gaitset", evaluator_cfg={"sampler": sampler})
        return (prepare(walk, read_config(file)).x[0].numpy() * 255).round()

    cut = frames[..., 10:54]
    np.testing.assert_array_equal(taken(sample_type="all_ordered"), cut)
    np.testing.assert_array_equal(taken(sample_type="fixed_ordered", frames_num_fixed=3), cut[2:5])
    np.testing.assert_array_equal(taken(sample_type="fixed_ordered", frames_num_fixed=10), cut[np.arange(10) % 7])
    with pytest.warns(LoupeWarning, match="the first 4 of 7 frames"):
        np.testing.assert_array_equal(taken(sample_type="all_ordered", frames_all_limit=4), cut[:4])


def test_skeleton_maps_and_silhouettes_are_joined_and_cut_alike(tmp_path):
    config, _ = MODELS["skeletongaitpp_gait3d"]
    small = {**config, "Backbone": {"in_channels": 3, "blocks": [1, 1, 1, 1], "C": 1}}
    blocks = {"data_cfg": {"data_in_use": [True, True]}, "evaluator_cfg": {"transform": [{"type": "BaseSilTransform"}]}}
    file = write_config(tmp_path, "pp", small, **blocks)
    maps, narrow = grey(3, 2, 64, 64), grey(3, 64, 44)
    made = gait(file, device="cpu")
    batch = made.prepare(walk_of(tmp_path / "w", a=maps, b=narrow))
    assert batch.size == (3, 64, 44)
    np.testing.assert_allclose(batch.x[0, :, :2], maps[..., 10:54] / 255, rtol=1e-6)
    np.testing.assert_allclose(batch.x[0, :, 2], narrow / 255, rtol=1e-6)
    with torch.no_grad():
        assert made.output(batch).shape == (1, 128, 16)


def test_poses_of_another_format_are_said(tmp_path):
    transforms = [{"type": "Compose", "trf_cfg": [{"type": "GaitTRMultiInput"}, {"type": "SkeletonInput"}]}]
    file = write_config(tmp_path, "tr", gaittr("coco", 8), evaluator_cfg={"transform": transforms})
    config = read_config(file)
    with pytest.raises(BadInput, match="poses of 18 joints; joint_format coco has 17"):
        prepare(walk_of(tmp_path / "w", a=np.ones((4, 18, 3))), config)
    with pytest.raises(BadInput, match=r"takes poses \(t, joints, 3\)"):
        prepare(walk_of(tmp_path / "v", a=grey(4, 64, 64)[..., :2]), config)
    batch = prepare(walk_of(tmp_path / "u", a=np.random.default_rng(0).random((4, 17, 3))), config)
    assert batch.size == (4, 17, 1)
    assert batch.truth["pose"].shape == (1, 4, 17, 3)


@pytest.mark.parametrize("name", [name for name in MODELS if "grew" not in name and "oumvlp" not in name])
def test_every_layer_that_runs_has_a_place_or_a_word(tmp_path, name):
    config, dataset = MODELS[name]
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": config, "data_cfg": {"dataset_name": dataset}}))
    made = gait(file, device="cpu")
    batch = example(made.notes["config"], frames=6 if "gl" not in name.split("_")[0] else 7)
    facts = {fact.name: fact for fact in layer_facts(made, batch)}
    assert facts
    for fact in facts.values():
        place = seen(made.module, fact.name)
        assert place is not None, fact.name
        assert fact.time in ("each frame", "whole sequence", "not run") or fact.time.endswith("frames a step")
        if batch.size[2] > 1 and fact.time != "not run":
            rows, columns = (
                ([int(n) for n in fact.space.split(",")[0].split(" x ")] * 2)[:2] if " x " in fact.space else (0, 0)
            )
            # rows and columns keep the shape of the picture: nothing is stacked or halved by mistake
            assert not rows or rows * batch.size[2] == columns * batch.size[1], fact
    default = {layer.partition("#")[0] for layer in made.layers}
    assert default <= {name for name, fact in facts.items() if fact.time != "not run"}
    assert passes(made.module) == (2 if "graph1" in name else 3 if "graph2" in name else 1)


def test_layers_by_number_glob_and_name(gaitset):
    made = gait(gaitset, device="cpu")
    assert pick_layers(made, ()) == made.layers
    assert pick_layers(made, ("1", "15")) == ("set_block1.forward_block.0.conv", "gl_block2.0.conv")
    assert pick_layers(made, ("gl_block?", "gl_block2")) == ("gl_block2", "gl_block3")
    assert pick_layers(made, ("set_pooling#1", "gl_block2[-1]")) == ("set_pooling#1", "gl_block2.4")
    for wrong, message in (
        ("26", "layer 26: this model's layers are numbered 1 to 25"),
        ("set_blok*", "no layer fits 'set_blok[*]'. Did you mean set_block"),
        ("Haed", "no layer 'Haed' in this model. Did you mean Head"),
    ):
        with pytest.raises(BadInput, match=message):
            pick_layers(made, (wrong,))


def test_windows_are_exactly_what_a_strided_convolution_saw():
    """Brute force: which frames change which output of a convolution of 3 frames with stride 3."""
    conv = torch.nn.Conv1d(1, 1, 3, stride=3, bias=False)
    for frames in (3, 7, 8, 9, 14, 30):
        length = frames // 3
        saw = []
        for t in range(frames):
            x = torch.zeros(1, 1, frames)
            x[0, 0, t] = 1
            saw.append(set(conv(x)[0, 0].nonzero().flatten().tolist()))
        for step, (start, stop) in enumerate(windows(length, frames, 3)):
            assert [t for t in range(frames) if step in saw[t]] == list(range(start, stop))
    assert windows(1, 9, None) == [(0, 9)]
    assert windows(4, 4, None) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert windows(4, 2, 3) == [(0, 1), (1, 2), (0, 1), (1, 2)]
    assert windows(1, 2, 3) == [(0, 2)]
    assert windows(30, 60, None)[-1] == (58, 60)
    assert windows(31, 61, None)[-1] == (60, 61)


@pytest.mark.parametrize(
    ("model", "blocks", "want"),
    [
        (SMALL["gaitset"], {}, ((64, 44), (64, 64), (128, 88), (128, 128))),
        (SMALL["gaitgl"], {}, ((64, 44), (64, 64), (128, 88), (128, 128))),
        (MODELS["gln_p1_casiab"][0], {}, ((128, 88), (128, 128), (64, 44), (64, 64))),
        (
            SMALL["gaitset"],
            {"evaluator_cfg": {"transform": [{"type": "BaseSilCuttingTransform", "img_w": 128}]}},
            ((128, 88), (128, 128)),
        ),
    ],
)
def test_the_sizes_that_a_config_is_about_come_first(tmp_path, model, blocks, want):
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": model, **blocks}))
    assert read_config(file).sizes == want


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"evaluator_cfg": {"metric": "l3"}}, "evaluator_cfg.metric 'l3'; expected one of euc, cos"),
        ({"evaluator_cfg": {"sampler": 3}}, "sampler 3; expected a mapping"),
        (
            {"evaluator_cfg": {"sampler": {"frames_num_fixed": "x"}}},
            "frames_num_fixed 'x'; expected a number of frames",
        ),
        ({"evaluator_cfg": {"transform": ["x"]}}, "transform 'x'; expected mappings with a type"),
        ({"evaluator_cfg": {"transform": [{"type": "NoOperatoin"}]}}, "Did you mean NoOperation"),
        ({"evaluator_cfg": 3}, "evaluator_cfg holds int; expected a mapping"),
        ({"data_cfg": {"data_in_use": 1}}, "data_in_use 1; expected a list of true and false, or of file numbers"),
        ({"data_cfg": {"data_in_use": [False]}}, r"data_in_use \[False\] uses no file at all"),
    ],
)
def test_what_every_sequence_would_stumble_over_is_told_of_the_config(tmp_path, blocks, message):
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"], **blocks}))
    with pytest.raises(BadInput, match=message) as caught:
        gait(file, device="cpu")
    assert str(caught.value).startswith(f"{file}: ")


def test_poses_that_a_transform_leaves_short_of_an_axis_are_said(tmp_path):
    file = tmp_path / "x.yaml"
    blocks = {"evaluator_cfg": {"transform": [{"type": "GaitTRMultiInput"}]}}
    file.write_text(yaml.safe_dump({"model_cfg": gaittr("coco", 8), **blocks}))
    walk = walk_of(tmp_path / "w", a=np.random.default_rng(0).random((4, 17, 3)) + 1)
    with pytest.raises(BadInput, match=r"shape \(4, 17, 10\) after the transforms; GaitTR takes 4 axes"):
        prepare(walk, read_config(file))


def test_data_in_use_that_asks_for_more_files_than_there_are(tmp_path):
    walk = walk_of(tmp_path / "w", a=grey(3, 64, 64))
    for use, message in (([True, False], "1 modalities .*is about 2"), ([0, 1], r"asks for \[0, 1\]")):
        file = tmp_path / "x.yaml"
        file.write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"], "data_cfg": {"data_in_use": use}}))
        with pytest.raises(BadInput, match=message):
            prepare(walk, read_config(file))
    with pytest.raises(BadInput, match=r"NaN or infinite|1 of 3 frames hold NaN"):
        file.write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"]}))
        prepare(
            walk_of(tmp_path / "v", a=np.where(np.arange(3)[:, None, None] == 1, np.nan, 9.0) + np.zeros((64, 64))),
            read_config(file),
        )
    with pytest.raises(BadInput, match="dtype int64 with values -1 to 254; expected grey values 0 to 255"):
        prepare(walk_of(tmp_path / "u", a=np.clip(grey(3, 64, 64).astype(int) - 1, -1, 254)), read_config(file))


def test_maps_and_silhouettes_that_are_not_two_and_arrays_that_hold_nothing_are_said(tmp_path):
    file = tmp_path / "x.yaml"
    plus = {"model_cfg": MODELS["skeletongaitpp_gait3d"][0], "data_cfg": {"dataset_name": "Gait3D"}}
    file.write_text(yaml.safe_dump({**plus, "evaluator_cfg": {"transform": [{"type": "BaseSilTransform"}]}}))
    with pytest.raises(BadInput, match=r"\(3, 64, 64\); SkeletonGaitPP takes maps \(t, 2, h, w\), then silhouettes"):
        prepare(walk_of(tmp_path / "one", a=grey(3, 64, 64)), read_config(file))
    file.write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"]}))
    with pytest.raises(BadInput, match=r"shape \(3, 0, 64\) holds nothing"):
        prepare(walk_of(tmp_path / "none", a=grey(3, 0, 64)), read_config(file))
    blocks = {"evaluator_cfg": {"transform": [{"type": "BaseSilCuttingTransform", "divsor": "many"}]}}
    file.write_text(yaml.safe_dump({"model_cfg": SMALL["gaitset"], **blocks}))
    with pytest.raises(BadInput, match=r"a\.pkl: BaseSilCuttingTransform with divsor 'many'; expected a number"):
        prepare(walk_of(tmp_path / "w", a=grey(3, 64, 64)), read_config(file))
    file.write_text(
        yaml.safe_dump({"model_cfg": SMALL["gaitset"], "evaluator_cfg": {"transform": [{"type": "NoOperation"}]}})
    )
    with pytest.raises(BadInput, match=r"shape \(9, 9\); GaitSet takes silhouettes \(t, h, w\) or maps"):
        prepare(walk_of(tmp_path / "flat", a=grey(9, 9)), read_config(file))
