"""Runs carried to an object store and back."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
from test_runs import Sums

from torchloupe.cli import main
from torchloupe.errors import BadInput
from torchloupe.runs.carry import fetch, send
from torchloupe.runs.run import run
from torchloupe.store.shards import Shards


@pytest.fixture(params=["memory", "local"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return (tmp_path / "far" / "run").as_uri()
    files = fsspec.filesystem("memory")
    if files.exists("/run"):
        files.rm("/run", recursive=True)
    return "memory://run"


def arrays(folder: Path) -> dict[str, bytes]:
    return {id: Shards(folder).read(id).arrays["y"].tobytes() for id in Shards(folder).ids()}


def test_there_and_back_and_on(tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    run(Sums(8), Shards(here, most=4), batch=4)
    assert send(here, url)[0] == 2
    assert send(here, url) == (0, 0)
    assert main(["runs", str(other), "--fetch", url, "--verify"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("fetched 2 shards, 0.0 MB\n")
    assert "verified: whole" in said
    assert arrays(other) == arrays(here)
    done = run(Sums(11), Shards(other, most=4), batch=4)  # it goes on where it was carried to
    assert (done.made, done.before) == (3, 8)
    assert main(["runs", str(other), "--send", url]) == 0
    assert "sent 1 shards" in capsys.readouterr().out
    assert fetch(url, here)[0] == 1
    assert arrays(here) == arrays(other)
    files, root = fsspec.core.url_to_fs(url)
    assert not [one for one in files.ls(root, detail=False) if "~" in one]


def test_what_does_not_fit_is_refused(tmp_path: Path, url: str) -> None:
    run(Sums(4), Shards(tmp_path / "a"), batch=4)
    run(Sums(4, scale=2.0), Shards(tmp_path / "b"), batch=4)
    run(Sums(3), Shards(tmp_path / "c"), batch=4)
    send(tmp_path / "a", url)
    with pytest.raises(BadInput, match=r"holds a run made with scale 1\.0, this one with 2\.0"):
        send(tmp_path / "b", url)
    with pytest.raises(BadInput, match=r"holds a run made with scale 1\.0, this one with 2\.0"):
        fetch(url, tmp_path / "b")
    with pytest.raises(BadInput, match="or one that went on in two places"):
        send(tmp_path / "c", url)
    with pytest.raises(BadInput, match="or one that went on in two places"):
        fetch(url, tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").write_text("x")
    with pytest.raises(BadInput, match="holds something else"):
        fetch(url, tmp_path / "d")
    with pytest.raises(BadInput, match="no run in shards"):
        send(tmp_path / "d", url)
    with pytest.raises(BadInput, match="no run in shards"):
        fetch(f"{url}/nothing", tmp_path / "e")


@pytest.mark.parametrize(("bad", "said"), [("s3", "expected a URL"), ("nosuch://a/b", "cannot be reached")])
def test_bad_urls(tmp_path: Path, bad: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(Sums(4), Shards(tmp_path / "a"), batch=4)
    assert main(["runs", str(tmp_path / "a"), "--send", bad]) == 2
    assert said in capsys.readouterr().err
