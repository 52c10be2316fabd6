"""Questions of one class against another: what makes it a tabby rather than a tiger cat?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from torchloupe.errors import BadInput
from torchloupe.outputs import Scores
from torchloupe.probe import Batch
from torchloupe.targets.classes import check_logits, class_index

OTHERS = "others"
BETWEEN = " - "


@dataclass(frozen=True)
class Contrast:
    """One class less another:  Y = y_c - y_d;  or less those most like it:  Y = sum_d p_d (y_c - y_d) / sum_d p_d

    pairs: (class, other), by index or name; other None: the `alike` classes (or all others, where there are fewer) whose logits are nearest to y_c, chosen on the unchanged
    input, weighted by their softmax probabilities p there. Output (n, classes) -> scores (k, n).
    Errors: BadInput for unknown classes, and a class less itself.
    Source: Zhang et al. 2025, Finer-CAM, CVPR, arXiv:2501.11309 (gamma 1).
    Differs: the weights p count as constants; in the authors' code their gradient leaks into the score's.
    """

    pairs: tuple[tuple[int | str, int | str | None], ...]
    names: tuple[str, ...] = field(default=(), repr=False)
    alike: int = 3

    def with_names(self, names: tuple[str, ...]) -> Contrast:
        """The same question, its classes named, where they were not."""
        return self if self.names else replace(self, names=names)

    def choose(self, output: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """{"classes": (n, k), "against": (n, k, m), "weight": (n, k, m)}; of a single other class the weight stands at its place alone."""
        logits = check_logits(output, batch).detach()
        count = logits.shape[1]
        if self.alike < 1 or count < 2:
            raise BadInput(f"{self.alike} classes alike of {count}; expected 1 or more, of two classes or more")
        alike = min(self.alike, count - 1)
        chance = logits.softmax(1)
        columns: list[tuple[Tensor, Tensor, Tensor]] = []
        for wanted, other in self.pairs:
            mine = class_index(wanted, self.names, count)
            against = torch.zeros(batch.n, alike, dtype=torch.long, device=logits.device)
            weight = torch.zeros(batch.n, alike, dtype=logits.dtype, device=logits.device)
            if other is None:
                gap = (logits - logits[:, mine : mine + 1]).abs()
                gap[:, mine] = torch.inf
                against = gap.topk(alike, dim=1, largest=False).indices
                weight = chance.gather(1, against)
                weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
            else:
                theirs = class_index(other, self.names, count)
                if theirs == mine:
                    raise BadInput(
                        f"target '{wanted}{BETWEEN}{other}': both are class {mine}, so there is nothing to explain"
                    )
                against[:, 0], weight[:, 0] = theirs, 1
            columns.append((torch.full_like(against[:, 0], mine), against, weight))
        mine_of, against_of, weight_of = (torch.stack(part, 1) for part in zip(*columns, strict=True))
        return {"classes": mine_of, "against": against_of, "weight": weight_of}

    def __call__(self, output: Tensor, batch: Batch) -> Scores:
        logits = check_logits(output, batch)
        asked = batch.asked or self.choose(output, batch)
        mine, against, weight = (asked[name].to(logits.device) for name in ("classes", "against", "weight"))
        theirs = logits.gather(1, against.flatten(1)).view_as(weight)
        value = logits.gather(1, mine) - (weight.to(logits) * theirs).sum(2)
        labels = tuple(
            tuple(
                f"{self._name(int(row[k]))}{BETWEEN}{self._other(k, batch, against)[i]}" for i, row in enumerate(mine)
            )
            for k in range(len(self.pairs))
        )
        return Scores(value.T, labels)

    def _other(self, k: int, batch: Batch, against: Tensor) -> list[str]:
        if self.pairs[k][1] is None:
            return [OTHERS] * batch.n
        return [self._name(int(one)) for one in against[:, k, 0]]

    def _name(self, index: int) -> str:
        return self.names[index] if index < len(self.names) else str(index)


def contrasted(word: str, names: tuple[str, ...]) -> tuple[int | str, int | str | None] | None:
    """The pair of "tabby - tiger cat" or "tabby - others"; None for a word that is no contrast, such as a class with a dash in
    its name. Errors: BadInput for an empty side, or more than two."""
    if BETWEEN not in f" {word} " or word in names:
        return None
    sides = [part.strip() for part in f" {word} ".split(BETWEEN)]
    if len(sides) != 2 or not all(sides):
        raise BadInput(
            f"target {word!r}: expected a class less another, such as 'tabby - tiger cat' or 'tabby - {OTHERS}'"
        )
    one, other = (int(side) if side.isdigit() else side for side in sides)
    return one, None if str(other).lower() == OTHERS else other
