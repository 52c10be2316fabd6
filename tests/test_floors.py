"""A file imports only from floors below it; other people's frameworks appear in sources only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import torchloupe

ROOT = Path(torchloupe.__file__).parent
FLOORS = [
    {"axes", "outputs", "errors", "named", "data", "store"},
    {
        "trace",
        "subjects",
        "names",
        "taps",
        "shadow",
        "backward",
        "attention",
        "evidence",
        "probe",
        "replay",
        "points",
        "sites",
        "windows",
    },
    {"methods", "metrics", "targets", "networks"},
    {"sources"},
    {"kinds", "runs", "gait", "arrange"},
    {"render"},
    {"view"},
    {"testing", "examples", "cli"},
]
FRAMEWORKS = {"timm", "transformers", "torchvision", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmpose"}


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    home = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imports(path):
        top = name.split(".")[0]
        if top == "torchloupe" and name.count("."):
            other = name.split(".")[1]
            if other == "__version__":
                continue
            if other != home:
                below = floor(other) < floor(home) or (floor(home) == 0 and floor(other) == 0)
                side = floor(home) == floor(other) and floor(home) in (1, 4, 7)
                assert below or side, f"{home} imports {other}"
        elif top in FRAMEWORKS:
            assert home == "sources", f"{home} imports {name}"


def test_render_reads_results_only() -> None:
    for path in (ROOT / "render").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch"}, path.name


def test_public_names_are_sorted_and_exist() -> None:
    assert torchloupe.__all__ == sorted(torchloupe.__all__)
    for name in torchloupe.__all__:
        assert getattr(torchloupe, name) is not None
    with pytest.raises(AttributeError):
        torchloupe.nothing  # noqa: B018


def test_no_file_takes_the_place_of_a_public_name() -> None:
    # importing torchloupe.subject would bind the module to the name of the function
    homes = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not homes & set(torchloupe.__all__)


def test_the_package_imports_without_torch() -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, torchloupe, torchloupe.cli; torchloupe.cli.build(); print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "False"


def _lazy_too(path: Path) -> set[str]:
    """What a file imports, inside functions too, but for types."""
    tree = ast.parse(path.read_text())
    typed = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node not in typed and isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_circle_among_the_drawings() -> None:
    def name(path: Path) -> str:
        return ".".join(("torchloupe", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")

    graph = {name(path): _lazy_too(path) for path in FILES if path.is_relative_to(ROOT / "render")}
    graph = {module: {other for other in used if other in graph and other != module} for module, used in graph.items()}
    for start in graph:
        seen, waiting = set(), list(graph[start])
        while waiting:
            here = waiting.pop()
            assert here != start, f"{start} imports itself by way of others"
            if here not in seen:
                seen.add(here)
                waiting += graph[here]


@pytest.mark.parametrize("module", ["look", "mapped", "points", "page", "ink", "page.turn"])
def test_drawing_points_needs_neither_torch_nor_the_command_line(module: str) -> None:
    code = f"import sys, torchloupe.render.{module}; print(sorted({{'torch', 'cyclopts'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
