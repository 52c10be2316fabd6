"""torchloupe: a loupe for PyTorch vision models."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "axes": ("Layout", "resize"),
    "errors": ("BadInput", "BadSample", "LoupeError", "LoupeWarning", "MissingPackage", "NoGradient", "UnsafeFile"),
    "gait": ("embed_gallery", "explain_walk"),
    "kinds.sequences": ("SequenceMaps",),
    "methods.attention": ("chefer", "gradient_x_attention", "legrad", "rollout"),
    "methods.arrangement": ("arrangement", "linear_cka", "procrustes"),
    "methods.backprop": ("guided_backprop", "guided_gradcam"),
    "methods.blur": ("blur", "blur_curve", "scouted", "straight_curve"),
    "methods.cam": (
        *("cam", "cams", "eigencam", "eigengradcam", "gradcam", "gradcam_pp", "hirescam", "layercam", "rule"),
        *("smooth_gradcam_pp", "weights", "xgradcam"),
    ),
    "methods.difference": ("CKA",),
    "methods.embed": ("embed",),
    "methods.lrp": ("attnlrp", "lrp"),
    "methods.opengait": ("opengait",),
    "methods.dense": ("clip_surgery", "maskclip"),
    "methods.masks": ("gscorecam", "rise", "vitcx"),
    "methods.refine": ("refinecam",),
    "methods.path": ("gradient_shap", "gradient_x_input", "integrated_gradients", "smoothgrad", "straight"),
    "methods.perturb": ("ablationcam", "iscam", "occlusion", "scorecam", "sscam"),
    "methods.poseig": ("poseig",),
    "methods.project": ("project",),
    "methods.registry": ("METHODS",),
    "methods.rows": ("prepare",),
    "sources.tables": ("from_table",),
    "methods.smooth": ("aug_smooth",),
    "metrics.judge": ("budget", "judge"),
    "metrics.place": ("placed",),
    "metrics.registry": ("METRICS", "metric"),
    "metrics.sanity": ("sane",),
    "points": ("Points",),
    "probe": ("INPUT", "Batch", "Capture", "Probe", "Subject"),
    "render.pictures": ("draw",),
    "outputs": ("Features", "Maps", "Scores"),
    "sites": ("features",),
    "runs.found": ("results",),
    "sources": ("subject",),
    "sources.images": ("pictures",),
    "sources.sequences": ("Walk", "sequences"),
    "targets.embedding": ("Like", "Norm"),
    "targets.boxes": ("Boxes", "Detections", "Region"),
    "targets.classes": ("Classes", "Each", "Several", "Top", "Truth"),
    "targets.contrast": ("Contrast",),
    "targets.pose": ("Joints",),
    "targets.texts": ("Texts", "texts"),
    "targets.retrieval": ("Gallery", "Margin", "Match", "Nearest", "Pair", "Rival"),
}
_FROM = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_FROM)


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module 'torchloupe' has no attribute {name!r}")
    value = getattr(import_module(f"torchloupe.{_FROM[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
