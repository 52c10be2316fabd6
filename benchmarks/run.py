"""Runs every benchmark, one process each, and prints its section: make bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FIGURES = HERE.parent / "demo" / "pose"
TOPICS: dict[str, list[str]] = {"cam": [], "features": [], "gait": [], "embed": [], "pose": [str(FIGURES)], "trust": []}

if not FIGURES.exists():
    subprocess.run([Path(sys.executable).with_name("loupe"), "demo", "pose", "--save", FIGURES], check=True)
for topic, words in TOPICS.items():
    print(f"\n## {topic}\n", flush=True)
    subprocess.run([sys.executable, HERE / f"{topic}.py", *words], check=True)
