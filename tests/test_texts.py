"""Questions in words, to CLIP and SigLIP saved in a folder: beside what the model itself says, and plain sums in float64."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.errors import BadInput, LoupeWarning
from torchloupe.runs.run import Job
from torchloupe.targets.texts import Texts, sides

WORDS = ("a", "red", "blue", "car", "dog", "photo", "of", "the", "in", "snow")
MARKS = {"<s>": 0, "<pad>": 1, "</s>": 3, "<unk>": 4}
PART = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SEEN = {**PART, "image_size": 32, "patch_size": 8}
READ = {**PART, "vocab_size": 20, "max_position_embeddings": 10}


def tokenizer(folder: Path, ends: bool = True) -> Any:
    """One token a word, '!' left out, as a folder holds it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {**MARKS, **{word: 5 + i for i, word in enumerate(WORDS)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Replace("!", ""), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if ends:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 3)]
        )
    whole = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    whole.save_pretrained(folder)
    return whole


def network(kind: str) -> Any:
    from torchloupe.sources import patches

    patches.torchvision()
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    torch.manual_seed(0)
    if kind == "clip":
        text = {**READ, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1}
        net: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=SEEN, projection_dim=16))
    else:
        net = SiglipModel(SiglipConfig(text_config={**READ, "projection_size": 32}, vision_config=SEEN))
    with torch.no_grad():
        for weight in net.parameters():  # their inits are so small that attention is all but even
            weight.mul_(2.0 if weight.ndim > 1 else 1.0)
    return net.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("clip", "siglip"):
        made[kind] = tmp_path_factory.mktemp(kind)
        network(kind).save_pretrained(made[kind])
        tokenizer(made[kind])
    return made


@pytest.fixture(params=["clip", "siglip"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def opened(folder: Path) -> loupe.Subject:
    return loupe.subject(f"transformers:{folder}", device="cpu")


def given(folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """What each model's own page says to give it: CLIP padded to the longest, with a mask; SigLIP to the full length, without."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(folder)
    if "siglip" in json.loads((folder / "config.json").read_text())["model_type"]:
        return {"input_ids": words(texts, padding="max_length", max_length=10, return_tensors="pt").input_ids}
    return dict(words(texts, padding=True, return_tensors="pt"))


X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_score_is_the_model_s_own(folder: Path) -> None:
    """In float64 every score is the entry of logits_per_image; a contrast is the difference of two, whatever the bias."""
    made = opened(folder)
    made = replace(made, module=made.module.double())
    asked = ["a red car", "dog", "a red car - a car"]
    probe = loupe.Probe(made, made.layers, loupe.texts(made, asked))
    found = probe(loupe.Batch(X.double()), grad=False).scores
    with torch.no_grad():
        whole: Any = made.module
        want = whole(**given(folder, ["a red car", "dog", "a car"]), pixel_values=X.double()).logits_per_image.T
    assert torch.allclose(found.value[:2], want[:2], atol=1e-12)
    assert torch.allclose(found.value[2], want[0] - want[2], atol=1e-12)
    assert found.labels == tuple((word,) * 3 for word in asked)
    assert (want.std(0) > 1e-4).all()  # the texts are told apart


def test_templates_are_a_mean_of_unit_vectors(folder: Path) -> None:
    """Normalised, averaged, normalised again, with plain numbers."""
    made = opened(folder)
    templates = ["a photo of {}", "{} in the snow", "{}"]
    target = loupe.texts(made, ["red car", "dog - car"], templates)
    whole: Any = made.module

    def unit(row: list[float]) -> list[float]:
        length = math.sqrt(sum(v * v for v in row))
        return [v / length for v in row]

    def mean(word: str) -> list[float]:
        texts = [one.replace("{}", word) for one in templates]
        with torch.no_grad():
            out = whole.get_text_features(**given(folder, texts)).pooler_output
        rows = [unit(row) for row in out.double().tolist()]
        return unit([sum(column) / 3 for column in zip(*rows, strict=True)])

    assert torch.allclose(target.directions[0], torch.tensor(mean("red car")), atol=1e-6)
    apart = [one - other for one, other in zip(mean("dog"), mean("car"), strict=True)]
    assert torch.allclose(target.directions[1], torch.tensor(apart), atol=1e-6)
    assert repr(target).startswith("Texts(words=('red car', 'dog - car'), scale=")
    assert "templates=('a photo of {}'" in repr(target)
    assert "tensor" not in repr(target)


def test_grad_cam_beside_plain_gradients_of_the_logit(folder: Path) -> None:
    """The map of a text is that of the model's own logits_per_image, with the last block's tokens as activations."""
    made = opened(folder)
    made = replace(made, module=made.module.double())
    net: Any = made.module
    layer = made.layers[0]
    found = loupe.gradcam(
        loupe.Probe(made, (layer,), loupe.texts(made, ["a dog", "red car"])), loupe.Batch(X.double()), relu=False
    )[layer]
    kept: list[Tensor] = []

    def keep(_part: Any, _inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = net.get_submodule(layer).register_forward_hook(keep)
    logits = net(**given(folder, ["a dog", "red car"]), pixel_values=X.double()).logits_per_image
    handle.remove()
    act, skip = kept[0], kept[0].shape[1] - 16
    for k in range(2):
        (grad,) = torch.autograd.grad(logits[:, k].sum(), act, retain_graph=True)
        for i in range(3):
            want = torch.zeros(16, dtype=torch.float64)
            for c in range(act.shape[2]):
                want += grad[i, skip:, c].mean() * act[i, skip:, c].detach()
            assert torch.allclose(found[k, i].flatten(), want, atol=1e-10)
    assert found.abs().max() > 1e-6


METHODS = (
    "chefer",
    "legrad",
    "rollout",
    "attention",
    "gradient_x_attention",
    "gradcam",
    "gradcam_pp",
    "xgradcam",
    "hirescam",
)
CAMS = (
    "layercam",
    "eigencam",
    "eigengradcam",
    "smooth_gradcam_pp",
    "scorecam",
    "ablationcam",
    "gradient_x_input",
    "occlusion",
)


class Classifier(nn.Module):
    """The model with two texts as its classes: its own text embeddings are the weights of a linear head."""

    def __init__(self, net: Any, words: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        with torch.no_grad():
            self.heads = net(**words, pixel_values=X[:1]).text_embeds * net.logit_scale.exp()
            self.bias = getattr(net, "logit_bias", torch.zeros(1)).detach()

    def forward(self, x: Tensor) -> Tensor:
        seen = self.net.get_image_features(pixel_values=x).pooler_output
        return seen / seen.norm(dim=1, keepdim=True) @ self.heads.T + self.bias


@pytest.mark.parametrize("name", [*METHODS, *CAMS])
def test_every_method_takes_a_text(folder: Path, name: str) -> None:
    """The same numbers as for a classifier whose head holds the texts."""
    made = opened(folder)
    asked = ["a red car", "dog"]
    options: dict[str, Any] = (
        {"window": 16, "stride": 16} if name == "occlusion" else {"samples": 2} if "smooth" in name else {}
    )
    method = loupe.METHODS[name]
    if "relu" in signature(method).parameters:
        options["relu"] = False  # on these weights the maps of some rules are below 0 everywhere
    if name == "eigengradcam":
        options["center"] = True
    ours = method(loupe.Probe(made, made.layers, loupe.texts(made, asked)), loupe.Batch(X[:2]), **options)
    plain = loupe.Subject(Classifier(made.module, given(folder, asked)).eval())
    layers = tuple(f"net.{layer}" for layer in made.layers)
    theirs = method(loupe.Probe(plain, layers, loupe.Classes((0, 1))), loupe.Batch(X[:2]), **options)
    for layer, maps in ours.maps.items():
        assert maps.shape[:2] == (2, 2)
        assert maps.abs().max() > 0
        want = theirs[layer if layer == "input" else f"net.{layer}"]
        assert torch.allclose(maps, want, rtol=1e-3, atol=1e-5 * float(maps.abs().max()))


def pictures(folder: Path, count: int = 3) -> list[str]:
    for i in range(count):
        pixels = (X[i].permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    return [str(folder / f"p{i}.png") for i in range(count)]


def test_the_command_and_its_record(folder: Path, tmp_path: Path) -> None:
    files = pictures(tmp_path)
    words = [
        "cam",
        *files,
        "--model",
        f"transformers:{folder}",
        "--method",
        "gradcam",
        "legrad",
        "--save",
        str(tmp_path / "out"),
    ]
    ask = ["--target", "a red car", "a dog", "a red car - a car"]
    assert main([*words, *ask, "--templates", "a photo of {}", "{}", "--device", "cpu"]) == 0
    record = json.loads((tmp_path / "out" / "p0.json").read_text())
    assert record["questions"] == ["a red car", "a dog", "a red car - a car"]
    assert "a photo of {}" in record["target"]


def test_the_text_tower_runs_once_a_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each text once: three batches, two questions that share one."""
    kind: Any = type(opened(folder).module)
    plain, seen = kind.get_text_features, []

    def counted(self: Any, input_ids: Tensor, **more: Any) -> Any:
        seen.append(len(input_ids))
        return plain(self, input_ids=input_ids, **more)

    monkeypatch.setattr(kind, "get_text_features", counted)
    files = pictures(tmp_path)
    words = ["cam", *files, "--model", f"transformers:{folder}", "--batch-size", "1", "--draw", "none"]
    ask = ["--target", "a dog", "a car - a dog", "--save", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, *ask]) == 0
    assert seen == [2]


def test_a_text_for_each_picture(folders: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the batches, every picture has the map and score that it has alone."""
    files = pictures(tmp_path)
    scores = {}
    for size in ("1", "2", "3"):
        out = tmp_path / size
        words = ["cam", *files, "--model", f"transformers:{folders['clip']}", "--batch-size", size, "--draw", "none"]
        assert (
            main([*words, "--each", "--target", "a dog", "red car", "a dog", "--save", str(out), "--device", "cpu"])
            == 0
        )
        records = [json.loads((out / f"p{i}.json").read_text()) for i in range(3)]
        assert [one["questions"] for one in records] == [["a dog"], ["red car"], ["a dog"]]
        scores[size] = [one["scores"][0] for one in records]
    made = opened(folders["clip"])
    assert made.prepare is not None
    batch = made.prepare([Image.open(file) for file in files])
    with torch.no_grad():
        whole: Any = made.module
        want = whole(**given(folders["clip"], ["a dog", "red car"]), pixel_values=batch.x).logits_per_image
    for found in scores.values():
        assert found == pytest.approx([float(want[0, 0]), float(want[1, 1]), float(want[2, 0])], abs=1e-4)


def test_bad_words_are_one_line(folder: Path, tmp_path: Path, capsys: Any) -> None:
    file = pictures(tmp_path, 1)[0]

    def said(*words: str, model: str = f"transformers:{folder}") -> str:
        capsys.readouterr()
        assert main(["cam", file, "--model", model, "--save", str(tmp_path / "out"), "--device", "cpu", *words]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("loupe")]
        assert len(lines) == 1
        return lines[0]

    assert "'!!!': the model's tokenizer leaves nothing of it" in said("--target", "!!!")
    assert "'!!!'" in said("--target", "!!!", "--templates", "a photo of {}")
    assert "'zebra': the model's tokenizer leaves nothing that the model knows" in said("--target", "zebra")
    assert "12 tokens, and the text tower takes 10" in said("--target", "a red " * 5)
    assert "expected {} where the word goes" in said("--target", "dog", "--templates", "a photo of")
    assert "--templates" in said("--templates", "a {}")
    assert "contrast of two" in said("--target", "a - dog - car")
    assert "both sides are the same text" in said("--target", "a car - A  car")
    for word in ("3", "top3", "truth"):
        assert "has no classes; say in words" in said("--target", word)
    plain = "transformers:vit?image_size=32&patch_size=8&hidden_size=32&num_hidden_layers=1&num_attention_heads=2"
    assert "--templates" in said("--target", "0", "--templates", "a {}", model=plain)
    assert "no text tower" in said("--target", "a dog", model="timm:test_vit?num_classes=0")
    assert "no text tower" in said("--each", "--target", "a dog", model="timm:test_vit?num_classes=0")


def test_a_word_that_is_known_in_part_is_told(folder: Path) -> None:
    made = opened(folder)
    with pytest.warns(LoupeWarning, match="'a red zebra': the model's tokenizer does not know part of it"):
        loupe.texts(made, ["a red zebra"])


def test_a_tokenizer_that_is_absent_or_another_s(folders: dict[str, Path], tmp_path: Path) -> None:
    network("clip").save_pretrained(tmp_path / "bare")
    with pytest.raises(BadInput, match="bare: no tokenizer beside the model"):
        loupe.texts(opened(tmp_path / "bare"), ["a dog"])
    tokenizer(tmp_path / "bare", ends=False)
    with pytest.raises(BadInput, match="adds no end token 3"):
        loupe.texts(opened(tmp_path / "bare"), ["a dog"])
    with pytest.raises(BadInput, match="no tokenizer"):
        loupe.texts(loupe.subject(network("siglip")), ["a dog"])
    made = opened(folders["siglip"])
    whole: Any = made.module
    whole.config.text_config.vocab_size = 8
    with pytest.raises(BadInput, match="gives token 9 of 8; it belongs to another model"):
        loupe.texts(made, ["a dog"])


def test_another_tokenizer_or_template_is_another_run(folders: dict[str, Path], tmp_path: Path) -> None:
    files = {"p0": pictures(tmp_path, 1)[0]}
    ask: dict[str, Any] = {
        "layers": None,
        "methods": ["gradcam"],
        "options": {},
        "target": ["a dog"],
        "each": False,
        "explain": "score",
    }
    ask |= {"threshold": 0.0, "aug_smooth": False, "eigen_smooth": False}

    def about(**more: Any) -> Any:
        model = {"model": f"transformers:{folders['clip']}", "device": "cpu"}
        return Job("maps", model, {"files": files, "labels": None}, {**ask, **more}).open().about()

    plain = about()
    assert about() == plain
    assert about(templates=["a photo of {}"]) != plain
    said = folders["clip"] / "tokenizer_config.json"
    before = said.read_text()
    said.write_text(before + "\n")
    assert about() != plain
    said.write_text(before)


def test_open_clip_by_its_own_tokenizer() -> None:
    """Scores as the model's own forward gives them; texts that its tokenizer would cut short are refused."""
    import open_clip

    from torchloupe.sources.assemble import Options
    from torchloupe.sources.open_clip import _subject

    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    torch.manual_seed(0)
    net = open_clip.CLIP(16, vision, text, init_logit_bias=-2.0).eval()
    made = _subject(open_clip, net, Options(device="cpu"), "ViT-B-32")
    target = loupe.texts(made, ["a red car", "a dog", "a dog - a red car"])
    found = loupe.Probe(made, made.layers, target)(loupe.Batch(X), grad=False).scores.value
    with torch.no_grad():
        image, words, factor, bias = net(X, open_clip.get_tokenizer("ViT-B-32")(["a red car", "a dog"]))[:4]
        want = (factor * image @ words.T + bias).T
    assert torch.allclose(found[:2], want, atol=1e-4)
    assert torch.allclose(found[2], want[1] - want[0], atol=1e-4)
    with pytest.raises(BadInput, match="102 tokens, and the text tower takes 77"):
        loupe.texts(made, ["car " * 100])
    other = _subject(open_clip, net, Options(device="cpu"), "ViT-B-16-SigLIP")
    with pytest.raises(BadInput, match="its tokenizer does not come with open_clip"):
        loupe.texts(other, ["a dog"])


def test_sides_and_shapes() -> None:
    assert sides("a well-lit car") == ("a well-lit car",)
    assert sides("a - b") == ("a", "b")
    for wrong in (" - b", "a - ", "- a"):
        with pytest.raises(BadInput, match="contrast of two"):
            sides(wrong)
    with pytest.raises(BadInput, match="expected directions"):
        Texts(("a",), torch.zeros(2, 3))
    with pytest.raises(BadInput, match="the texts have 3 numbers, the embeddings of pictures 4"):
        Texts(("a",), torch.ones(1, 3))(torch.ones(2, 4), loupe.Batch(torch.zeros(2, 3, 4, 4)))
