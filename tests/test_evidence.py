"""Layouts are believed on evidence: networks whose tokens lie as one would not guess, and tokens that are no picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from torchloupe.axes import Layout
from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.names import told
from torchloupe.probe import INPUT, Batch, Probe, Subject
from torchloupe.sources import subject
from torchloupe.targets.classes import Classes


class Block(nn.Module):
    """A residual block: every token hears a little of the mean of all."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.mix, self.fc = nn.LayerNorm(c), nn.Linear(c, c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.mix(y.mean(-2, keepdim=True))
        return x + self.fc(torch.tanh(y))


class Cut(nn.Module):
    """Patches by a convolution, tokens in an order, with so many extra tokens before; blocks; a head on their mean."""

    def __init__(self, conv: nn.Module, order: str, extra: int = 0, c: int = 12, **sizes: int) -> None:
        super().__init__()
        self.patches, self.order, self.sizes = conv, order, sizes
        self.extra = nn.Parameter(torch.randn(1, extra, c))
        self.blocks = nn.Sequential(Block(c), Block(c))
        self.norm, self.head = nn.LayerNorm(c), nn.Linear(c, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.patches(x), self.order, **self.sizes)
        if self.extra.shape[1]:
            tokens = torch.cat([self.extra.expand(len(tokens), -1, -1), tokens], 1)
        return self.head(self.norm(self.blocks(tokens)).flatten(1, -2).mean(1))


class Spectrum(Cut):
    """An audio transformer: the input's rows are time, its convolution's are frequency."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, None].transpose(2, 3))


class Frames(nn.Module):
    """Every frame by itself, then tokens ordered place by place with their times together, as in TimeSformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.block, self.head = Block(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.patches(x.flatten(0, 1)), "(n t) c h w -> n (h w t) c", n=len(x))
        return self.head(self.block(torch.cat([self.token.expand(len(x), -1, -1), tokens], 1)).mean(1))


class Halved(nn.Module):
    """Tokens of a grid, four places by four apart (mask units): the blocks' order is not the picture's, as in Hiera."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 7, 4, 3), nn.Conv2d(12, 8, 1))
        self.widen, self.block, self.head = nn.Linear(8, 16), Block(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.stem(x), "n c (h p a) (w q b) -> n (a b p q h w) c", a=2, b=2, p=2, q=2)
        return self.head(self.block(self.widen(tokens)).mean(1))


class Folded(nn.Module):
    """MobileViT: places of a patch folded into the samples, its patches as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 12, 3, 2, 1), Block(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(self.stem(x), "n c (h a) (w b) -> (n a b) (h w) c", a=2, b=2)
        return self.head(rearrange(self.block(y), "(n a) p c -> n (a p) c", n=len(x)).mean(1))


class Queries(nn.Module):
    """A decoder: queries look at all places of a picture by attention, as in DETR, Perceiver, poolings with latents."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 7, 4, 3), nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1))
        self.query = nn.Parameter(torch.randn(1, count, 16))
        self.attention, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.block, self.head = Block(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        places = self.stem(x).flatten(2).transpose(1, 2)
        query = self.query.expand(len(x), -1, -1)
        return self.head(self.block(self.norm(query + self.attention(query, places, places)[0])).mean(1))


class Visible(nn.Module):
    """A masked autoencoder's encoder: the tokens that are seen, in a random order."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.head = nn.Conv2d(3, 12, 4, 4), Block(12), nn.Linear(12, 5)
        self.register_buffer("kept", torch.randperm(64)[:16])

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens[:, self.kept]).mean(1))


class Unfold(nn.Module):
    """Blocks of places: (n, block, place, c), as in NesT."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 12, 4, 4), Block(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.stem(x), "n c (a h) (b w) -> n (a b) (h w) c", a=2, b=2)
        return self.head(self.block(tokens).flatten(1, 2).mean(1))


class PlaceFirst(nn.Module):
    """(n, c, place in its patch, patch), worked on by 1 x 1 convolutions, as in MobileViT v2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inside, self.head = nn.Conv2d(3, 12, 3, 2, 1), nn.Conv2d(12, 10, 1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = rearrange(self.stem(x), "n c (h a) (w b) -> n c (a b) (h w)", a=2, b=2)
        return self.head(torch.tanh(self.inside(y)).flatten(2).mean(2))


def conv(d: int, **kw: object) -> nn.Module:
    return (nn.Conv2d if d == 2 else nn.Conv3d)(3, 12, **kw)  # type: ignore[arg-type]


VIDEO = (3, 8, 32, 24)
CASES: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...], str, Callable[[Tensor], Tensor]]] = {
    "video tokens": (
        lambda: Cut(conv(3, kernel_size=(2, 8, 8), stride=(2, 8, 8)), "n c t h w -> n (t h w) c"),
        "blocks.1",
        VIDEO,
        "n c t h w",
        lambda out: rearrange(out, "n (t h w) c -> n c t h w", t=4, h=4),
    ),
    "video tokens behind a class token": (
        lambda: Cut(conv(3, kernel_size=(2, 8, 8), stride=(2, 8, 8)), "n c t h w -> n (t h w) c", extra=1),
        "blocks.0.norm",
        VIDEO,
        "n c t h w",
        lambda out: rearrange(out[:, 1:], "n (t h w) c -> n c t h w", t=4, h=4),
    ),
    "a LayerNorm on n c t h w": (
        lambda: Cut(conv(3, kernel_size=(4, 8, 8), stride=(4, 8, 8)), "n c t h w -> n t h w c"),
        "blocks.1",
        VIDEO,
        "n c t h w",
        lambda out: rearrange(out, "n t h w c -> n c t h w"),
    ),
    "times together": (
        Frames,
        "block",
        (8, 3, 32, 24),
        "n t c h w",
        lambda out: rearrange(out[:, 1:], "n (h w t) c -> n c t h w", t=8, h=4),
    ),
    "a volume of 64 places and a class token": (
        lambda: Cut(conv(3, kernel_size=8, stride=8), "n c t h w -> n (t h w) c", extra=1),
        "blocks.1",
        (3, 32, 32, 32),
        "n c t h w",
        lambda out: rearrange(out[:, 1:], "n (t h w) c -> n c t h w", t=4, h=4),
    ),
    "columns first": (
        lambda: Cut(conv(2, kernel_size=4, stride=4), "n c h w -> n (w h) c"),
        "blocks.1",
        (3, 32, 32),
        "n c h w",
        lambda out: rearrange(out, "n (w h) c -> n c 1 h w", h=8),
    ),
    "mask units": (
        Halved,
        "block",
        (3, 64, 64),
        "n c h w",
        lambda out: rearrange(out, "n (a b p q h w) c -> n c 1 (h p a) (w q b)", a=2, b=2, p=2, q=2, h=4),
    ),
    "blocks of places": (
        Unfold,
        "block",
        (3, 48, 48),
        "n c h w",
        lambda out: rearrange(out, "n (a b) (h w) c -> n c 1 (a h) (b w)", a=2, h=6),
    ),
    "places of patches": (
        PlaceFirst,
        "inside",
        (3, 32, 32),
        "n c h w",
        lambda out: rearrange(out, "n c (a b) (h w) -> n c 1 (h a) (w b)", a=2, h=8),
    ),
    "a spectrum": (
        lambda: Spectrum(nn.Conv2d(1, 12, 4, 4), "n c h w -> n (h w) c", extra=2),
        "blocks.1",
        (48, 24),
        "n h w",
        lambda out: rearrange(out[:, 2:], "n (w h) c -> n c 1 h w", h=12),
    ),
    "a spectrum's convolution": (
        lambda: Spectrum(nn.Conv2d(1, 12, 4, 4), "n c h w -> n (h w) c", extra=2),
        "patches",
        (48, 24),
        "n h w",
        lambda out: rearrange(out, "n c w h -> n c 1 h w"),
    ),
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return make().eval()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_tokens_lie_as_the_network_laid_them(name: str, n: int) -> None:
    make, layer, shape, pattern, canonical = CASES[name]
    net, given = built(make), Batch(torch.rand(n, *shape), Layout(pattern))
    raw: list[Tensor] = []
    seen = Probe(Subject(net), (layer,), Classes((1,)))(given)
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: raw.append(out.detach()))
    net(given.x)
    handle.remove()
    want = canonical(raw[0])
    assert seen.act[layer].shape == want.shape
    assert torch.allclose(seen.act[layer], want, atol=1e-5)
    assert seen.layouts[layer].rests


@pytest.mark.parametrize(
    ("make", "layers"),
    [
        (lambda: Queries(64), ("block", "norm")),
        (lambda: Queries(4), ("block", "norm")),
        (lambda: Queries(16), ("block",)),
        (Visible, ("block",)),
    ],
    ids=["as many queries as places", "four latents", "queries", "visible tokens"],
)
def test_what_nothing_ties_to_the_picture_is_refused(make: Callable[[], nn.Module], layers: Sequence[str]) -> None:
    subject, given = (
        Subject(built(make)),
        Batch(torch.rand(1, 3, 64, 64) if make is not Visible else torch.rand(1, 3, 32, 32)),
    )
    for layer in layers:
        with pytest.raises(BadInput, match=r"cannot be drawn.*layouts=\{'" + layer):
            Probe(subject, (layer,), Classes((1,)))(given)


@pytest.mark.parametrize("n", [1, 2, 16, 64])
def test_the_number_of_samples_does_not_matter(n: int) -> None:
    with pytest.raises(BadInput, match="windows or patches"):
        Probe(Subject(built(Folded)), ("block",), Classes((1,)))(Batch(torch.rand(n, 3, 16, 16)))


class Signal(nn.Module):
    """Convolutions along one axis, with as many channels as steps."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(2, 16, 3, stride, 1), nn.ReLU(), nn.GroupNorm(2, 16), nn.GELU(), nn.Dropout()),
            *(nn.MaxPool1d(3, 1, 1), nn.Conv1d(16, 6, 5, stride, 2), nn.Tanh()),
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean(2))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_signals_run_along_their_steps(stride: int) -> None:
    net = built(lambda: Signal(stride))
    given = Batch(torch.rand(2, 2, 16 * stride), Layout("n c h"))
    names = tuple(f"layers.{i}" for i in range(8))
    seen = Probe(Subject(net), names, Classes((1,)))(given)
    x = given.x
    for name, part in zip(names, net.layers, strict=True):
        x = part(x)
        assert torch.allclose(seen.act[name], x[:, :, None, :, None], atol=1e-6), name


def test_tokens_along_a_signal() -> None:
    class Along(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.token = nn.Conv1d(2, 12, 4, 4), nn.Parameter(torch.randn(1, 1, 12))
            self.block, self.head = Block(12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).transpose(1, 2)], 1)
            return self.head(self.block(y).mean(1))

    net, given = built(Along), Batch(torch.rand(2, 2, 48), Layout("n c h"))
    seen = Probe(Subject(net), ("block",), Classes((1,)))(given)
    assert seen.layouts["block"] == Layout("n h c", skip=1)
    assert seen.act["block"].shape == (2, 12, 1, 12, 1)


def test_evidence_is_asked_once_a_model_and_layer() -> None:
    net, forwards = built(CASES["mask units"][0]), []
    net.stem.register_forward_hook(lambda *_: forwards.append(1))
    probe, given = Probe(Subject(net), ("block",), Classes((1,))), Batch(torch.rand(2, 3, 64, 64))
    probe(given)
    first, forwards[:] = len(forwards), []
    probe(given)
    assert first > 1
    assert len(forwards) == 1
    forwards.clear()
    Probe(Subject(net), ("stem",), Classes((1,)))(given)
    assert len(forwards) == 1


def test_asking_for_evidence_leaves_random_numbers_alone() -> None:
    class Noisy(Cut):
        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1)
            return super().forward(x)

    net = built(lambda: Noisy(conv(2, kernel_size=4, stride=4), "n c h w -> n (w h) c"))
    probe, given, drawn = Probe(Subject(net), ("blocks.1",), Classes((1,))), Batch(torch.rand(1, 3, 32, 32)), []
    for _ in range(2):
        torch.manual_seed(5)
        probe(given)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_declared_layouts_are_not_asked() -> None:
    layout = Layout("n (h w) c", sizes={"h": 4, "w": 1})
    subject = Subject(built(lambda: Queries(4)), layout={"block": layout}.get)
    seen = Probe(subject, ("block", INPUT), Classes((1,)))(Batch(torch.rand(1, 3, 64, 64)))
    assert seen.act["block"].shape == (1, 16, 1, 4, 1)


class Attending(nn.Module):
    """A ViT block with attention that sees all places alike, in a network for one size of picture."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 24, 8, 8), nn.Parameter(0.1 * torch.randn(1, 25, 24))
        self.token, self.block, self.head = nn.Parameter(torch.randn(1, 1, 24)), nn.Module(), nn.Linear(24, 5)
        self.block = Mean(24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.place)[:, 0])


class Mean(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm, self.alike = nn.LayerNorm(c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alike(self.norm(x).mean(1, keepdim=True).expand_as(x))


def test_a_part_of_a_block_lies_as_the_block_does() -> None:
    found = Probe(Subject(built(Attending)), ("block.alike",), Classes((1,)))(
        Batch(torch.rand(1, 3, 48, 32)), grad=False
    )
    assert found.layouts["block.alike"] == Layout("n (h w) c", skip=1, sizes={"h": 6, "w": 4})
    assert found.layouts["block.alike"].rests.startswith("as block around it")


VIDEO_NET = CASES["video tokens"]


def test_what_is_said_is_taken() -> None:
    subject = told(Subject(built(VIDEO_NET[0])), {"blocks.*": "n (t h w) c"}, {"t": 4})
    given = Batch(torch.rand(2, *VIDEO), Layout("n c t h w"))
    seen = Probe(subject, ("blocks.0", "blocks.1"), Classes((1,)))(given)
    assert {tuple(act.shape) for act in seen.act.values()} == {(2, 12, 4, 4, 3)}
    assert seen.layouts["blocks.1"].rests == "said"
    queries = told(Subject(built(lambda: Queries(17))), {"block": "n (h w) c"}, extra_tokens=1)
    assert Probe(queries, ("block",), Classes((1,)))(Batch(torch.rand(1, 3, 64, 64))).act["block"].shape[2:] == (
        1,
        4,
        4,
    )
    behind = told(Subject(built(lambda: Queries(17))), extra_tokens=1)
    found = Probe(behind, ("block",), Classes((1,)))(Batch(torch.rand(1, 3, 64, 64))).layouts["block"]
    assert (found, found.rests) == (
        Layout("n (h w) c", skip=1, sizes={"h": 4, "w": 4}),
        "said: 1 extra tokens, then the picture's",
    )
    with pytest.raises(BadInput, match="behind 3 extra tokens"):
        Probe(told(behind, extra_tokens=3), ("block",), Classes((1,)))(Batch(torch.rand(1, 3, 64, 64)))


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"layouts": {"blcks.1": "n (h w) c"}}, "Did you mean blocks"),
        ({"layouts": {"blocks.1": "n (h w c"}}, "expected the axes in their order"),
        ({"layouts": {"blocks.1": "n h h c"}}, "expected the axes in their order"),
        ({"layouts": {"blocks.1": "(h w) c"}}, "expected the axes in their order"),
        ({"layouts": {"blocks.1": "n (h w) c"}, "sizes": {"t": 8}}, "layout size 't': no layout has this axis"),
        ({"layouts": {"blocks.1": "n (t h w) c"}, "sizes": {"t": 0}}, "layout size t=0"),
        ({"layouts": {"blocks.1": "n (t h w) c"}, "sizes": {"t": "many"}}, "layout size t='many'"),
        ({"sizes": {"t": 8}}, "without a layout"),
        ({"extra_tokens": -1}, "expected 0 or more"),
    ],
)
def test_what_is_said_wrongly_is_told(said: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        told(Subject(built(VIDEO_NET[0])), **said)


def test_a_pattern_whose_lengths_are_open_says_which() -> None:
    subject = told(Subject(built(VIDEO_NET[0])), {"blocks.1": "n (t h w) c"})
    with pytest.raises(BadInput, match="length of 't' is not known"):
        Probe(subject, ("blocks.1",), Classes((1,)))(Batch(torch.rand(1, *VIDEO), Layout("n c t h w")))


def query_network() -> nn.Module:
    """For the command line: a decoder of queries, whose encoder has a picture."""
    return built(lambda: Queries(49))


def test_the_default_is_a_layer_with_a_picture() -> None:
    made = subject(query_network(), size=112)
    assert made.layers == ("stem",)


def test_layers_and_maps_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    model = "torch:test_evidence:query_network"
    assert main(["layers", model, "--size", "112", "--drawable"]) == 0
    out = capsys.readouterr().out
    assert "n (h w) c ?" in out
    assert "?: the shapes leave open" in out
    assert main(["layers", model, "--size", "112", "--check"]) == 0
    checked = capsys.readouterr().out
    assert "the kind of the modules that gave this shape; rank 0.0" in checked
    assert "- gradients from its cells to the input" in checked
    Image.new("RGB", (112, 112), "teal").save(tmp_path / "a.png")
    cam = [
        "cam",
        str(tmp_path / "a.png"),
        "--model",
        model,
        "--size",
        "112",
        "--layers",
        "block",
        "--save",
        str(tmp_path),
    ]
    assert main(cam) == 2
    assert "--layout 'block=n (h w) c'" in capsys.readouterr().err
    assert main([*cam, "--layout", "block=n (h w) c"]) == 0
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["layers"]["block"]["rests"] == "said"
    assert main([*cam, "--layout", "block"]) == 2
    assert "expected LAYER=PATTERN" in capsys.readouterr().err


class Detecting(nn.Module):
    """Patches, one token before them and twelve behind, as YOLOS has its detection tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cut = nn.Conv2d(3, 16, 4, 4)
        self.first, self.last = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 12, 16))
        self.block, self.head = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.cut(x).flatten(2).transpose(1, 2)
        many = len(x)
        tokens = torch.cat([self.first.expand(many, -1, -1), tokens, self.last.expand(many, -1, -1)], 1)
        return self.head(self.block(tokens).mean(1))


def test_tokens_behind_those_of_the_picture_are_told_from_them() -> None:
    net = Detecting().eval()
    batch = Batch(torch.randn(1, 3, 24, 24))
    subject = Subject(net)
    found = Probe(subject, ("block.norm1",), Classes(1))(batch)
    layout = found.layouts["block.norm1"]
    assert (layout.pattern, layout.skip, layout.behind) == ("n (h w) c", 1, 12)
    assert "values of a convolution" in layout.rests or "gradients" in layout.rests
    held: list[torch.Tensor] = []
    handle = net.block.norm1.register_forward_hook(lambda _m, _i, out: held.append(out))
    net(batch.x)
    handle.remove()
    wanted = held[0][0, 1:37].detach().T.reshape(16, 6, 6)
    torch.testing.assert_close(found.act["block.norm1"][0, :, 0], wanted)
