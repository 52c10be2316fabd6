from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from torchloupe.errors import BadInput
from torchloupe.probe import Batch
from torchloupe.targets.retrieval import Gallery, Margin, Match, Nearest, Pair, Rival

NAMES = ("a-nm-01-000", "a-nm-02-000", "b-nm-01-000", "c-nm-01-000")
IDS = ("a", "a", "b", "c")


def made(metric: str = "euc", n: int = 3) -> tuple[Gallery, torch.Tensor, Batch]:
    generator = torch.Generator().manual_seed(0)
    items = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    gallery = Gallery(items, NAMES, IDS, metric)
    probes = torch.randn(n, 5, 3, generator=generator, dtype=torch.float64)
    batch = gallery.about(Batch(torch.zeros(n, 1, 1, 1)), ["a", "b", "c"][:n])
    return gallery, probes, batch


def distance(a: torch.Tensor, b: torch.Tensor, metric: str, part: int | None = None) -> float:
    """Loops over parts and channels."""
    found = []
    for p in range(a.shape[1]):
        u, v = a[:, p].tolist(), b[:, p].tolist()
        if metric == "euc":
            found.append(math.sqrt(sum((x - y) ** 2 for x, y in zip(u, v, strict=True))))
        else:
            dot = sum(x * y for x, y in zip(u, v, strict=True))
            found.append(1 - dot / math.sqrt(sum(x * x for x in u)) / math.sqrt(sum(y * y for y in v)))
    return sum(found) / len(found) if part is None else found[part]


@pytest.mark.parametrize("metric", ["euc", "cos"])
def test_every_question_chooses_and_scores_as_loops_do(metric):
    gallery, probes, batch = made(metric)
    all_of = [[distance(probe, item, metric) for item in gallery.embeddings] for probe in probes]
    torch.testing.assert_close(gallery.distances(probes), torch.tensor(all_of, dtype=torch.float64))
    who = ["a", "b", "c"]
    for target, allowed in (
        (Nearest(gallery), lambda i, j: True),
        (Match(gallery), lambda i, j: IDS[j] == who[i]),
        (Rival(gallery), lambda i, j: IDS[j] != who[i]),
    ):
        value, labels = target(probes, batch)
        for i in range(3):
            best = min((j for j in range(4) if allowed(i, j)), key=lambda j: all_of[i][j])
            assert labels[0][i] == NAMES[best]
            assert float(value[0, i]) == pytest.approx(-all_of[i][best])
    value, labels = Margin(gallery)(probes, batch)
    for i in range(3):
        match = min((all_of[i][j], j) for j in range(4) if IDS[j] == who[i])
        rival = min((all_of[i][j], j) for j in range(4) if IDS[j] != who[i])
        assert float(value[0, i]) == pytest.approx(rival[0] - match[0])
        assert labels[0][i] == f"{NAMES[match[1]]} not {NAMES[rival[1]]}"
    value, labels = Pair(gallery, name=NAMES[2])(probes, batch)
    assert [float(v) for v in value[0]] == pytest.approx([-row[2] for row in all_of])


def test_parts_are_one_question_each_about_the_same_item():
    gallery, probes, batch = made()
    whole, _ = Nearest(gallery)(probes, batch)
    value, labels = Nearest(gallery, (0, 1, 2))(probes, batch)
    torch.testing.assert_close(value.mean(0), whole[0])
    item = Nearest(gallery).choose(probes, batch)["item"][:, 0]
    assert float(value[1, 0]) == pytest.approx(-distance(probes[0], gallery.embeddings[item[0]], "euc", 1))
    assert labels[2][1] == f"{NAMES[item[1]]} part 2"
    with pytest.raises(BadInput, match="part 3: this model has 3 parts, 0 to 2"):
        Nearest(gallery, (3,))(probes, batch)


def test_the_gradient_is_that_of_the_chosen_distance():
    gallery, probes, batch = made()
    probes.requires_grad_()
    value, _ = Nearest(gallery)(probes, batch)
    got = torch.autograd.grad(value.sum(), probes)[0]
    item = Nearest(gallery).choose(probes, batch)["item"][:, 0]
    apart = probes.detach() - gallery.embeddings[item]
    torch.testing.assert_close(got, -apart / apart.norm(dim=1, keepdim=True) / 3)


def test_a_choice_that_is_pinned_stays():
    gallery, probes, batch = made()
    for target, item, label in (
        (Nearest(gallery), [2], "b-nm-01-000"),
        (Margin(gallery), [1, 3], "a-nm-02-000 not c-nm-01-000"),
    ):
        held = target(probes, replace(batch, asked={"item": torch.tensor([item] * 3)}))
        assert held.labels == ((label,) * 3,)


def test_the_probe_itself_is_left_out_by_name_or_by_given_mask():
    gallery, _, _ = made(n=1)
    own = Batch(torch.zeros(1, 1, 1, 1), ids=("a-nm-01-000",))
    copied = gallery.embeddings[:1].clone()
    assert Nearest(gallery)(copied, gallery.about(own, ["a"])).labels[0][0] != "a-nm-01-000"
    assert Match(gallery)(copied, gallery.about(own, ["a"])).labels[0][0] == "a-nm-02-000"
    mask = torch.tensor([[False, True, False, False]])
    batch = gallery.about(own, ["a"], mask)
    assert Match(gallery)(copied, batch).labels[0][0] == "a-nm-01-000"


def test_questions_that_have_no_answer_are_said():
    gallery, probes, batch = made(n=1)
    stranger = gallery.about(Batch(torch.zeros(1, 1, 1, 1), ids=("z-nm-01-000",)), ["z"])
    with pytest.raises(BadInput, match="z-nm-01-000: no gallery item of the same identity; try the target nearest"):
        Match(gallery)(probes, stranger)
    alone = Gallery(gallery.embeddings[:2], NAMES[:2], IDS[:2])
    with pytest.raises(BadInput, match="no gallery item of another identity"):
        Rival(alone)(probes, alone.about(batch, ["a"]))
    with pytest.raises(BadInput, match=r"no gallery item 'a-nm-01-00'. Did you mean a-nm-01-000"):
        Pair(gallery, name="a-nm-01-00")(probes, batch)
    with pytest.raises(BadInput, match=r"embeddings of shape \(1, 5, 3\); the model gave \(1, 5, 2\)"):
        Nearest(gallery)(probes[..., :2], batch)
    with pytest.raises(BadInput, match="the batch does not know who it shows"):
        Match(gallery)(probes, Batch(torch.zeros(1, 1, 1, 1)))
    with pytest.raises(BadInput, match="metric 'l2': expected one of euc, cos"):
        Gallery(gallery.embeddings, NAMES, IDS, "l2")
    with pytest.raises(BadInput, match="the gallery is empty"):
        Gallery(gallery.embeddings[:0], (), ())


def test_distance_to_itself_has_a_finite_gradient():
    gallery, _, batch = made(n=1)
    same = gallery.embeddings[:1].clone().requires_grad_()
    value, _ = Pair(gallery, name=NAMES[0])(same, batch)
    assert torch.isfinite(torch.autograd.grad(value.sum(), same)[0]).all()


def test_the_record_of_a_target_names_metric_and_digest_not_numbers():
    gallery, _, _ = made()
    text = repr(Nearest(Gallery(gallery.embeddings, NAMES, IDS, "euc", "f00d"), (1,)))
    assert text == "Nearest(gallery=Gallery(metric='euc', digest='f00d'), parts=(1,))"
