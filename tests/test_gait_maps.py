from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gait_fixtures import SMALL, write_config, write_walkers
from gait_models import MODELS, gaitgraph, gaittr
from PIL import Image
from test_gait_networks import SEED_TABLE

import torchloupe as loupe
from torchloupe import kinds, store
from torchloupe.errors import BadInput, BadSample, LoupeWarning, NoGradient
from torchloupe.examples.walkers import write_tree
from torchloupe.gait import embed_gallery, explain_walk, record
from torchloupe.kinds.sequences import SequenceMaps
from torchloupe.networks.gait.layers import Seen
from torchloupe.runs.run import Job
from torchloupe.sources.opengait import example, gait, pick_layers
from torchloupe.sources.sequences import Walk, sequences
from torchloupe.targets.retrieval import Gallery, Margin, Nearest, Pair


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> tuple[Path, Path]:
    return write_walkers(tmp_path_factory.mktemp("walkers"), frames=8)


@pytest.fixture(scope="module")
def configs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("configs")
    return {name: write_config(folder, name) for name in SMALL}


def subject_of(configs: dict[str, Path], name: str):
    return gait(configs[name], configs[name].with_suffix(".pt"), device="cpu")


@pytest.mark.parametrize("name", SEED_TABLE)
def test_every_number_of_the_seeds_table_gives_a_map(tmp_path, name):
    config, dataset = MODELS[name]
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": config, "data_cfg": {"dataset_name": dataset}}))
    torch.manual_seed(0)
    made = gait(file, device="cpu")
    batch = example(made.notes["config"], frames=4 if config["model"] != "GLN" else 2)
    with torch.no_grad():
        item = made.output(batch)
    gallery = Gallery(item + 0.1 * torch.randn_like(item), ("x-nm-01-000",), ("x",))
    from torchloupe.methods.registry import named
    from torchloupe.probe import Probe

    layers = pick_layers(made, [str(number) for number in SEED_TABLE[name]])
    assert len(layers) == len(SEED_TABLE[name])
    maps = named("opengait")(Probe(made, layers, Nearest(gallery)), batch).maps
    for layer in layers:
        _, _, t, h, w = maps[layer].shape
        assert h * batch.size[2] == w * batch.size[1], layer
        assert t in (1, batch.size[0], batch.size[0] // 3)
        assert maps[layer].max() > 0


def test_the_formula_of_opengaits_tool_against_plain_hooks(configs, trees):
    """The tool's own steps on the bare network: hooks, + distance, mean weights of a frame, |mean over channels|."""
    made = subject_of(configs, "gaitpart")
    shelf = sequences(trees[0])
    gallery = embed_gallery(made, shelf)
    walk = sequences(trees[1])[0]
    layers = pick_layers(made, ["1", "6", "11"])
    found = explain_walk(made, walk, Nearest(gallery), layers, method="opengait")

    held: dict[str, list[torch.Tensor]] = {layer: [] for layer in layers}
    handles = []
    for layer in layers:
        part = made.module.get_submodule(layer)
        handles.append(part.register_forward_hook(lambda m, i, o, layer=layer: (held[layer].append(o), o.clone())[1]))
    batch = made.prepare(walk)
    embedding = made.module(batch.x)[0]
    for handle in handles:
        handle.remove()
    distance = torch.stack([(embedding - item).norm(dim=0).mean() for item in gallery.embeddings]).min()
    assert found.distances[0] == pytest.approx(distance.item(), rel=1e-5)
    for layer in layers:
        grads = torch.cat(torch.autograd.grad(distance, held[layer], retain_graph=True), 2)
        acts = torch.cat(held[layer], 2)
        want = np.zeros((acts.shape[0], *acts.shape[2:]))
        for t in range(len(acts)):
            for c in range(acts.shape[1]):
                want[t] += float(grads[t, c].mean()) * acts[t, c].detach().numpy()
        want = abs(want / acts.shape[1])
        np.testing.assert_allclose(found.maps[layer][0], want, rtol=1e-4, atol=1e-6 * want.max())


def test_strided_time_names_its_frames_and_pooled_layers_say_so(configs, trees):
    made = subject_of(configs, "gaitgl")
    gallery = embed_gallery(made, sequences(trees[0]))
    found = explain_walk(
        made, sequences(trees[1])[0], Nearest(gallery), ("conv3d", "LTA", "GLConvB2", "HPP"), method="layercam"
    )
    assert {layer: maps.shape for layer, maps in found.maps.items()} == {
        "conv3d": (1, 8, 64, 44),
        "LTA": (1, 2, 64, 44),
        "GLConvB2": (1, 2, 32, 22),
        "HPP": (1, 1, 32, 1),
    }
    assert found.windows["LTA"].tolist() == [[0, 3], [3, 6]]
    assert found.windows["HPP"].tolist() == [[0, 8]]
    assert found.words["HPP"] == "one map for all frames"


def test_one_strips_time_course_lies_on_its_strip(configs, trees):
    made = subject_of(configs, "gaitpart")
    gallery = embed_gallery(made, sequences(trees[0]))
    layer = "TFA.pooling_func.conv1d3x1.5.0.conv"
    found = explain_walk(made, sequences(trees[1])[0], Nearest(gallery), (layer,), method="opengait")
    assert found.maps[layer].shape == (1, 8, 16, 1)
    assert found.maps[layer][0, :, 5].max() > 0
    assert not np.delete(found.maps[layer], 5, 2).any()
    assert "time course of one strip" in found.words[layer]


def test_what_cannot_be_drawn_is_a_clear_word(configs, trees):
    made = subject_of(configs, "gaitgl")
    gallery = embed_gallery(made, sequences(trees[0]))
    with pytest.raises(BadInput, match="'Head1' did not run"):
        explain_walk(made, sequences(trees[1])[0], Nearest(gallery), ("Head1",))
    with pytest.raises((BadInput, NoGradient)):
        explain_walk(made, sequences(trees[1])[0], Nearest(gallery), ("nothing",))


def test_the_probe_itself_is_told_and_left_out(configs, trees):
    made = subject_of(configs, "gaitset")
    shelf = sequences(trees[0])
    gallery = embed_gallery(made, shelf)
    with pytest.warns(LoupeWarning, match="000-nm-01-000 is itself in the gallery; left out there"):
        found = explain_walk(made, shelf[0], Nearest(gallery))
    assert shelf[0].name not in (*found.answers, *found.gallery)
    assert found.distances == tuple(sorted(found.distances))
    assert len(found.gallery) == 5


def test_a_copy_under_another_name_is_the_probe_itself(configs, tmp_path):
    """Another name of the folder, of the file, another pickle of the same numbers, and the same frames as pictures."""
    write_tree(tmp_path / "Gallery", [0, 1], ("nm-01",), ("090",), frames=5)
    held = (tmp_path / "Gallery/000/nm-01/090/090.pkl").read_bytes()
    for kind in ("copy", "renamed", "repickled", "pictures"):
        place = tmp_path / kind / "000" / "nm-09" / "090"
        place.mkdir(parents=True)
        array = pickle.loads(held)
        if kind == "pictures":
            for i, frame in enumerate(array):
                Image.fromarray(frame).save(place / f"{i}.png")
        elif kind == "repickled":
            (place / "090.pkl").write_bytes(pickle.dumps(list(array), protocol=2))
        else:
            (place / ("090.pkl" if kind == "copy" else "walk.pkl")).write_bytes(held)
    made = subject_of(configs, "gaitset")
    gallery = embed_gallery(made, sequences(tmp_path / "Gallery"), cache=tmp_path / "cache")
    again = embed_gallery(made, sequences(tmp_path / "Gallery"), cache=tmp_path / "cache")
    for kind in ("copy", "renamed", "repickled", "pictures"):
        (probe,) = sequences(tmp_path / kind)
        with pytest.warns(LoupeWarning, match=r"000-nm-09-090 is the same data as 000-nm-01-090 \(distance 0\)"):
            found = explain_walk(made, probe, Nearest(again if kind == "renamed" else gallery))
        assert found.answers == ("001-nm-01-090",)
        with pytest.raises(BadSample, match="000-nm-09-090 is the same data as 000-nm-01-090: distance 0, nothing to"):
            explain_walk(made, probe, Pair(gallery, name="000-nm-01-090"))


def test_an_answer_at_distance_0_is_told(configs, tmp_path):
    """Other data, but the same set of frames: a GaitSet cannot tell them apart."""
    write_tree(tmp_path / "Gallery", [0, 1], ("nm-01",), ("090",), frames=5)
    place = tmp_path / "Probe" / "000" / "nm-09" / "090"
    place.mkdir(parents=True)
    array = pickle.loads((tmp_path / "Gallery/000/nm-01/090/090.pkl").read_bytes())
    (place / "090.pkl").write_bytes(pickle.dumps(array[::-1].copy()))
    made = subject_of(configs, "gaitset")
    gallery = embed_gallery(made, sequences(tmp_path / "Gallery"))
    with pytest.warns(LoupeWarning, match="000-nm-09-090: its distance to 000-nm-01-090 is 0: the model cannot tell"):
        found = explain_walk(made, sequences(tmp_path / "Probe")[0], Nearest(gallery))
    assert found.answers == ("000-nm-01-090",)


def test_a_gallery_is_embedded_once_and_found_by_model_and_data(configs, trees, tmp_path):
    made, shelf = subject_of(configs, "gaitset"), sequences(trees[0])
    first = embed_gallery(made, shelf, cache=tmp_path)

    def never(*_: object) -> None:
        raise AssertionError("the gallery was embedded again")

    again = embed_gallery(replace(made, prepare=never), shelf, cache=tmp_path, metric="cos")
    torch.testing.assert_close(again.embeddings, first.embeddings)
    assert (again.names, again.digest, again.metric) == (first.names, first.digest, "cos")
    other = embed_gallery(made, shelf[:3], cache=tmp_path)
    assert other.digest != first.digest
    with torch.no_grad():
        made.module.Head.fc_bin += 1
    changed = embed_gallery(made, shelf, cache=tmp_path)
    assert changed.digest != first.digest
    assert not torch.equal(changed.embeddings, first.embeddings)


def test_bad_items_are_left_out_of_the_gallery_or_stop_it(configs, tmp_path):
    write_tree(tmp_path, [0, 1], ("nm-01",), ("090",), frames=4)
    (tmp_path / "000/nm-01/090/090.pkl").write_bytes(b"no pickle")
    made = subject_of(configs, "gaitset")
    with pytest.warns(LoupeWarning, match="left out of the gallery: .*000/nm-01/090/090.pkl"):
        gallery = embed_gallery(made, sequences(tmp_path))
    assert gallery.names == ("001-nm-01-090",)
    with pytest.raises(BadInput, match="broken or truncated pickle"):
        embed_gallery(made, sequences(tmp_path), strict=True)
    (tmp_path / "001/nm-01/090/090.pkl").write_bytes(b"no pickle")
    with pytest.warns(LoupeWarning), pytest.raises(BadInput, match="none of 2 sequences could be embedded"):
        embed_gallery(made, sequences(tmp_path))


@pytest.mark.parametrize("model", ["GaitGraph1", "GaitGraph2", "GaitTR"])
def test_skeleton_models_give_joints_by_time(tmp_path, model):
    if model == "GaitTR":
        config, kinds = gaittr("coco", 8), ["GaitTRMultiInput", "SkeletonInput"]
    elif model == "GaitGraph1":
        config, kinds = gaitgraph(model, "coco", [3, 16, 8], [8, 16], 8, 8), ["GaitGraph1Input"]
    else:
        config, kinds = gaitgraph(model, "coco", [5, 16, 8], [8, 16], 8, 8), ["GaitGraphMultiInput"]
    transforms = [{"type": "Compose", "trf_cfg": [{"type": kind} for kind in kinds]}]
    file = write_config(tmp_path, "x", config, evaluator_cfg={"transform": transforms})
    shelf, probes = write_walkers(tmp_path, frames=9, poses=True)
    made = gait(file, file.with_suffix(".pt"), device="cpu")
    gallery = embed_gallery(made, sequences(shelf))
    found = explain_walk(made, sequences(probes)[0], Nearest(gallery), (*made.layers, "input"), method="opengait")
    assert found.frames == 9
    assert found.poses.shape == (9, 17, 3)
    assert found.joints[0] == "nose"
    assert found.limbs.max() == 16
    for layer, maps in found.maps.items():
        assert maps.shape[2:] == (17, 1), layer
        assert maps.shape[1] in (9, 5), layer
        assert len(found.windows[layer]) == maps.shape[1]


def test_a_result_on_disk_is_the_same_and_holds_plain_arrays_only(configs, trees, tmp_path):
    made, shelf = subject_of(configs, "gaitset"), sequences(trees[0])
    gallery = embed_gallery(made, shelf)
    walk = sequences(trees[1])[0]
    found = explain_walk(made, walk, Margin(gallery, (40, 61)), method="layercam", gallery_walks=shelf)
    file = tmp_path / f"{found.name}.npz"
    found.save(file, record(made, found, gallery))
    loaded = SequenceMaps.load(file)
    for key in (
        "name",
        "layers",
        "questions",
        "scores",
        "answers",
        "gallery",
        "distances",
        "words",
        "signed",
        "target",
    ):
        assert getattr(loaded, key) == getattr(found, key), key
    for layer in found.layers:
        np.testing.assert_array_equal(loaded.maps[layer], found.maps[layer])
        np.testing.assert_array_equal(loaded.windows[layer], found.windows[layer])
    np.testing.assert_array_equal(loaded.imgs, found.imgs)
    np.testing.assert_array_equal(
        loaded.answer_imgs, made.prepare(next(w for w in shelf if w.name == found.answers[0])).pictures[0, ..., 0]
    )
    with np.load(file, allow_pickle=False) as held:
        assert held["imgs"].shape == (8, 64, 44)
        assert all(held[key].dtype.kind != "O" for key in held.files)
    note = json.loads(file.with_suffix(".json").read_text())
    assert note["kind"] == "gait maps"
    assert note["answers"] == list(found.answers)
    assert list(note["nearest items"].values()) == pytest.approx(list(found.distances))
    assert note["metric"] == "euc"
    assert len(note["weights"]["sha256"]) == 64
    assert store.load(file).record["kind"] == "gait maps"
    with pytest.raises(BadInput, match="whole npz file"):
        SequenceMaps.load(configs["gaitset"])
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(BadInput, match="not a result of loupe gait cam; it holds a"):
        SequenceMaps.load(tmp_path / "other.npz")


def test_a_result_of_an_older_version_is_read(configs, trees, tmp_path):
    """Its maps lie under maps/LAYER, in an .npz that tells all, with or without a record."""
    made, walk = subject_of(configs, "gaitset"), sequences(trees[1])[0]
    found = explain_walk(made, walk, Nearest(embed_gallery(made, sequences(trees[0]))), ("gl_block2", "Head"))
    now = found.arrays()
    assert {key for key in now if key.startswith("map/")} == {"map/gradcam/gl_block2", "map/gradcam/Head"}
    older = {key.replace("map/gradcam/", "maps/"): value for key, value in now.items()}
    np.savez(tmp_path / "old.npz", **older)
    loaded = SequenceMaps.load(tmp_path / "old.npz")
    assert (loaded.layers, loaded.words, loaded.record) == (found.layers, found.words, {"kind": "gait maps"})
    for layer in found.layers:
        np.testing.assert_array_equal(loaded.maps[layer], found.maps[layer])
    (tmp_path / "old.json").write_text(json.dumps({"kind": "gait maps", "probe": "p", "question": "0a"}))
    assert kinds.read(*store.load(tmp_path / "old.npz")).record["probe"] == "p"
    for gone in ("maps/Head", "windows/Head", "scores"):
        np.savez(tmp_path / "less.npz", **{key: value for key, value in older.items() if key != gone})
        with pytest.raises(BadInput, match=rf"less\.npz: lacks {gone}"):
            SequenceMaps.load(tmp_path / "less.npz")


def test_the_key_of_a_question_changes_with_all_that_matters(configs, trees):
    def asked(name: str = "gaitset", **ask: object) -> str:
        file = configs[name]
        model = {"config": str(file), "weights": str(file.with_suffix(".pt")), "device": "cpu"}
        data = {"probes": str(trees[1]), "gallery": str(trees[0])}
        words = {
            "layers": ["Head"],
            "method": "gradcam",
            "signed": False,
            "target": "nearest",
            "parts": (),
            "metric": None,
        }
        work = Job("gait maps", model, data, {**words, "exclude": (), **ask}).open()
        return store.key({**work.about(), **work.asked(work.ids()[0])})

    every = [
        asked(),
        asked("gaitgl", layers=["Head0"]),
        asked(layers=["3"]),
        asked(method="layercam"),
        asked(signed=True),
        asked(target="rival"),
        asked(target="000-nm-01-000"),
        asked(parts=(1,)),
        asked(metric="cos"),
        asked(exclude=("same-view",)),
    ]
    assert len(set(every)) == len(every)
    assert asked() == every[0]
    assert asked(exclude=("same-view", "own-view")) == asked(exclude=("own-view", "same-view"))


def test_excluded_items_are_no_candidates(configs, trees):
    made = subject_of(configs, "gaitset")
    shelf = sequences(trees[0])
    gallery = embed_gallery(made, shelf)
    rules = {
        ("same-view",): lambda item, own: item.view != own.view,
        ("own-view",): lambda item, own: (item.identity, item.view) != (own.identity, own.view),
        ("same-view", "own-type"): lambda item, own: item.view != own.view,
    }
    for walk in sequences(trees[1]):
        for exclude, kept in rules.items():
            found = explain_walk(made, walk, Nearest(gallery), ("Head",), exclude=exclude)
            assert sorted(found.gallery) == sorted(item.name for item in shelf if kept(item, walk))
            assert found.answers == found.gallery[:1]
    with pytest.raises(BadSample, match="no gallery item besides the probe itself and what is left out"):
        explain_walk(made, shelf[0], Nearest(gallery), ("Head",), exclude=("same-type",))
    with pytest.raises(BadInput, match="exclude 'view': expected same-view, .*Did you mean"):
        explain_walk(made, walk, Nearest(gallery), ("Head",), exclude=("view",))
    with pytest.raises(BadInput, match="exclude 'same-view': the view of the probe or of the gallery is not known"):
        explain_walk(made, walk, Nearest(replace(gallery, views=())), ("Head",), exclude=("same-view",))


def test_attribution_on_the_input_and_perturbation_work_too(configs, trees):
    made = subject_of(configs, "gaitset")
    gallery = embed_gallery(made, sequences(trees[0]))
    walk = sequences(trees[1])[0]
    found = explain_walk(made, walk, Nearest(gallery), ("input",), method="integrated_gradients", options={"steps": 4})
    assert found.maps["input"].shape == (1, 8, 64, 44)
    assert found.signed
    assert found.answers == explain_walk(made, walk, Nearest(gallery), method="layercam").answers


def test_a_dark_map_is_told(configs, trees):
    made = subject_of(configs, "gaitset")
    gallery = embed_gallery(made, sequences(trees[0]))
    far = Gallery(gallery.embeddings * 0, gallery.names, gallery.identities)
    # towards an item at 0 every activation of the last layer that counts makes them unlike
    with pytest.warns(LoupeWarning, match="nothing speaks for it at Head, the map is 0 everywhere; try --signed"):
        explain_walk(made, sequences(trees[1])[0], Nearest(far), ("Head",), method="hirescam")


def test_one_call_of_a_strip_convolution_lies_on_its_strip(configs, trees):
    """The fourth of the eight strips of GaitPart's last layers, and the same rows of all of them together."""
    made = subject_of(configs, "gaitpart")
    layers = tuple(f"{pick_layers(made, ['11'])[0]}{call}" for call in ("", "#3"))
    gallery = embed_gallery(made, sequences(trees[0]))
    found = explain_walk(made, sequences(trees[1])[0], Nearest(gallery), layers, method="layercam")
    whole, band = (found.maps[layer] for layer in layers)
    count = 8
    rows = whole.shape[2] // count
    assert band.shape == whole.shape
    assert found.words[layers[1]] == f"strip 4 of {count}"
    np.testing.assert_allclose(band[:, :, 3 * rows : 4 * rows], whole[:, :, 3 * rows : 4 * rows], rtol=1e-5)
    assert not np.delete(band, range(3 * rows, 4 * rows), 2).any()
    assert band.max() > 0


def test_a_kept_gallery_tells_again_whom_it_lacks_and_is_made_anew_where_damaged(configs, tmp_path):
    write_tree(tmp_path / "tree", [0, 1], ("nm-01",), ("090",), frames=4)
    (tmp_path / "tree/000/nm-01/090/090.pkl").write_bytes(b"no pickle")
    made, walks = subject_of(configs, "gaitset"), sequences(tmp_path / "tree")
    with pytest.warns(LoupeWarning, match="000/nm-01/090/090.pkl"):
        embed_gallery(made, walks, cache=tmp_path / "kept")
    with pytest.warns(LoupeWarning, match=r"1 of 2 sequences, bad when it was embedded \(000-nm-01-090\)"):
        assert embed_gallery(made, walks, cache=tmp_path / "kept").names == ("001-nm-01-090",)
    with pytest.raises(BadInput, match="broken or truncated pickle"):
        embed_gallery(made, walks, cache=tmp_path / "kept", strict=True)
    next((tmp_path / "kept").glob("*.npz")).write_bytes(b"damaged")
    with pytest.warns(LoupeWarning, match="000/nm-01/090/090.pkl"):
        assert embed_gallery(made, walks, cache=tmp_path / "kept").names == ("001-nm-01-090",)


def test_weights_that_give_no_numbers_are_told_of_every_item(configs, tmp_path):
    write_tree(tmp_path, [0], ("nm-01",), ("090",), frames=4)
    made = subject_of(configs, "gaitset")
    made.module.set_block1.forward_block[0].conv.weight.data.fill_(float("nan"))
    with (
        pytest.warns(LoupeWarning),
        pytest.raises(BadInput, match=r"is not finite \(NaN or infinite\); check the weights"),
    ):
        embed_gallery(made, sequences(tmp_path))


def test_layers_and_subjects_that_no_map_can_be_made_of_are_said(configs, trees):
    made, walk = subject_of(configs, "gaitgl"), sequences(trees[1])[0]
    gallery = embed_gallery(made, sequences(trees[0]))
    other = loupe.Subject(torch.nn.Linear(2, 2), spec="timm:resnet18", prepare=lambda *_: None, notes={"config": {}})
    for ask in (embed_gallery, lambda subject, walks: explain_walk(subject, walks[0], Nearest(gallery))):
        with pytest.raises(BadInput, match=r"timm:resnet18: does not read walks; expected a subject of OpenGait"):
            ask(other, [walk])
        with pytest.raises(BadInput, match=r"cannot read walks"):
            ask(replace(made, prepare=None), [walk])
    for name, message in (
        ("set_blok1", "no layer 'set_blok1'"),
        ("no*thing", "no layer fits"),
        ("Bn#9", "did not run"),
    ):
        with pytest.raises(BadInput, match=f"{message}.*loupe gait layers"):
            explain_walk(made, walk, Nearest(gallery), pick_layers(made, [name]))
    with pytest.raises(BadInput, match="no layer 'nothing' in this model.*`loupe gait layers -c"):
        explain_walk(made, walk, Nearest(gallery), ["nothing"])
    with pytest.raises(BadInput, match="layer 'joints' cannot be drawn: its nodes are pairs"):
        undrawn = torch.nn.Module()
        undrawn.joints = torch.nn.Identity()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torchloupe.sources.opengait.place_of", lambda *_: Seen(None, word="its nodes are pairs"))
            pick_layers(replace(made, module=undrawn), ["joints"])
    with pytest.raises(BadSample, match="frames of 9 x 9"):
        explain_walk(made, NoisyWalk("0", "nm", "000", walk.files), Nearest(gallery))


class NoisyWalk(Walk):
    def read(self, size: int = 64) -> tuple[np.ndarray, ...]:
        return (np.full((4, 9, 9), 255, np.uint8),)
