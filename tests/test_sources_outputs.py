"""What people hold: several outputs, wrappers, examples of other kinds of input, embeddings, whole numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning, NoGradient, UnsafeFile
from torchloupe.sources import patches
from torchloupe.subjects import Subject


class Net(nn.Module):
    """features (n, 8), logits (n, 5); out makes the output of both."""

    def __init__(self, out: Callable[[Tensor, Tensor], Any] = lambda _features, logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.head = nn.Linear(8, 5)
        self.out = out

    def forward(self, x: Tensor) -> Any:
        features = self.body(x)
        return self.out(features, self.head(features.mean((2, 3))))


def told(make: Callable[[], Subject]) -> tuple[Subject, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = make()
    return made, [str(one.message) for one in seen if issubclass(one.category, LoupeWarning)]


X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

OUTPUTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str, Callable[[Tensor, Tensor], Tensor]]] = {
    "features, logits": (lambda f, y: (f.mean((2, 3)), y), "taken is 1", lambda f, y: y),
    "logits, features": (lambda f, y: (y, f.mean((2, 3))), "taken is 0", lambda f, y: y),
    "features by name": (lambda f, y: {"features": f, "cls": y}, "taken is cls", lambda f, y: y),
    "nested": (lambda f, y: (f, {"aux": f.mean((2, 3)), "main": [y]}), "taken is 1.main.0", lambda f, y: y),
    "stages": (lambda f, y: [f * 0, f], "taken is 1", lambda f, y: f),
    "pyramid": (lambda f, y: [f, f[..., ::2, ::2]], "taken is 1", lambda f, y: f[..., ::2, ::2]),
    "mask beside": (lambda f, y: (y > 0, y), "", lambda f, y: y),
    "logits by name": (lambda f, y: {"hidden": f, "logits": y}, "", lambda f, y: y),
    "one number": (lambda f, y: y[:, 0], "one number a sample", lambda f, y: y[:, :1]),
    "softmax": (lambda f, y: y.softmax(1), "probabilities", lambda f, y: y.softmax(1)),
    "sigmoid": (lambda f, y: y.sigmoid(), "", lambda f, y: y.sigmoid()),
}


@pytest.mark.parametrize("case", OUTPUTS)
def test_which_tensor_is_meant_is_said_once(case: str) -> None:
    out, said, expected = OUTPUTS[case]
    net = Net(out)
    made, lines = told(lambda: loupe.subject(net, size=32))
    features = net.body(X)
    got = made.output(loupe.Batch(X))
    assert torch.equal(got, expected(features, net.head(features.mean((2, 3)))))
    assert len(lines) == bool(said)
    assert said in " ".join(lines)
    assert made.layers
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.output(loupe.Batch(X))


def test_another_tensor_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    net = Net(lambda f, y: {"a": (f.mean((2, 3)), y), "cls": y})
    made, lines = told(lambda: loupe.subject(net, size=32, output="a.0"))
    assert made.output(loupe.Batch(X)).shape == (2, 8)
    assert made.notes["output"] == "a.0"
    assert not lines
    with pytest.raises(BadInput, match=r"output 'a.2': the model gives a.0 \(1, 8\), a.1 \(1, 5\), cls \(1, 5\)"):
        loupe.subject(net, size=32, output="a.2")
    monkeypatch.chdir(tmp_path)
    Path("pair_of_test.py").write_text(
        "import torch\nclass Pair(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.c = torch.nn.Conv2d(3, 4, 3)\n"
        "    def forward(self, x):\n        f = self.c(x); return f.mean((2, 3)), f.amax((2, 3))[:, :2]\n"
    )
    Image.new("RGB", (32, 32), "grey").save("grey.png")
    words = ["cam", "grey.png", "--model", "torch:pair_of_test:Pair", "--size", "32", "--layers", "c", "--target", "3"]
    assert main([*words, "--output", "0"]) == 0
    assert main([*words, "--output", "1", "--save", "o"]) == 2
    assert "class 3: the model has 2 classes" in capsys.readouterr().err


@pytest.mark.parametrize("out", [lambda f, y: y.argmax(1), lambda f, y: torch.complex(y, y), lambda f, y: "text"])
def test_outputs_without_a_gradient_are_refused_when_asked(out: Any) -> None:
    made, lines = told(lambda: loupe.subject(Net(out), size=32))
    assert made.layers == ()
    assert len(lines) == 1
    with pytest.raises(BadInput):
        loupe.gradcam(loupe.Probe(made, ("body",), loupe.Top(1)), loupe.Batch(X))


class Lightning(nn.Module):
    """Stands for a Lightning module, whose class is known by its name."""

    def __init__(self, net: nn.Module, times: float) -> None:
        super().__init__()
        self.net, self.times, self.loss = net, times, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.times * self.net(x)


Lightning.__name__ = "LightningModule"


@pytest.mark.parametrize(
    ("wrap", "word"),
    [
        (nn.DataParallel, "DataParallel"),
        (torch.compile, "OptimizedModule"),
        (lambda net: torch.optim.swa_utils.AveragedModel(torch.compile(net)), "AveragedModel"),
        (lambda net: Lightning(net, 1.0), "LightningModule"),
    ],
)
def test_wrappers_are_looked_through_and_said(wrap: Any, word: str) -> None:
    """Preparation and class names are those of the model inside."""
    import timm

    torch.manual_seed(0)
    net = timm.create_model("resnet18").eval()
    plain = loupe.subject(net, size=64)
    made, lines = told(lambda: loupe.subject(wrap(net), size=64))
    assert any(word in line for line in lines)
    assert made.layers == plain.layers
    assert made.classes == plain.classes
    batch = loupe.Batch(X[:1])
    one, other = (loupe.gradcam(loupe.Probe(s, s.layers, loupe.Classes((3,))), batch) for s in (plain, made))
    assert torch.equal(one["layer4"], other["layer4"])


def test_a_lightning_module_that_does_more_is_asked_itself() -> None:
    made, lines = told(lambda: loupe.subject(Lightning(Net(), 2.0), size=32))
    assert not lines
    assert made.layers == ("net.body",)


def test_whole_numbers_are_explained_without_gradients_or_refused() -> None:
    """A residual around an int8 layer would give half a gradient, without a word."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.mix, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x).permute(0, 2, 3, 1)
            return (self.head(y + self.mix(y))).mean((1, 2))

    net = torch.ao.quantization.quantize_dynamic(Residual().eval(), {nn.Linear}, dtype=torch.qint8)
    made, _ = told(lambda: loupe.subject(net, size=32))
    probe = loupe.Probe(made, ("stem",), loupe.Top(1))
    with pytest.raises(NoGradient, match=r"(mix|head) \(Linear\) is quantised to whole numbers"):
        loupe.gradcam(probe, loupe.Batch(X))
    assert loupe.eigencam(probe, loupe.Batch(X))["stem"].abs().sum() > 0
    assert torch.isfinite(loupe.scorecam(probe, loupe.Batch(X))["stem"]).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_channel_of_whole_numbers_is_ablated_as_its_own_zero() -> None:
    """Statically quantised layers: the rest of the network by hand, with one channel at its zero point."""
    quantised = torch.ao.quantization

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.enter, self.leave = quantised.QuantStub(), quantised.DeQuantStub()
            self.a, self.relu, self.b, self.head = nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Linear(6, 3)

        def rest(self, y: Tensor) -> Tensor:
            return self.leave(self.head(self.b(y).mean((2, 3))))

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.relu(self.a(self.enter(x))))

    net = Whole().eval()
    net.qconfig = quantised.get_default_qconfig(torch.backends.quantized.engine)
    ready = quantised.prepare(net)
    ready(X)
    net = quantised.convert(ready)
    maps = loupe.ablationcam(loupe.Probe(loupe.Subject(net), ("relu",), loupe.Classes(1)), loupe.Batch(X))["relu"][
        0, :, 0
    ]
    with torch.no_grad():
        act = net.relu(net.a(net.enter(X)))
        whole = net.rest(act)[:, 1]
        wanted = torch.zeros_like(maps)
        for channel in range(6):
            without = act.dequantize()
            without[:, channel] = 0
            again = torch.quantize_per_tensor(without, act.q_scale(), act.q_zero_point(), act.dtype)
            weight = (whole - net.rest(again)[:, 1]) / whole.abs()
            wanted += weight[:, None, None] * act.dequantize()[:, channel]
    assert wanted.relu().max() > 0
    torch.testing.assert_close(maps, wanted.relu())


class Both(nn.Module):
    """A siamese of two pictures, and a volume: what an example is for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.flat, self.deep, self.head = nn.Conv2d(3, 8, 3), nn.Conv3d(1, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        one = self.deep(x) if x.ndim == 5 else self.flat(x)
        return self.head(one.flatten(2).mean(2) - self.flat(other).flatten(2).mean(2))


def test_an_example_gives_defaults_to_models_of_other_inputs(tmp_path: Path, capsys: Any) -> None:
    other = torch.rand(1, 3, 16, 16)
    siamese = loupe.Batch(torch.rand(1, 3, 16, 16), extra={"other": other})
    made, lines = told(lambda: loupe.subject(Both(), example=siamese))
    assert not lines
    assert made.layers == ("flat#0",)  # the other call sees the other picture
    np.savez(tmp_path / "e.npz", x=np.zeros((1, 1, 6, 16, 16), np.float32), other=other.numpy())
    deep = loupe.subject(Both(), example=tmp_path / "e.npz")
    assert deep.layers == ("deep",)
    assert deep.example is not None
    maps = loupe.gradcam(loupe.Probe(deep, deep.layers, loupe.Top(1)), deep.example)
    assert maps["deep"].shape == (1, 1, 4, 14, 14)
    words = ["layers", f"torch:{__name__}:Both", "--example", str(tmp_path / "e.npz")]
    assert main(words) == 0
    assert "deep" in capsys.readouterr().out
    np.save(tmp_path / "odd.npy", np.zeros((1, 2)))
    for given, said in (
        (tmp_path / "none.npz", "no such file"),
        (tmp_path / "odd.npy", "say how they lie"),
        ([1], "list"),
    ):
        with pytest.raises(BadInput, match=said):
            loupe.subject(Both(), example=given)


def test_video_presets_have_default_layers() -> None:
    made, lines = told(lambda: loupe.subject("torchvision:r3d_18", size=32, device="cpu"))
    assert made.layers == ("layer4",)
    assert not lines
    assert made.example is not None
    assert made.example.layout.pattern == "n c t h w"


def test_four_channels_of_timm() -> None:
    import timm

    made, lines = told(lambda: loupe.subject(timm.create_model("resnet18", in_chans=4), size=64))
    assert made.layers == ("layer4",)
    assert made.prepare is None
    assert not lines


class Tower(nn.Module):
    """An embedding (n, 6); unit brings it to length 1."""

    def __init__(self, unit: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.unit = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), unit

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x).mean((2, 3))
        return nn.functional.normalize(found) if self.unit else found


def test_questions_about_an_embedding() -> None:
    """The length's gradient is e / |e|; similarity to r has none along e."""
    net = Tower()
    made = Subject(net, kind="embedder")
    seen = loupe.Probe(made, ("body",), loupe.Norm())(loupe.Batch(X))
    e = net(X)
    h, w = seen.act["body"].shape[-2:]
    assert torch.allclose(seen.scores.value[0], e.norm(dim=1))
    expected = (e / e.norm(dim=1, keepdim=True) / (h * w))[:, :, None, None, None].expand_as(seen.act["body"])
    assert torch.allclose(seen.grad["body"][0], expected, atol=1e-7)
    r = torch.rand(3, 6)
    near = loupe.Probe(made, ("body",), loupe.Like(r, ("a", "b", "c")))(loupe.Batch(X))
    for k in range(3):
        for n in range(2):
            assert torch.allclose(near.scores.value[k, n], e[n] @ r[k] / e[n].norm() / r[k].norm())
    assert near.scores.labels[1] == ("like b", "like b")
    along = (near.grad["body"][..., 0, 0, 0] * e).sum(2)
    assert along.abs().max() < 1e-7
    with pytest.raises(BadInput, match="brings every embedding to length 1"):
        loupe.Probe(Subject(Tower(unit=True)), ("body",), loupe.Norm())(loupe.Batch(X))
    with pytest.raises(BadInput, match="references have 5 numbers, the embeddings 6"):
        loupe.Probe(made, ("body",), loupe.Like(torch.ones(1, 5)))(loupe.Batch(X))


def test_headless_models_are_never_asked_for_a_class(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    for name, colour in (("red", "red"), ("blue", "blue")):
        Image.new("RGB", (64, 64), colour).save(f"{name}.png")
    words = ["cam", "red.png", "--model", "timm:resnet18?num_classes=0", "--size", "64"]
    assert main(words) == 0
    assert json.loads(Path("out/red.json").read_text())["questions"] == ["length of the embedding"]
    assert main([*words, "--like", "blue.png", "--save", "near"]) == 0
    record = json.loads(Path("near/red.json").read_text())
    assert record["questions"] == ["like blue"]
    net = loupe.subject("timm:resnet18?num_classes=0", size=64).module
    assert 0 < record["scores"][0] <= 1, net
    assert main([*words, "--target", "239", "--save", "o"]) == 2
    assert "gives an embedding, which has no classes" in capsys.readouterr().err
    assert main(["cam", "red.png", "--model", "timm:resnet18", "--size", "64", "--like", "blue.png"]) == 2
    assert "--like is for models that give embeddings" in capsys.readouterr().err


SMALL = "hidden_size=32&num_hidden_layers=2&num_attention_heads=2&intermediate_size=64"
TOWERS = {
    "clip_vision_model": "clip_vision_model?image_size=64&patch_size=16&" + SMALL,
    "siglip_vision_model": "siglip_vision_model?image_size=64&patch_size=16&" + SMALL,
    "dinov3_vit": "dinov3_vit?image_size=64&patch_size=16&" + SMALL,
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers_give_their_pooled_embedding(name: str) -> None:
    made, lines = told(lambda: loupe.subject(f"transformers:{TOWERS[name]}", device="cpu"))
    assert made.kind == "embedder"
    assert made.notes["output"] == "pooler_output"
    assert made.layers
    assert not lines
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made.output(loupe.Batch(x)), made.module(x).pooler_output)


CLIPS = {
    "videomae": ("image_size=16&num_frames=4&patch_size=8&" + SMALL, (1, 4, 3, 16, 16), "n t c h w"),
    "timesformer": ("image_size=16&num_frames=4&patch_size=8&" + SMALL, (1, 4, 3, 16, 16), "n t c h w"),
    "audio-spectrogram-transformer": ("max_length=64&num_mel_bins=32&" + SMALL, (1, 64, 32), "n h w"),
}


@pytest.mark.parametrize("name", CLIPS)
def test_videos_and_sounds_of_transformers_have_default_layers(name: str) -> None:
    options, shape, pattern = CLIPS[name]
    made, lines = told(lambda: loupe.subject(f"transformers:{name}?{options}", device="cpu"))
    assert made.layers
    assert made.example is not None
    assert (tuple(made.example.x.shape), made.example.layout.pattern) == (shape, pattern)
    assert not lines


def test_a_saved_clip_folder_is_asked_by_its_picture_or_with_texts(tmp_path: Path, capsys: Any) -> None:
    """CLIPModel as saved: without a text its picture's embedding, with input_ids the picture against each text."""
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = {**part, "vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=16)
    torch.manual_seed(0)
    net = CLIPModel(config).eval()
    net.save_pretrained(tmp_path / "clip")
    made, lines = told(lambda: loupe.subject(f"transformers:{tmp_path}/clip", device="cpu"))
    assert made.kind == "embedder"
    assert not lines
    assert len(made.layers) == 1
    assert made.layers[0].startswith("vision_model")
    x, ids = torch.rand(2, 3, 32, 32), torch.tensor([[0, 5, 7, 2], [0, 9, 3, 2], [0, 4, 4, 2]])
    with torch.no_grad():
        whole = net(input_ids=ids, pixel_values=x)
        assert torch.allclose(nn.functional.normalize(made.output(loupe.Batch(x))), whole.image_embeds, atol=1e-6)
        against = made.output(loupe.Batch(x, shared={"input_ids": ids}))
    assert torch.allclose(against, whole.logits_per_image, atol=1e-5)
    assert main(["layers", f"transformers:{tmp_path}/clip", "--depth", "1"]) == 0
    capsys.readouterr()


def test_yolo_detects_what_ultralytics_detects(tmp_path: Path) -> None:
    """The same boxes, scores and classes as its own decoding and suppression, on weights that tell places apart."""
    with patches.as_they_were():
        from ultralytics.utils.nms import non_max_suppression

    torch.manual_seed(0)
    made = loupe.subject("ultralytics:yolov8n.yaml", size=64, device="cpu")
    net: Any = made.module
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if weight.ndim > 1:
                weight.mul_(1.5)
            if ".cv3." in name and name.endswith("bias"):
                weight.fill_(-1)
    assert made.kind == "detector"
    assert made.layers == ("model.9",)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = made.output(loupe.Batch(x)), non_max_suppression(net(x), 0.0, 0.7, max_det=300)
    for one, other in zip(ours, theirs, strict=True):
        assert len(one.boxes) == len(other) > 1
        order = one.scores.argsort(descending=True)
        assert torch.allclose(one.scores[order], other[:, 4], atol=1e-5)
        assert torch.allclose(one.boxes[order[0]], other[0, :4], atol=1e-3)
    maps = loupe.gradcam(loupe.Probe(made, made.layers, loupe.Boxes(2)), loupe.Batch(x))
    assert maps["model.9"].shape == (2, 2, 1, 2, 2)
    torch.save({"model": net}, tmp_path / "own.pt")
    with pytest.raises(UnsafeFile, match="--unsafe-load"):
        loupe.subject(f"ultralytics:{tmp_path}/own.pt")
    again, _ = told(lambda: loupe.subject(f"ultralytics:{tmp_path}/own.pt", unsafe_load=True, size=64, device="cpu"))
    with torch.no_grad():
        assert torch.equal(again.output(loupe.Batch(x))[0].boxes, ours[0].boxes)
    for spec, said in (
        ("yolov8n", "expected NAME.yaml"),
        ("absent.pt", "nothing is downloaded"),
        ("nolo.yaml", "nolo"),
    ):
        with pytest.raises(BadInput, match=said):
            loupe.subject(f"ultralytics:{spec}")


def test_a_classifier_of_ultralytics_is_read_at_its_logits() -> None:
    made, _ = told(lambda: loupe.subject("ultralytics:yolov8n-cls.yaml", size=64, device="cpu"))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(made.output(loupe.Batch(x)).softmax(1), made.module(x)[0])
    assert made.kind == "classifier"
    assert made.layers


def test_open_clip() -> None:
    """Without texts the embedding, with token ids the picture against each text as the model itself says."""
    with pytest.raises(BadInput, match="open_clip has no model 'ViT-B-33'. Did you mean ViT-B-32"):
        loupe.subject("open_clip:ViT-B-33")
    import open_clip

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    net = open_clip.CLIP(16, vision, text).eval()
    made, lines = told(lambda: loupe.subject(net))
    assert made.kind == "embedder"
    assert not lines
    assert made.layers
    assert made.layers[0].startswith("visual.")
    x, ids = torch.rand(2, 3, 32, 32), torch.randint(1, 49, (3, 8))
    with torch.no_grad():
        assert torch.equal(made.output(loupe.Batch(x)), net.encode_image(x))
        image, words, factor = net(x, ids)[:3]
        assert torch.allclose(made.output(loupe.Batch(x, shared={"text": ids})), factor * image @ words.T, atol=1e-5)


def test_a_scripted_part_is_passed_by() -> None:
    torch.manual_seed(0)
    net = Net()
    net.head = torch.jit.script(net.head)
    made, lines = told(lambda: loupe.subject(net, size=32))
    assert made.layers == ("body",)
    assert not lines
    plain = loupe.gradcam(loupe.Probe(Subject(Net()), ("body",), loupe.Classes((1,))), loupe.Batch(X))
    assert torch.allclose(
        loupe.gradcam(loupe.Probe(made, ("body",), loupe.Classes((1,))), loupe.Batch(X))["body"], plain["body"]
    )


def test_boxes_among_several_are_stored_and_turned() -> None:
    """A detector that sees one box of each picture: what Several holds of places is what its parts hold, side by side."""
    from torchloupe.kinds.maps import Heatmaps
    from torchloupe.targets.boxes import Detections

    class Box(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> list[Detections]:
            scores = self.stem(x).mean((2, 3)).sigmoid()
            boxes = torch.tensor([[1.0, 2.0, 11.0, 12.0], [15.0, 3.0, 30.0, 20.0]])
            return [Detections(boxes, one, torch.tensor([0, 1])) for one in scores]

    made = Subject(Box(), kind="detector", read=lambda output: output)
    several = loupe.Several((loupe.Boxes(1), loupe.Boxes(2)))
    probe = loupe.Probe(made, ("stem",), several)
    _, batch = probe.ask(loupe.Batch(X))
    alone = [loupe.Probe(made, ("stem",), loupe.Boxes(k)).ask(loupe.Batch(X))[1].asked["boxes"] for k in (1, 2)]
    assert torch.equal(batch.asked["boxes"], torch.cat(alone, 1))
    arrays = Heatmaps.of({"gradcam": loupe.gradcam(probe, batch)}, batch, 0, ()).arrays()
    assert arrays["boxes"].shape == (3, 4)
    assert arrays["detections"].shape == (2, 6)
    assert several.mirrored is not None
    turned = several.mirrored(batch.asked, batch)
    assert torch.equal(turned["boxes"][..., 0], 32 - batch.asked["boxes"][..., 2])
    assert torch.equal(turned["1:boxes"], turned["boxes"][:, 1:])
    assert loupe.Several((loupe.Top(1),)).mirrored is None
