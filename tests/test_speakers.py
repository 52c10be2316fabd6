"""Vision-language models with small random weights: the answer's probability, and gradients where the picture comes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import torchloupe as loupe
from torchloupe.cli import main
from torchloupe.sources import patches

WORDS = ("what", "colour", "is", "the", "bus", "red", "blue", "dark")
LAST = ("<image>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 32,
}
PICTURE = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
ASKED = "what colour is the bus"


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        "<s>": 0,
        "<pad>": 1,
        "</s>": 2,
        "<unk>": 3,
        **{word: 4 + i for i, word in enumerate((*WORDS, *LAST))},
    }
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=list(LAST), **names)


def llava(folder: Path) -> Any:
    import transformers as t

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    }
    config = t.LlavaConfig(vision_config=vision, text_config={"model_type": "llama", **TEXT}, image_token_id=12)
    torch.manual_seed(0)
    net = t.LlavaForConditionalGeneration(config).eval()
    images = t.CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    processor = t.LlavaProcessor(
        images,
        tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return net


def qwen(folder: Path) -> Any:
    import transformers as t

    vision = {
        "depth": 2,
        "hidden_size": 24,
        "num_heads": 2,
        "intermediate_size": 32,
        "patch_size": 4,
        "window_size": 16,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {**TEXT, "rope_parameters": rope, "bos_token_id": 0, "eos_token_id": 2}
    config = t.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=13,
        video_token_id=16,
        vision_start_token_id=14,
        vision_end_token_id=15,
    )
    torch.manual_seed(0)
    net = t.Qwen2_5_VLForConditionalGeneration(config).eval()
    images = t.Qwen2VLImageProcessor(min_pixels=64, max_pixels=32 * 48, patch_size=4)
    template = "<|vision_start|> <|image_pad|> <|vision_end|> {{ messages[0]['content'][1]['text'] }} "
    from transformers.models.qwen2_5_vl import Qwen2_5_VLProcessor

    processor = Qwen2_5_VLProcessor(images, tokenizer(), t.Qwen2VLVideoProcessor(patch_size=4), chat_template=template)
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return net


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    patches.torchvision()
    made = {}
    for make in (llava, qwen):
        folder = tmp_path_factory.mktemp(make.__name__)
        made[make.__name__] = (folder, make(folder))
        Image.fromarray(PICTURE).save(folder / "bus.png")
    return made


def opened(folder: Path, *answers: str) -> loupe.Subject:
    made = loupe.subject(f"transformers:{folder}", device="cpu")
    assert made.speaker is not None
    return made.speaker(ASKED, list(answers))


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_the_score_is_the_answer_s_log_probability(folders: Any, kind: str) -> None:
    """Word after word by the model itself; the gradient where the picture comes in by plain autograd."""
    folder, net = folders[kind]
    images = [Image.fromarray(PICTURE)]
    one = opened(folder, "answer:red", "answer:blue")
    assert one.prepare is not None
    batch = one.prepare(images, ("bus",))
    given = dict(batch.shared)
    with torch.no_grad():
        want = net(pixel_values=batch.x, **given).logits[0, -1].log_softmax(0)
    found = loupe.Probe(one, one.layers, loupe.Classes((0, 1))).ask(batch)[0]
    np.testing.assert_allclose(found.value[:, 0], want[[9, 10]], atol=1e-5)
    assert found.labels == (("answer:red",), ("answer:blue",))

    two = opened(folder, "answer:dark red")
    probe = loupe.Probe(two, two.layers, loupe.Classes(0))
    ids = torch.cat([given["input_ids"], torch.tensor([[11, 9]])], 1)
    given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in given:
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros(1, 2, dtype=torch.long)], 1)
    kept: list[Tensor] = []
    handle = net.get_submodule(two.layers[0]).register_forward_hook(
        lambda _m, _i, out: kept.append(out.requires_grad_() if not out.requires_grad else out)
    )
    logits = net(pixel_values=batch.x, **given).logits[0]
    handle.remove()
    score = logits[-3].log_softmax(0)[11] + logits[-2].log_softmax(0)[9]
    (grad,) = torch.autograd.grad(score, kept[0])
    seen = probe(batch)
    np.testing.assert_allclose(float(seen.scores.value), float(score), atol=1e-5)
    h, w = (4, 4) if kind == "llava" else (batch.size[1] // 8, batch.size[2] // 8)
    want_map = (grad * kept[0]).sum(-1).reshape(h, w).detach()
    np.testing.assert_allclose(loupe.hirescam(probe, batch, relu=False)[two.layers[0]][0, 0, 0], want_map, atol=1e-5)


def test_pictures_cut_to_patches_are_put_together(folders: Any) -> None:
    folder, _ = folders["qwen"]
    one = opened(folder, "answer:red")
    assert one.prepare is not None
    batch = one.prepare([Image.fromarray(PICTURE)], ("bus",))
    assert batch.pictures is not None
    assert batch.pictures.shape == (1, 1, *batch.size[1:], 3)
    large = np.asarray(Image.fromarray(PICTURE).resize(batch.size[:0:-1], Image.Resampling.BICUBIC), float)
    apart = np.abs(batch.pictures[0, 0].numpy() - large)
    assert apart.mean() < 3
    twice = batch.take([0, 0])
    assert torch.equal(twice.layout.canonical([twice.x], 2), batch.layout.canonical([batch.x], 1).repeat(2, 1, 1, 1, 1))
    assert torch.equal(batch.spread(2).x, twice.x)
    pixels = loupe.gradient_x_input(loupe.Probe(one, ("input",), loupe.Classes(0)), batch)["input"]
    assert pixels.shape[2:] == batch.size
    assert (pixels.abs().sum((-1, -2)) > 0).all()


@pytest.mark.parametrize("kind", ["llava", "qwen"])
def test_from_the_command_line(folders: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = folders[kind]
    asked = ["cam", str(folder / "bus.png"), "--model", f"transformers:{folder}", "--save", str(tmp_path / "out")]
    assert (
        main([*asked, "--say", ASKED, "--target", "answer:red", "answer:red - answer:blue", "--method", "gradcam"]) == 0
    )
    record = json.loads((tmp_path / "out/bus.json").read_text())
    assert record["questions"] == ["answer:red", "answer:red - answer:blue"]
    said = capsys.readouterr().err
    assert "said: " in said
    for more, told in (
        (["--target", "answer:red"], "ask one: --say"),
        (["--say", ASKED], "give --target answer:WORD"),
        (["--say", ASKED, "--target", "red"], "give --target answer:WORD"),
        (["--say", ASKED, "--target", "answer:zebra"], "nothing that the model knows"),
        (["--say", ASKED, "--target", "answer:"], "leaves nothing of it"),
        (["--say", ASKED, "--target", "answer:dark red", "answer:blue"], "asked alone"),
    ):
        assert main([*asked, *more]) == 2
        assert told in capsys.readouterr().err


def test_models_that_do_not_write(folders: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(folders["llava"][0] / "bus.png")
    assert (
        main(["cam", picture, "--model", "timm:resnet10t", "--size", "32", "--say", "a", "--save", str(tmp_path)]) == 2
    )
    assert "--say is for models that look and write" in capsys.readouterr().err
    bare = tmp_path / "bare"
    folders["llava"][1].save_pretrained(bare)
    assert (
        main(
            [
                "cam",
                picture,
                "--model",
                f"transformers:{bare}",
                "--say",
                "a",
                "--target",
                "answer:red",
                "--save",
                str(tmp_path),
            ]
        )
        == 2
    )
    assert "no processor" in capsys.readouterr().err
