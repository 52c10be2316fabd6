"""A tiny trained-looking classifier for the command line: red, green and blue."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import torchloupe as loupe


class Colours(nn.Module):
    """Three classes, each the mean of one colour channel after a convolution that passes it on."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(4)
        self.stage = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(inplace=True))
        self.head = nn.Linear(3, 3)
        with torch.no_grad():
            for conv in (self.stem[0], self.stage[0]):
                conv.weight.zero_()
                for c in range(3):
                    conv.weight[c, c, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = 1
            self.head.weight.copy_(torch.eye(3) * 2 - 0.5)
            self.head.bias.fill_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(self.pool(self.stem(x))).mean((2, 3)))


def colours(bias: float = 0.0) -> nn.Module:
    """The network."""
    return Colours(bias)


def random() -> nn.Module:
    """The network with other weights."""
    torch.manual_seed(0)
    net = Colours()
    for part in net.parameters():
        nn.init.normal_(part)
    return net


def subject() -> loupe.Subject:
    """The network with all that is to be known about it."""
    return loupe.subject(Colours(), size=(32, 32))


class Tokens(nn.Module):
    """Patches as tokens behind a class token, and their mean to three classes; its rows are as long as its columns are not."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.block, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.new_zeros(len(x), 1, 8), tokens], 1)
        return self.head(self.block(tokens).relu()[:, 1:].mean(1))


def tokens() -> nn.Module:
    """The network of tokens."""
    return Tokens()


class Sick(Colours):
    """Answers NaN to dark pictures."""

    def forward(self, x: Tensor) -> Tensor:
        dark = x.mean((1, 2, 3), keepdim=False) < -1
        return torch.where(dark[:, None], float("nan"), super().forward(x))


def sick() -> nn.Module:
    """The network that fails on dark pictures."""
    return Sick()


def redness(output: Tensor, batch: loupe.Batch) -> loupe.Scores:
    """A target of the user's own: red against green."""
    return loupe.Scores((output[:, 0] - output[:, 1])[None], (("red - green",) * batch.n,))


number = 3
