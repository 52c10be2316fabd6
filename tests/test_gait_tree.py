"""A tree as a user would have it: 20 identities, 3 types, 11 views."""

from __future__ import annotations

import numpy as np
from gait_fixtures import write_config

from torchloupe.cli.gait import cam
from torchloupe.examples.walkers import write_tree
from torchloupe.kinds.sequences import SequenceMaps

VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))


def test_a_tree_of_20_identities_3_types_and_11_views(tmp_path, capsys):
    config = write_config(tmp_path, "gaitset")
    write_tree(tmp_path / "Gallery", range(20), ("nm-01", "bg-01", "cl-01"), VIEWS, frames=3)
    write_tree(tmp_path / "Probe", range(2), ("nm-05",), ("036",), frames=3)
    assert len(list((tmp_path / "Gallery").glob("*/*/*"))) == 660
    places = {"probe": tmp_path / "Probe", "gallery": tmp_path / "Gallery", "save": tmp_path / "out"}
    cam(
        config=config,
        weights=config.with_suffix(".pt"),
        **places,
        cache=tmp_path / "cache",
        target="match",
        device="cpu",
    )
    made = sorted((tmp_path / "out").glob("*.npz"))
    assert len(made) == 2
    assert len(capsys.readouterr().out.splitlines()) == 2
    for file in made:
        found = SequenceMaps.load(file)
        assert found.answers[0].split("-")[0] == found.identity
        assert np.all(np.diff(found.distances) >= 0)
        assert all(np.isfinite(value).all() for value in found.maps.values())
