"""Results on disk: whole or absent, never pickle. Needs numpy, not torch."""

from torchloupe.store.files import aside, held, never_over, safe_name, sha256, sweep, whole
from torchloupe.store.records import (
    Artifact,
    key,
    load,
    load_arrays,
    load_record,
    pair,
    plain,
    save,
    speaking,
    spoken,
    write_arrays,
)
from torchloupe.store.results import Files, Results

__all__ = [
    "Artifact",
    "Files",
    "Results",
    "aside",
    "held",
    "key",
    "load",
    "load_arrays",
    "load_record",
    "never_over",
    "pair",
    "plain",
    "safe_name",
    "save",
    "sha256",
    "speaking",
    "spoken",
    "sweep",
    "whole",
    "write_arrays",
]
