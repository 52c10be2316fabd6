"""Real models of timm, transformers, torchvision and mmpretrain with random weights: built, prepared, run, their layouts right."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from torchloupe.axes import Layout
from torchloupe.errors import BadInput, LoupeWarning, MissingPackage
from torchloupe.methods.cam import gradcam
from torchloupe.probe import Batch, Probe, Subject
from torchloupe.sources import subject
from torchloupe.sources.devices import device
from torchloupe.sources.images import pictures, read
from torchloupe.sources.preparation import Preparation
from torchloupe.targets.classes import Classes, Top
from torchloupe.trace import find_layout, tracing

PICTURES = Path(__file__).parents[2] / "shared/data/images"
CONFIGS = Path(importlib.util.find_spec("mmpretrain").origin).parent / ".mim/configs"
VIT = "hidden_size=32&intermediate_size=64&num_hidden_layers=2&num_attention_heads=2&image_size=64"
DINO = "hidden_size=32&num_hidden_layers=2&num_attention_heads=2&image_size=64&patch_size=16"


def ramp(width: int = 80, height: int = 60) -> Image.Image:
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([columns, rows, 255 - rows], -1).astype(np.uint8))


def layouts(model: Subject, size: tuple[int, ...], n: int) -> Mapping[str, Layout | str]:
    batch = Batch(torch.zeros(n, *size))
    with model.asked() as own, torch.no_grad(), tracing(own.module) as trace:
        own.output(batch)
    return {visit.name: find_layout(visit, trace, n, (1, *size[1:])) for visit in trace.visits}


def picture(layout: Layout | str) -> tuple[str, int, tuple[int, ...]] | str:
    return (layout.pattern, layout.skip, tuple(layout.sizes.values())) if isinstance(layout, Layout) else "none"


FIRST, LAST, TOKENS = "n c h w", "n h w c", "n (h w) c"

# spec, size -> default layer, and the layouts that the code of each network says its layers have
ZOO: list[tuple[str, Any, str, dict[str, Any]]] = [
    ("timm:test_resnet", 64, "layer4", {"layer1": (FIRST, 0, ()), "layer4": (FIRST, 0, ())}),
    ("timm:resnet18", (64, 32), "layer4", {"bn1": (FIRST, 0, ()), "layer4.1.conv2": (FIRST, 0, ())}),
    (
        "timm:vit_tiny_patch16_224",
        (64, 32),
        "blocks.11.norm1",
        {
            "patch_embed.proj": (FIRST, 0, ()),
            "patch_embed": (TOKENS, 0, (4, 2)),
            "blocks.0": (TOKENS, 1, (4, 2)),
            "blocks.11.attn.proj": (TOKENS, 1, (4, 2)),
            "norm": (TOKENS, 1, (4, 2)),
        },
    ),
    (
        "timm:vit_small_patch14_reg4_dinov2",
        (56, 84),
        "blocks.11.norm1",
        {"patch_embed": (TOKENS, 0, (4, 6)), "blocks.11": (TOKENS, 5, (4, 6))},
    ),
    ("timm:deit_tiny_distilled_patch16_224", 64, "blocks.11.norm1", {"blocks.3": (TOKENS, 2, (4, 4))}),
    (
        "timm:swin_tiny_patch4_window7_224",
        (128, 64),
        "norm",
        {
            "patch_embed": (LAST, 0, ()),
            "layers.0": (LAST, 0, ()),
            "layers.0.blocks.0.attn": "none",
            "layers.0.blocks.0.mlp": (TOKENS, 0, (32, 16)),
            "layers.3": (LAST, 0, ()),
        },
    ),
    (
        "timm:convnext_atto?conv_mlp=False",
        64,
        "stages.3",
        {"stages.0": (FIRST, 0, ()), "stages.1.blocks.0.mlp.fc1": (LAST, 0, ()), "stages.3": (FIRST, 0, ())},
    ),
    ("timm:convnext_atto_ols.a2_in1k", 64, "stages.3", {"stages.2": (FIRST, 0, ())}),
    (
        "timm:edgenext_xx_small",
        256,
        "stages.3.blocks",
        {"stem": (FIRST, 0, ()), "stages.1.blocks.1.norm_xca": (TOKENS, 0, (32, 32)), "stages.3": (FIRST, 0, ())},
    ),
    ("timm:mixer_s32_224", None, "norm", {"blocks.0": (TOKENS, 0, (7, 7)), "blocks.0.mlp_tokens.fc1": "none"}),
    ("torchvision:resnet18", 64, "layer4", {"layer2": (FIRST, 0, ())}),
    ("torchvision:mobilenet_v2", 64, "features.18", {"features.2": (FIRST, 0, ())}),
    ("torchvision:swin_t", 64, "norm", {"features.1": (LAST, 0, ()), "permute": (FIRST, 0, ())}),
    ("torchvision:convnext_tiny", 64, "features.7", {"features.1": (FIRST, 0, ())}),
    (
        f"transformers:vit?{VIT}",
        None,
        "vit.layers.1.layernorm_before",
        {"vit.embeddings": (TOKENS, 1, (4, 4)), "vit.layers.1": (TOKENS, 1, (4, 4))},
    ),
    (
        f"transformers:dinov2_with_registers?{DINO}&num_register_tokens=3",
        None,
        "dinov2_with_registers.encoder.layer.1.norm1",
        {"dinov2_with_registers.encoder.layer.0": (TOKENS, 4, (4, 4))},
    ),
    (f"transformers:deit?{VIT}", None, "deit.layers.1.layernorm_before", {"deit.layers.0": (TOKENS, 2, (4, 4))}),
    (
        "transformers:swin?image_size=64&embed_dim=12&depths=[1,1]&num_heads=[2,2]&window_size=4",
        None,
        "swin.layernorm",
        {"swin.encoder.layers.0": (TOKENS, 0, (8, 8)), "swin.encoder.layers.1": (TOKENS, 0, (8, 8))},
    ),
    (
        "transformers:convnext?image_size=64&hidden_sizes=[8,16,24]&depths=[1,1,1]&num_stages=3",
        None,
        "convnext.encoder.stages.2",
        {"convnext.encoder.stages.0": (FIRST, 0, ()), "convnext.encoder.stages.1.layers.0.pwconv1": (LAST, 0, ())},
    ),
    (
        "transformers:resnet?embedding_size=8&hidden_sizes=[8,16,24,32]&depths=[1,1,1,1]",
        64,
        "resnet.encoder.stages.3",
        {"resnet.encoder.stages.1": (FIRST, 0, ())},
    ),
    ("mmpretrain:resnet50_8xb32_in1k", None, "backbone.layer4", {"backbone.layer2": (FIRST, 0, ())}),
    ("mmpretrain:mobilenet-v2_8xb32_in1k", None, "backbone.conv2", {"backbone.layer3": (FIRST, 0, ())}),
    (
        "mmpretrain:swin-tiny_16xb64_in1k",
        None,
        "backbone.norm3",
        {"backbone.stages.0.blocks.1": (TOKENS, 0, (56, 56)), "backbone.stages.3": (TOKENS, 0, (7, 7))},
    ),
    (
        f"mmpretrain:{CONFIGS}/vision_transformer/vit-base-p16_64xb64_in1k.py",
        None,
        "backbone.layers.11.ln1",
        {"backbone.layers.4": (TOKENS, 1, (4, 4))},
    ),
]
SMALL_PICTURE = {"test_dataloader.dataset.pipeline.1.scale": 72, "test_dataloader.dataset.pipeline.2.crop_size": 64}
SMALL_VIT = {"model.backbone.arch": "deit-tiny", "model.head.in_channels": 192}


@pytest.fixture(params=ZOO, ids=[f"{row[0].partition('?')[0].rpartition('/')[2]}-{row[1]}" for row in ZOO])
def row(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.filterwarnings("ignore")
def test_real_models(row: Any) -> None:
    spec, size, default, known = row
    options = SMALL_PICTURE if spec.startswith("mmpretrain") and "swin" not in spec else {}
    options = {**options, **(SMALL_VIT if "vit-base" in spec else {})}
    model = subject(spec, size=size, device="cpu", cfg_options=options)
    assert model.layers == (default,)
    assert model.prepare is not None
    batch = model.prepare([ramp(), ramp(60, 90)], ["a", "b"])
    assert batch.pictures.shape == (2, 1, *batch.x.shape[-2:], 3)
    for n in (1, 2):
        found = layouts(model, tuple(batch.x.shape[1:]), n)
        assert {name: picture(found[name]) for name in known} == known
    for weight in model.module.parameters():  # some heads begin at zero, where no layer has a gradient
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, std=0.02)
    capture = Probe(model, model.layers, Classes((0,)) if model.classes or "?" in spec else Top(1))(batch)
    assert capture.grad[default].abs().max() > 0
    maps = gradcam(Probe(model, model.layers, Top(1)), batch)
    assert torch.isfinite(maps[default]).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "spec",
    [
        "timm:vit_tiny_patch16_224",
        "timm:test_resnet?in_chans=1",
        "torchvision:resnet18",
        f"transformers:vit?{VIT}",
        "mmpretrain:mobilenet-v2_8xb32_in1k",
        "torch:torchvision.models:resnet18",
    ],
)
def test_the_picture_is_what_the_model_saw_undone(spec: str) -> None:
    """A picture of one colour must come back as that colour, whatever was done to its range and channels."""
    model = subject(spec, device="cpu")
    assert model.prepare is not None
    colour = (200, 100, 50)
    batch = model.prepare([Image.new("RGB", (70, 50), colour)], ["one"])
    shown = batch.pictures[0, 0].reshape(-1, 3).unique(dim=0)
    assert shown.shape[0] == 1
    grey = Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0))
    assert np.abs(shown[0].numpy() - np.array([grey] * 3 if "in_chans=1" in spec else colour)).max() <= 1


def test_a_model_that_takes_blue_first_is_shown_red_first() -> None:
    preparation = Preparation(lambda image: image, (3, 1, 1), (0.0,) * 3, (1.0,) * 3, scale=1.0, bgr=True)
    assert preparation.undo(torch.tensor([50.0, 100, 200]).view(1, 3, 1, 1)).flatten().tolist() == [200, 100, 50]


def test_a_square_picture_is_not_attention_where_windows_have_as_many_tokens() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.tokens, self.after = nn.Conv2d(3, 4, 1), nn.Linear(8, 8), nn.Conv2d(4, 4, 1)
            self.softmax = nn.Softmax(-1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.before(x)
            return self.after(x + self.softmax(self.tokens(x[:, 0])[:, None]))

    found = layouts(Subject(Windows()), (3, 8, 8), 1)
    assert picture(found["after"]) == (FIRST, 0, ())
    assert "attention" in str(found["softmax"])


def test_class_names() -> None:
    assert subject("timm:test_resnet", device="cpu", layers=()).classes[281] == "tabby, tabby cat"
    assert subject("timm:test_resnet?num_classes=5", device="cpu").classes == ()
    assert subject("torchvision:resnet18", device="cpu").classes[281] == "tabby"
    assert subject(f"transformers:vit?{VIT}&id2label={{0:'cat',1:'dog',2:'owl'}}", device="cpu").classes == (
        "cat",
        "dog",
        "owl",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert subject("mmpretrain:mobilenet-v2_8xb32_in1k", device="cpu").classes[281] == "tabby, tabby cat"


def test_class_names_from_a_file_or_a_sequence(tmp_path: Path) -> None:
    spec = "timm:test_resnet?num_classes=3"
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n")
    (tmp_path / "names.json").write_text(json.dumps({"0": ["n01", "cat"], "1": ["n02", "dog"], "2": ["n03", "owl"]}))
    for given in (tmp_path / "names.txt", tmp_path / "names.json", ["cat", "dog", "owl"]):
        assert subject(spec, device="cpu", classes=given).classes == ("cat", "dog", "owl")
    with pytest.raises(BadInput, match="2 class names were given; the model has 3 classes"):
        subject(spec, device="cpu", classes=["cat", "dog"])
    (tmp_path / "blank.txt").touch()
    (tmp_path / "gap.json").write_text('{"0": "cat", "2": "dog"}')
    for name, said in (("blank.txt", "no class names"), ("gap.json", "without gaps"), ("gone.txt", "no such file")):
        with pytest.raises(BadInput, match=said):
            subject(spec, device="cpu", classes=tmp_path / name)


def test_weights_are_loaded_and_noted(tmp_path: Path) -> None:
    right = subject("timm:test_resnet", device="cpu")
    save_file(right.module.state_dict(), tmp_path / "w.safetensors")
    model = subject("timm:test_resnet", weights=tmp_path / "w.safetensors", device="cpu")
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.output(Batch(x)), right.output(Batch(x)))
    note = model.notes["weights"]
    assert note["path"] == str(tmp_path / "w.safetensors")
    assert len(note["sha256"]) == 64
    assert note["report"]["trusted"] is True
    json.dumps(note)
    with pytest.raises(BadInput, match="the wrong checkpoint for this model"):
        subject("timm:test_vit", weights=tmp_path / "w.safetensors", device="cpu")


def test_a_transformers_folder(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        id2label={0: "cat", 1: "dog"},
    )
    right = ViTForImageClassification(config).eval()
    right.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 64, "width": 64}, image_mean=[0.1] * 3, image_std=[0.2] * 3).save_pretrained(
        tmp_path
    )
    model = subject(f"transformers:{tmp_path}", device="cpu")
    assert model.classes == ("cat", "dog")
    batch = model.prepare([Image.new("RGB", (64, 64), (255, 0, 0))], ["red"])
    assert batch.x[0, 0].mean() == pytest.approx((1 - 0.1) / 0.2)
    assert torch.allclose(model.output(batch), right(batch.x).logits)
    assert model.notes["weights"]["report"]["trusted"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.warns(LoupeWarning, match="no weights in this folder"):
        subject(f"transformers:{tmp_path}", device="cpu")


def test_a_transformers_folder_whose_head_is_missing_or_weights_broken(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    ResNetModel(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**stored, "architectures": [ResNetForImageClassification.__name__]})
    )
    with pytest.warns(LoupeWarning, match=r"stay random \(classifier"):
        model = subject(f"transformers:{tmp_path}", device="cpu")
    assert not model.notes["weights"]["report"]["trusted"]
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:500])
    with pytest.raises(BadInput, match="weights cannot be loaded"):
        subject(f"transformers:{tmp_path}", device="cpu")


def test_a_bare_transformers_model_is_an_embedder() -> None:
    model = subject(f"transformers:dinov2?{DINO}&architectures=['Dinov2Model']", device="cpu")
    assert model.kind == "embedder"
    assert model.layers == ("encoder.layer.1.norm1",)


def test_a_module_of_a_framework_is_prepared_as_its_source_does() -> None:
    import timm
    from transformers import ConvNextConfig, ConvNextForImageClassification

    module = timm.create_model("test_vit")
    module.train()
    model = subject(module)
    assert model.spec == "VisionTransformer"
    assert len(model.classes) == 1000
    assert module.training
    config = ConvNextConfig(image_size=64, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    model = subject(ConvNextForImageClassification(config))
    assert model.prepare([ramp()], ["a"]).x.shape == (1, 3, 64, 64)


FACTORIES = """
from torch import nn
def net(classes=2, channels=3):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
def text(): return "net"
def broken(): raise ZeroDivisionError("by zero")
number = 3
class Holder:
    @staticmethod
    def net(): return net(5)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factories.py").write_text(FACTORIES)
    (tmp_path / "my_broken.py").write_text("import absent_package\n")
    (tmp_path / "my_failing.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    for name in ("my_factories", "my_broken", "my_failing"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("factories")
def test_factories() -> None:
    model = subject("torch:my_factories:net?classes=7&channels=1", size=(20, 30), mean=[0.5], std=[0.25], device="cpu")
    batch = model.prepare([ramp()], ["a"])
    assert batch.x.shape == (1, 1, 20, 30)
    assert model.output(batch).shape == (1, 7)
    assert model.layers == ("1",)
    assert subject("torch:my_factories:Holder.net", device="cpu").module[-1].out_features == 5


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("torch:my_factories:nett", "has no 'nett'. Did you mean net"),
        ("torch:my_factories", "expected torch:package.module:factory"),
        ("torch:my_factorie:net", "no Python module 'my_factorie'"),
        ("torch:my_broken:net", "it needs 'absent_package'"),
        ("torch:my_failing:net", "failed with ZeroDivisionError"),
        ("torch:my_factories:broken", "broken failed with ZeroDivisionError: by zero"),
        ("torch:my_factories:net?klasses=3", "unexpected keyword argument 'klasses'"),
        ("torch:my_factories:net?classes", "expected key=value"),
        ("torch:my_factories:text", "returned a str; expected an nn.Module"),
        ("torch:my_factories:number", "number is a int; expected a function"),
        ("timm:resnet188", "timm has no model 'resnet188'. Did you mean resnet18"),
        ("timm:resnet18?depth=3", "unexpected keyword argument 'depth'"),
        ("timm:hf-hub:timm/resnet18", "would be downloaded"),
        ("torchvision:resnet188", "torchvision has no model 'resnet188'. Did you mean resnet18"),
        ("torchvision:resnet18?weights=DEFAULT", "weights are never downloaded"),
        ("transformers:vitt", "nothing is downloaded. Did you mean vit"),
        ("transformers:vit?imagesize=3", "vit has no option 'imagesize'. Did you mean image_size"),
        ("transformers:.", "no config.json in this folder"),
        ("mmpretrain:resnet18_8xb32", "mmpretrain has no model 'resnet18_8xb32'. Did you mean resnet18_8xb32_in1k"),
        ("mmpretrain:gone.py", "gone.py: no such config file"),
        ("mmpretrain:my_failing.py", "the config does not work: ZeroDivisionError"),
        ("tim:resnet18", "expected a scheme and what it loads, one of timm:...,"),
        ("resnet18", "Did you mean timm:resnet18"),
        ("timm:", "expected a scheme"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_loaded(spec: str, said: str) -> None:
    with pytest.raises(BadInput) as error:
        subject(spec, device="cpu")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_that_will_not_run_has_no_default_layer_and_says_so() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.conv(x) + y

    with pytest.warns(LoupeWarning, match="no default layer, as one forward of zeros .* failed"):
        model = subject(Picky())
    assert model.layers == ()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert subject(nn.Sequential(nn.Conv2d(12, 4, 3))).prepare is None


def test_mmpretrain_overrides_and_its_checkpoint(tmp_path: Path) -> None:
    """A Runner checkpoint brings its class names; the override changes the number of classes; a user's config says that it ran."""
    from mmengine.logging import HistoryBuffer

    config = CONFIGS / "resnet/resnet18_8xb32_in1k.py"
    (tmp_path / "mine.py").write_text(f"_base_ = ['{config}']\n")
    overrides = {
        "model.head.num_classes": 3,
        "model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "https://x/y.pth"},
    }
    overrides["model.head.topk"] = (1,)
    with pytest.warns(LoupeWarning, match=r"mine.py: a Python config; its code was run"):
        right = subject(f"mmpretrain:{tmp_path}/mine.py", cfg_options=overrides, device="cpu")
    assert right.module.head.fc.out_features == 3
    assert right.classes == ()
    buffer = HistoryBuffer()
    buffer.update(1.0)
    torch.save(
        {
            "state_dict": right.module.state_dict(),
            "meta": {"dataset_meta": {"classes": ["cat", "dog", "owl"]}},
            "message_hub": {"log_scalars": {"loss": buffer}, "seed": np.int64(3)},
        },
        tmp_path / "epoch_1.pth",
    )
    with pytest.warns(LoupeWarning):
        model = subject(
            f"mmpretrain:{tmp_path}/mine.py", weights=tmp_path / "epoch_1.pth", cfg_options=overrides, device="cpu"
        )
    assert model.classes == ("cat", "dog", "owl")
    assert model.notes["weights"]["report"]["trusted"]
    with pytest.raises(BadInput, match="change them with cfg_options"):
        subject("mmpretrain:resnet18_8xb32_in1k", size=64)
    with pytest.raises(BadInput, match="do not fit the config|the config does not work"):
        subject("mmpretrain:resnet18_8xb32_in1k", cfg_options={"model.backbone.depht": 18})


@pytest.mark.skipif(not PICTURES.is_dir(), reason="needs the pictures in ../shared/data/images")
@pytest.mark.filterwarnings("ignore")
def test_mmpretrain_prepares_its_picture_as_its_own_pipeline() -> None:
    from mmengine.dataset import Compose
    from mmpretrain.apis import ModelHub
    from mmpretrain.registry import TRANSFORMS

    model = subject("mmpretrain:resnet18_8xb32_in1k", device="cpu")
    batch = pictures(PICTURES / "bird.JPEG", model)
    steps = ModelHub.get("resnet18_8xb32_in1k").config.test_dataloader.dataset.pipeline
    data = Compose([TRANSFORMS.build(step) for step in steps])({"img_path": str(PICTURES / "bird.JPEG")})
    theirs = model.module.data_preprocessor({"inputs": [data["inputs"]]})["inputs"]
    assert (batch.x - theirs).abs().max() < 0.2
    assert (batch.x - theirs).abs().mean() < 0.01
    middle = np.asarray(read(PICTURES / "bird.JPEG").resize((256, 318)).crop((16, 47, 240, 271)), float)
    assert np.abs(batch.pictures[0, 0].numpy() - middle).mean() < 8


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackage, match=r"timm is not installed.*torchloupe\[timm\]"):
        subject("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gpu", "expected auto, cpu, cuda"),
        ("cuda:x", "expected auto, cpu, cuda"),
        ("cuda:99", "cuda:99"),
        (99, "cuda:99"),
    ],
)
def test_devices_that_are_not_there(name: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        device(name)


def test_a_metal_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadInput, match="no Metal device"):
        device("mps")


def test_devices() -> None:
    assert device("cpu") == torch.device("cpu")
    assert device("CPU").type == "cpu"
    assert device("auto").type in ("cpu", "cuda", "mps")
    assert device(torch.device("cpu")).type == "cpu"


def test_an_installed_config_of_mmpretrain_without_a_published_model() -> None:
    """Its name is enough, as for those of which weights were published."""
    found = subject("mmpretrain:resnet18_8xb16_cifar10", device="cpu")
    assert found.kind == "classifier"
    import mmpretrain

    published = set(mmpretrain.list_models())
    configs = (Path(mmpretrain.__file__).parent / ".mim" / "configs").rglob("*.py")
    unpublished = next(one for one in sorted(configs) if one.stem == "lenet5_mnist")
    assert unpublished.stem not in published
    assert subject(f"mmpretrain:{unpublished.stem}", device="cpu").layers
    with pytest.raises(BadInput, match="Did you mean lenet5_mnist"):
        subject("mmpretrain:lenet5_mnis")
