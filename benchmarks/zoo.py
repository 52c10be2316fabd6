"""Every architecture that can be had, with random weights and small pictures: default layer, layout, needle check, time.

python benchmarks/zoo.py FAMILY [--out FILE] asks one family in this process and adds a line of JSON for each architecture to
FILE; python benchmarks/zoo.py --table FILE writes the table of docs/models.md. The needle check: the gradient from single
cells of the default layer to the input has to lead to their own places (torchloupe.evidence.weigh).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import torchloupe as loupe
from torchloupe.evidence import weigh
from torchloupe.sources import patches
from torchloupe.subjects import Batch, Subject
from torchloupe.trace import tracing

# a name, how to make it at a size of pictures (None: its own), sizes in the order in which they are tried
Made = tuple[str, Callable[[int | None], Subject], tuple[int | None, ...]]
LIMIT = 60
SMALL_WORDS = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "xxs",
    "xx_small",
    "xs",
    "extra_small",
    "tiny",
    "_t_",
    "mini",
    "small",
)
TINY = "hidden_size=48&num_hidden_layers=3&num_attention_heads=3&intermediate_size=96&image_size=64&patch_size=8"
PYRAMID = "hidden_sizes=[16,32,48,64]&depths=[1,1,2,1]&num_channels=3"
SWIN = "image_size=64&patch_size=2&embed_dim=24&depths=[2,2,2]&num_heads=[1,2,4]&window_size=4"

TRANSFORMERS = {
    **dict.fromkeys(
        (
            *("vit", "deit", "beit", "data2vec-vision", "vit_msn", "ijepa", "clip_vision_model", "siglip_vision_model"),
            *("siglip2_vision_model", "yolos", "dpt", "vit_mae"),
        ),
        TINY,
    ),
    **{
        name: TINY.partition("&intermediate")[0] + "&image_size=64&patch_size=8"
        for name in ("dinov2", "dinov2_with_registers")
    },
    "dinov3_vit": TINY,
    "siglip2_vision_model": TINY.replace("image_size=64", "num_patches=64"),
    "yolos": TINY.replace("image_size=64", "image_size=[64,64]"),
    "dpt": TINY.replace("hidden_layers=3", "hidden_layers=4") + "&backbone_out_indices=[0,1,2,3]",
    "dinov3_convnext": "hidden_sizes=[16,32,48,64]&depths=[1,1,2,1]",
    "swin": SWIN,
    "swinv2": SWIN,
    "maskformer-swin": SWIN,
    "donut-swin": SWIN,
    "convnext": PYRAMID,
    "convnextv2": PYRAMID,
    "resnet": "embedding_size=16&hidden_sizes=[16,32,48]&depths=[1,1,1]",
    "regnet": "embedding_size=16&hidden_sizes=[16,32,48]&depths=[1,1,1]&groups_width=8",
    "bit": "embedding_size=32&hidden_sizes=[64,128]&depths=[1,1]&num_groups=8",
    "segformer": "hidden_sizes=[16,32,48,64]&depths=[1,1,1,1]&decoder_hidden_size=32",
    "pvt": "image_size=64&hidden_sizes=[16,32,40,64]&depths=[1,1,1,1]",
    "pvt_v2": "image_size=64&hidden_sizes=[16,32,40,64]&depths=[1,1,1,1]",
    "poolformer": "hidden_sizes=[16,32,48,64]&depths=[1,1,1,1]",
    "focalnet": "image_size=64&embed_dim=16&depths=[1,1,1,1]",
    "mobilenet_v1": "",
    "mobilenet_v2": "",
    "mobilevit": "image_size=64",
    "mobilevitv2": "image_size=64",
    "efficientnet": "width_coefficient=1.0&depth_coefficient=1.0&hidden_dim=1280&image_size=64",
    "levit": "image_size=224",
    "hiera": "",
    "swiftformer": "",
    "cvt": "",
    "vivit": "hidden_size=48&num_hidden_layers=3&num_attention_heads=3&intermediate_size=96&image_size=32&num_frames=4&tubelet_size=[2,8,8]",
    "videomae": "hidden_size=48&num_hidden_layers=3&num_attention_heads=3&intermediate_size=96&image_size=32&num_frames=4&patch_size=8",
    "timesformer": "hidden_size=48&num_hidden_layers=3&num_attention_heads=3&intermediate_size=96&image_size=32&num_frames=4&patch_size=8",
    "audio-spectrogram-transformer": "hidden_size=48&num_hidden_layers=3&num_attention_heads=3&intermediate_size=96&max_length=128&num_mel_bins=64",
}
TORCHVISION = {
    **dict.fromkeys(
        (
            *(
                "alexnet",
                "vgg11",
                "vgg11_bn",
                "resnet18",
                "resnet50",
                "resnext50_32x4d",
                "wide_resnet50_2",
                "densenet121",
            ),
            *(
                "squeezenet1_0",
                "squeezenet1_1",
                "googlenet",
                "mobilenet_v2",
                "mobilenet_v3_small",
                "mobilenet_v3_large",
            ),
            *(
                "shufflenet_v2_x0_5",
                "mnasnet0_5",
                "efficientnet_b0",
                "efficientnet_v2_s",
                "regnet_y_400mf",
                "regnet_x_400mf",
            ),
            *("convnext_tiny", "swin_t", "swin_v2_t"),
        ),
        64,
    ),
    "inception_v3": 128,
    "vit_b_32": 224,
    "maxvit_t": 224,
    **dict.fromkeys(("lraspp_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_mobilenet_v3_large"), 64),
    **dict.fromkeys(("r3d_18", "mc3_18", "r2plus1d_18"), 32),
    **dict.fromkeys(("s3d", "swin3d_t", "mvit_v1_b"), 224),
}
# of one size, or too large for more
FIXED = ("vit_b_32", "maxvit_t", "s3d", "swin3d_t", "mvit_v1_b")
OPEN_CLIP = (
    "RN50",
    "ViT-B-32",
    "ViT-S-16",
    "convnext_base",
    "MobileCLIP-S1",
    "EVA02-B-16",
    "coca_ViT-B-32",
    "ViT-B-16-SigLIP",
)
ULTRALYTICS = (
    *("yolov5n", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov8n-obb", "yolov9t", "yolov10n"),
    *("yolo11n", "yolo11n-cls", "yolo12n"),
)
SMP = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PAN",
    "UPerNet",
    "Segformer",
)


def timm_family(part: int, parts: int) -> Iterator[Made]:
    """Of each of timm's files the smallest architecture by its name, and the one of the shortest name."""
    timm = patches.imported("timm")
    for number, module in enumerate(timm.list_modules()):
        names = timm.list_models(module=module)
        if not names or number % parts != part:
            continue
        ranked = sorted(names, key=lambda n: (next((i for i, w in enumerate(SMALL_WORDS) if w in n), 99), len(n), n))
        for name in dict.fromkeys((ranked[0], min(names, key=len))):
            yield (
                f"timm:{name}",
                lambda z, n=name: loupe.subject(f"timm:{n}", size=z, device="cpu"),
                (64, 128, 224, None),
            )


def monai_family() -> Iterator[Made]:
    """Volumes."""
    nets = patches.imported("monai.networks.nets")

    def given(make: Callable[[], torch.nn.Module], dims: int, side: int | None) -> Subject:
        x = torch.zeros(1, 1, *[side or 64] * dims)
        return loupe.subject(make().eval(), example=Batch(x, loupe.Layout("n c h w" if dims == 2 else "n c t h w")))

    for dims, sizes in ((2, (64, 128, 256)), (3, (32, 64))):
        made = {
            "UNet": lambda d=dims: nets.UNet(d, 1, 2, (8, 16, 32), (2, 2)),
            "BasicUNet": lambda d=dims: nets.BasicUNet(d, 1, 2, (8, 8, 16, 16, 32, 8)),
            "SegResNet": lambda d=dims: nets.SegResNet(d, 8, 1, 2),
            "VNet": lambda d=dims: nets.VNet(d, 1, 2),
            "DenseNet": lambda d=dims: nets.DenseNet(d, 1, 3, 16, 8, (2, 2)),
            "ResNet": lambda d=dims: nets.ResNet(
                "basic", (1, 1, 1, 1), (8, 16, 32, 64), n_input_channels=1, spatial_dims=d, num_classes=3
            ),
            "SENet": lambda d=dims: nets.SEResNet50(spatial_dims=d, in_channels=1, num_classes=3),
            "ViT": lambda d=dims: nets.ViT(
                1,
                (32,) * d if d == 3 else (64, 64),
                (8,) * d,
                48,
                96,
                3,
                3,
                classification=True,
                num_classes=3,
                spatial_dims=d,
            ),
            "UNETR": lambda d=dims: nets.UNETR(1, 2, (32,) * d if d == 3 else (64, 64), 8, 48, 96, 3, spatial_dims=d),
            "SwinUNETR": lambda d=dims: nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=d),
            "AttentionUnet": lambda d=dims: nets.AttentionUnet(d, 1, 2, (8, 16, 32), (2, 2)),
            "DynUNet": lambda d=dims: nets.DynUNet(d, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(8, 16, 32)),
        }
        for name, make in made.items():
            fixed = name in ("ViT", "UNETR")
            yield f"monai {name} {dims}-D", partial(given, make, dims), sizes[:1] if fixed else sizes


def smp_family() -> Iterator[Made]:
    """Segmenters with small encoders."""
    smp = patches.imported("segmentation_models_pytorch")
    for name in SMP:
        encoder = "mit_b0" if name == "Segformer" else "resnet18"
        make = partial(getattr(smp, name), encoder, encoder_weights=None, classes=3)
        yield f"smp {name} ({encoder})", lambda z, m=make: loupe.subject(m().eval(), size=z), (64, 192)


def family(name: str) -> Iterator[Made]:
    """The architectures of a family; timm in four parts, timm0 to timm3."""
    if name.startswith("timm"):
        yield from timm_family(int(name[4:] or 0), 4)
    for spec, options in TRANSFORMERS.items() if name == "transformers" else ():
        yield f"transformers:{spec}", partial(_transformer, spec, options), (None, 128, 224)
    for spec, size in TORCHVISION.items() if name == "torchvision" else ():
        sizes = (size,) if spec in FIXED else (size, 112) if size == 32 else tuple(dict.fromkeys((size, 160)))
        yield f"torchvision:{spec}", lambda z, s=spec: loupe.subject(f"torchvision:{s}", size=z, device="cpu"), sizes
    for spec in OPEN_CLIP if name == "open_clip" else ():
        yield f"open_clip:{spec}", lambda _z, s=spec: loupe.subject(f"open_clip:{s}", device="cpu"), (None,)
    for spec in ULTRALYTICS if name == "ultralytics" else ():
        yield (
            f"ultralytics:{spec}",
            lambda z, s=spec: loupe.subject(f"ultralytics:{s}.yaml", size=z, device="cpu"),
            (128, 320),
        )
    if name == "monai":
        yield from monai_family()
    if name == "smp":
        yield from smp_family()


def _transformer(spec: str, options: str, size: int | None) -> Subject:
    """From a small config; at a size of its own where it has pictures, else of those that it is given."""
    if size is not None and "image_size=" in options:
        options = re.sub(r"image_size=\d+", f"image_size={size}", options)
        size = None
    return loupe.subject(f"transformers:{spec}?{options}", size=size, device="cpu")


def told(name: str, make: Callable[[int | None], Subject], sizes: tuple[int | None, ...]) -> dict[str, Any]:
    """One line of the table: at the smallest of the sizes at which the check can tell, else the best that was found."""
    row: dict[str, Any] = {"model": name, "verdict": "failed", "why": "no size was tried"}
    order = ("failed", "refused", "cannot be asked", "cannot tell")
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        for size in sizes:
            try:
                found = asked(name, make, size)
            except TimeoutError:
                raise
            except Exception as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                found = {"model": name, "verdict": "failed", "why": why}
            if found["verdict"] not in order:
                return found
            if order.index(found["verdict"]) >= order.index(row["verdict"]):
                row = found
    except TimeoutError as error:
        if row["verdict"] == "failed":
            row["why"] = str(error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return row


def asked(name: str, make: Callable[[int | None], Subject], size: int | None) -> dict[str, Any]:
    """What is found at one size."""
    torch.manual_seed(0)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        made = make(size)
        seconds = time.process_time() - start
    row: dict[str, Any] = {
        "model": name,
        "kind": made.kind,
        "layer": ", ".join(made.layers),
        "seconds": round(seconds, 1),
    }
    if not made.layers:
        told = [str(one.message) for one in seen if issubclass(one.category, loupe.LoupeWarning)]
        return {**row, "verdict": "refused", "why": (told or ["no layer can be drawn"])[-1][-160:]}
    batch = made.example
    if batch is None:
        assert made.prepare is not None
        from PIL import Image

        batch = made.prepare([Image.new("RGB", (320, 320), "grey")], ("grey",))
    with made.asked() as own, torch.no_grad(), tracing(own.module) as trace:
        own.output(batch)
    bare, _, call = made.layers[0].partition("#")
    visit = trace.of(bare)[int(call or 0)]

    def nothing(_output: Any, samples: Batch) -> loupe.Scores:
        return loupe.Scores(torch.zeros(1, samples.n), (samples.ids,))

    found = loupe.Probe(made, made.layers[:1], nothing)(batch, grad=False)
    layout = found.layouts[made.layers[0]]
    _, _, t, h, w = found.act[made.layers[0]].shape
    evidence = weigh(made, batch, visit, layout)
    row |= {
        "layout": layout.pattern + (f" skip {layout.skip}" if layout.skip else ""),
        "pictures": " x ".join(str(side) for side in batch.size[batch.size[0] == 1 :]),
        "grid": f"{t} x {h} x {w}" if t > 1 else f"{h} x {w}",
    }
    if evidence is None:
        return {**row, "verdict": "cannot be asked"}
    # single cells behind dilated kernels at random weights depend on others as much as on their own, but not more
    wrong = evidence.contradicted and evidence.rank > 0.35
    verdict = "right" if evidence.shown else "WRONG" if wrong else "cannot tell"
    return {**row, "verdict": verdict, "evidence": str(evidence)}


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown, counted."""
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["verdict"]] = counts.get(line["verdict"], 0) + 1
    rows = [
        f"{len(lines)} architectures: "
        + ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        + ".",
        "",
    ]
    rows += [
        "| model | pictures | default layer | layout | grid | needle check | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        said = f"{line['verdict']}: {line['why']}" if "why" in line else line["verdict"]
        cells = (
            line["model"],
            line.get("pictures", ""),
            line.get("layer", ""),
            line.get("layout", ""),
            line.get("grid", ""),
            said,
            line.get("seconds", ""),
        )
        rows.append("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", nargs="?")
    parser.add_argument("--out", type=Path, default=Path("zoo.jsonl"))
    parser.add_argument("--table", type=Path)
    words = parser.parse_args()
    if words.table:
        print(table([json.loads(line) for line in words.table.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    patches.torchvision()
    done = {json.loads(line)["model"] for line in words.out.read_text().splitlines()} if words.out.exists() else set()

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {LIMIT} s of CPU")

    signal.signal(signal.SIGVTALRM, late)
    for name, make, sizes in family(words.family):
        if name in done:
            continue
        row = told(name, make, sizes)
        with words.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            row["model"],
            row["verdict"],
            row.get("layer"),
            row.get("layout"),
            row.get("grid"),
            row.get("why", ""),
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
