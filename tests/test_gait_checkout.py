"""Real classes from a checkout: a small stand-in that has the same traps as OpenGait's code."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from gait_fixtures import SMALL, write_walkers

from torchloupe.errors import BadInput, LoupeWarning, MissingPackage
from torchloupe.gait import embed_gallery, explain_walk
from torchloupe.sources.opengait import gait, pick_layers
from torchloupe.sources.sequences import sequences
from torchloupe.targets.retrieval import Nearest

BASE = """
import torch.distributed as dist
import torch.nn as nn
from utils import get_msg_mgr


class BaseModel(nn.Module):
    def __init__(self, cfgs, training):
        super().__init__()
        self.msg_mgr = get_msg_mgr()
        self.rank = dist.get_rank()

    def init_parameters(self):
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.constant_(part.weight, 0.1)
"""
EDGE = """
import torch
import torch.nn as nn
from ..base_model import BaseModel
from torch.utils.tensorboard import SummaryWriter


class Inner(BaseModel):
    def build_network(self, model_cfg):
        self.conv = nn.Conv2d(1, model_cfg["width"], 3, padding=1)


class GaitEdgy(Inner):
    def build_network(self, model_cfg):
        super().build_network(model_cfg)
        self.dataset = self.cfgs["data_cfg"]["dataset_name"]

    def forward(self, inputs):
        from utils import scale
        ipts, labs, typs, vies, seqL = inputs
        ratios, sils = ipts
        assert labs.dtype == torch.int64 and seqL.tolist() == [[sils.shape[1]]] and typs and vies
        n, s, h, w = sils.shape
        frames = self.conv(sils.reshape(n * s, 1, h, w)) * torch.tensor(scale()).cuda()
        pooled = (frames.unflatten(0, (n, s)) * ratios[..., None, None, None]).amax(1).mean(-1)
        return {"training_feat": {}, "visual_summary": {}, "inference_feat": {"embeddings": pooled}}
"""
BROKEN = "import a_package_that_nobody_has\nclass Lacking: pass\n"


@pytest.fixture
def checkout(tmp_path) -> Path:
    code = tmp_path / "OpenGait" / "opengait"
    files = {
        "modeling/__init__.py": "",
        "modeling/base_model.py": BASE,
        "modeling/models/__init__.py": "raise ImportError('every model is imported here')",
        "modeling/models/edgy.py": EDGE,
        "modeling/models/broken.py": BROKEN,
        "modeling/models/a_part/edgy.py": "class GaitEdgy: pass\n",
        "utils/__init__.py": "def get_msg_mgr(): raise RuntimeError('no process group')\ndef scale(): return 2.0\n",
    }
    for name, text in files.items():
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text(text)
    before = set(sys.modules)
    yield code.parent
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("modeling", "utils", "data", "evaluation"):
            del sys.modules[name]


def config_of(folder: Path, model: dict, **blocks: dict) -> Path:
    file = folder / "x.yaml"
    file.write_text(yaml.safe_dump({"model_cfg": model, **blocks}))
    return file


TWO = {"evaluator_cfg": {"transform": [{"type": "NoOperation"}, {"type": "BaseSilCuttingTransform"}]}}


def test_a_real_class_goes_through_the_same_probe(checkout, tmp_path):
    file = config_of(tmp_path, {"model": "GaitEdgy", "width": 3}, **TWO)
    shelf, probes = write_walkers(tmp_path, frames=5)
    for leaf in (*shelf.glob("*/*/*"), *probes.glob("*/*/*")):
        (leaf / "000-ratios.pkl").write_bytes(pickle.dumps(np.linspace(0.5, 1, 5)))
    before = (torch.Tensor.cuda, torch.nn.Module.cuda, list(sys.path))
    with pytest.warns(LoupeWarning, match="the code of this checkout is imported and run"):
        made = gait(file, checkout=checkout, device="cpu")
    assert made.module.dataset == "CASIA-B"
    gallery = embed_gallery(made, sequences(shelf))
    assert gallery.embeddings.shape == (6, 3, 64)
    found = explain_walk(made, sequences(probes)[0], Nearest(gallery), ("conv",), method="opengait")
    assert found.maps["conv"].shape == (1, 5, 64, 44)
    assert found.imgs.shape == (5, 64, 44)
    assert (torch.Tensor.cuda, torch.nn.Module.cuda, list(sys.path)) == before


def test_what_is_wrong_with_a_checkout_is_said(checkout, tmp_path):
    def built(model: str, **more: object) -> None:
        gait(config_of(tmp_path, {"model": model, **more}), checkout=checkout, device="cpu")

    with pytest.raises(BadInput, match=r"defines no model GaitEdgi. Did you mean GaitEdgy"):
        built("GaitEdgi")
    with (
        pytest.warns(LoupeWarning),
        pytest.raises(MissingPackage, match="a_package_that_nobody_has is not installed; OpenGait's Lacking needs it"),
    ):
        built("Lacking")
    with pytest.warns(LoupeWarning), pytest.raises(BadInput, match="model_cfg of GaitEdgy lacks 'width'"):
        built("GaitEdgy")
    with pytest.raises(BadInput, match="not a checkout of OpenGait; expected opengait/modeling/models in it"):
        gait(config_of(tmp_path, SMALL["gaitset"]), checkout=tmp_path)


def test_a_module_of_the_same_name_is_not_mistaken_for_the_checkouts(checkout, tmp_path, monkeypatch):
    import types

    stranger = types.ModuleType("utils")
    stranger.__file__ = str(tmp_path / "utils.py")
    monkeypatch.setitem(sys.modules, "utils", stranger)
    with pytest.warns(LoupeWarning), pytest.raises(BadInput, match="needs the module name 'utils'"):
        gait(config_of(tmp_path, {"model": "GaitEdgy", "width": 3}), checkout=checkout, device="cpu")


HEADED = """
import numpy as np
import torch.nn as nn
from ..base_model import BaseModel


class ScoNet(BaseModel):
    def build_network(self, model_cfg):
        self.conv = nn.Conv3d(1, 2, 3, padding=1)
        self.fc = nn.Linear(2, 16)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, inputs):
        (sils,), labs, typs, vies, seqL = inputs
        known = [{"negative": 0, "neutral": 1, "positive": 2}[one] for one in typs]
        frames = self.conv(sils[:, None])
        pooled = self.fc(frames.amax(2).mean(-1).transpose(1, 2)).transpose(1, 2)
        logits = self.head(frames.amax(2).repeat(1, 8, 1, 1))
        if frames.shape[2] > 8:
            raise ValueError("too\\nlong")
        return {"training_feat": {"logits": logits}, "inference_feat": {"embeddings": pooled}}
"""


def test_the_default_layer_of_a_real_class_leads_to_the_embedding(checkout, tmp_path):
    """Not the head that ends last, whose logits a loss reads; the loss's own types of walks are given."""
    (checkout / "opengait" / "modeling" / "models" / "headed.py").write_text(HEADED)
    shelf, probes = write_walkers(tmp_path, frames=6)
    with pytest.warns(LoupeWarning, match="imported and run"):
        made = gait(config_of(tmp_path, {"model": "ScoNet"}), checkout=checkout, device="cpu")
    found = explain_walk(made, sequences(probes)[0], Nearest(embed_gallery(made, sequences(shelf))))
    assert {name: value.shape for name, value in found.maps.items()} == {"conv": (1, 6, 64, 44)}
    assert torch.zeros(1).is_cuda is False
    write_walkers(tmp_path / "long", frames=9)
    walk = sequences(tmp_path / "long" / "Probe")[0]
    with pytest.raises(
        BadInput, match=r"OpenGait's ScoNet failed on inputs of shapes \(1, 9, 64, 44\) \(ValueError: too"
    ):
        made.output(made.prepare(walk))


def test_a_model_that_sets_a_constant_on_a_gpu_only_runs_on_the_cpu(checkout, tmp_path):
    text = HEADED.replace("class ScoNet", "class ParsingGait").replace('"neutral": 1', '"bg-01": 1')
    text = text.replace(
        "frames = self.conv(sils[:, None])", "if sils.is_cuda: one = 1\n        frames = one * self.conv(sils[:, None])"
    )
    (checkout / "opengait" / "modeling" / "models" / "parsing.py").write_text(text)
    _, probes = write_walkers(tmp_path, frames=6)
    with pytest.warns(LoupeWarning, match="imported and run"):
        made = gait(config_of(tmp_path, {"model": "ParsingGait"}), checkout=checkout, device="cpu")
    assert made.output(made.prepare(sequences(probes)[0])).shape == (1, 16, 64)
    assert torch.zeros(1).is_cuda is False


CROPPING = """
import torch
import torch.nn as nn
from ..base_model import BaseModel


class Cropping(BaseModel):
    def build_network(self, model_cfg):
        self.whole = nn.Conv2d(1, 2, 3, padding=1)
        self.cropped = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, inputs):
        (sils,), labs, typs, vies, seqL = inputs
        frames = sils[0][:, None]
        crop = (frames + self.whole(frames).mean(1, keepdim=True))[..., 11:33]
        with torch.no_grad():
            frozen = self.cropped(crop)
        pooled = frozen.amax(0, keepdim=True).mean(-1)
        shown = {"image/crop": crop, "image/other": frames[:1]}
        return {"visual_summary": shown, "inference_feat": {"embeddings": pooled}}
"""


def test_maps_of_a_crop_that_the_model_makes_lie_on_it_and_frozen_layers_are_asked(checkout, tmp_path):
    """The crop is from the model's own visual_summary; what it runs under no_grad has gradients all the same."""
    (checkout / "opengait" / "modeling" / "models" / "cropping.py").write_text(CROPPING)
    shelf, probes = write_walkers(tmp_path, frames=5)
    with pytest.warns(LoupeWarning, match="imported and run"):
        made = gait(config_of(tmp_path, {"model": "Cropping"}), checkout=checkout, device="cpu")
    gallery = embed_gallery(made, sequences(shelf))
    found = explain_walk(made, sequences(probes)[0], Nearest(gallery), ("whole", "cropped"), method="opengait")
    assert {name: value.shape for name, value in found.maps.items()} == {
        "whole": (1, 5, 64, 44),
        "cropped": (1, 5, 64, 22),
    }
    assert found.maps["whole"].max() > 0
    assert list(found.under) == ["cropped"]
    batch = made.prepare(sequences(probes)[0])
    with torch.no_grad():
        inside = made.module.whole(batch.x[0][:, None]).mean(1)
    crop = (batch.x[0] + inside)[..., 11:33]
    low, high = crop.min(), crop.max()
    want = crop if low >= 0 and high <= 1 else (crop - low) / (high - low)
    np.testing.assert_allclose(found.under["cropped"], (want * 255).round().numpy(), atol=1)
    assert found.words["cropped"] == "on the 64 x 22 picture that the model makes"
    assert torch.is_grad_enabled()
    with torch.no_grad():
        assert not torch.is_grad_enabled()


MULTISCALE = """
import torch.nn as nn
from ..base_model import BaseModel


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.gcn = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        return self.gcn(x).tanh()


class MultiScaleGaitGraph(BaseModel):
    def build_network(self, model_cfg):
        widths = (3, 4, 4, 4, 4, 4, 4, 4, 4)
        self.st_gcn_networks_lowSemantic = nn.ModuleList([Block(*pair) for pair in zip(widths, widths[1:])])
        self.st_gcn_networks_mediumSemantic = nn.ModuleList([Block(4, 5)])

    def forward(self, inputs):
        (pose,), labs, typs, vies, seqL = inputs
        assert pose.shape[2:] == (12, 3)
        joints = pose.permute(0, 3, 1, 2)
        for block in self.st_gcn_networks_lowSemantic:
            joints = block(joints)
        parts = self.st_gcn_networks_mediumSemantic[0](joints.unflatten(3, (6, 2)).mean(-1))
        return {"inference_feat": {"embeddings": parts.amax(2)}}
"""


def test_a_graph_of_several_scales_is_drawn_where_it_sees_joints(checkout, tmp_path):
    (checkout / "opengait" / "modeling" / "models" / "multiscale.py").write_text(MULTISCALE)
    shelf, probes = write_walkers(tmp_path, frames=5, poses=True)
    model = {"model": "MultiScaleGaitGraph", "graph_cfg": {"layout": "body_12"}}
    blocks = {"evaluator_cfg": {"transform": [{"type": "MSGGTransform", "joint_format": "coco"}]}}
    with pytest.warns(LoupeWarning, match="imported and run"):
        made = gait(config_of(tmp_path, model, **blocks), checkout=checkout, device="cpu")
    gallery = embed_gallery(made, sequences(shelf))
    assert gallery.embeddings.shape == (6, 5, 6)
    found = explain_walk(
        made, sequences(probes)[0], Nearest(gallery), method="layercam", gallery_walks=sequences(shelf)
    )
    assert {layer: value.shape for layer, value in found.maps.items()} == {
        f"st_gcn_networks_lowSemantic.{i}": (1, 5, 12, 1) for i in (1, 3, 5, 7)
    }
    with pytest.raises(BadInput, match="its nodes are pairs of joints"):
        pick_layers(made, ["st_gcn_networks_mediumSemantic.0"])
    assert len(found.joints) == 12
    assert found.poses.shape == found.answer_poses.shape == (5, 12, 3)


def test_code_that_fails_or_gives_no_embeddings_is_said(checkout, tmp_path):
    models = checkout / "opengait" / "modeling" / "models"
    (models / "failing.py").write_text("x = 1 / 0\nclass Failing: pass\n")
    (models / "unbuilt.py").write_text(
        HEADED.replace("class ScoNet", "class Unbuilt").replace("nn.Conv3d(1", "nn.Conv3d(-1")
    )
    (models / "labels.py").write_text(
        HEADED.replace("class ScoNet", "class Labels")
        .replace('"embeddings"', '"labels"')
        .replace('"neutral": 1', '"nm-01": 1')
    )
    for name, message in (
        ("Failing", r"importing Failing failed \(ZeroDivisionError: division by zero\)"),
        ("Unbuilt", r"x\.yaml: OpenGait's code could not build Unbuilt \(\w+"),
    ):
        with pytest.warns(LoupeWarning), pytest.raises(BadInput, match=message):
            gait(config_of(tmp_path, {"model": name}), checkout=checkout, device="cpu")
    with pytest.warns(LoupeWarning):
        made = gait(config_of(tmp_path, {"model": "Labels"}), checkout=checkout, device="cpu")
    shelf, _ = write_walkers(tmp_path, frames=5)
    with pytest.raises(BadInput, match="this model gives labels and no embeddings: no gallery can be asked"):
        embed_gallery(made, sequences(shelf), strict=True)
