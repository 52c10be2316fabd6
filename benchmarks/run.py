"""Runs every benchmark, one process each, and prints its section: make bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOPICS = ("cam", "gait")

for topic in TOPICS:
    print(f"\n## {topic}\n", flush=True)
    subprocess.run([sys.executable, HERE / f"{topic}.py"], check=True)
