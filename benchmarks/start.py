"""Where the first second of a command goes: CPU seconds of imports, model, asking and drawing, each in a process of its own.

python benchmarks/start.py PICTURE [--model timm:resnet18]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

OPS = "import torch; from torchloupe.sources import patches; patches.torchvision()"
STEPS = {
    "python": "pass",
    "torch": "import torch",
    "torchvision": f"{OPS}; import torchvision",
    "timm": f"{OPS}; import timm, timm.data",
    "a network, a picture, forward and backward": f"{OPS}; import timm; from timm.data import create_transform as made, "
    "resolve_data_config as data; from PIL import Image; net = timm.create_model('NAME').eval(); "
    "x = made(**data({}, model=net))(Image.open('PICTURE').convert('RGB'))[None]; net(x); net(x).max().backward()",
}  # each holds the one before
COMMANDS = {"loupe --help": ["--help"], "loupe cam": ["cam", "PICTURE", "--model", "timm:NAME", "--save", "OUT"]}


def cpu(*command: str) -> float:
    """CPU seconds of a process, the least of three."""
    best = float("inf")
    for _ in range(3):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        best = min(best, used)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("picture")
    parser.add_argument("--model", default="timm:resnet18")
    asked = parser.parse_args()
    before = 0.0
    with tempfile.TemporaryDirectory() as folder:

        def filled(text: str) -> str:
            name = asked.model.removeprefix("timm:")
            return text.replace("PICTURE", asked.picture).replace("NAME", name).replace("OUT", folder)

        for step, code in STEPS.items():
            now = cpu(sys.executable, "-c", filled(code))
            print(f"{step:44s} {now:6.2f} s  {now - before:+.2f}")
            before = now
        for step, words in COMMANDS.items():
            code = "import sys; from torchloupe.cli import main; sys.exit(main(sys.argv[1:]))"
            print(f"{step:44s} {cpu(sys.executable, '-c', code, *map(filled, words)):6.2f} s")


if __name__ == "__main__":
    main()
