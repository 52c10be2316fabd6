"""The formula of the OpenGait community's own Grad-CAM tool."""

from __future__ import annotations

from torch import Tensor

from torchloupe.axes import C, dims
from torchloupe.methods.cam import rule


@rule
def opengait(act: Tensor, grad: Tensor) -> Tensor:
    """OpenGait's visual_analyse:  M_t = | mean_c mean_hw(dY/dA_ct) * A_ct |

    act (n, c, t, h, w), grad (k, n, c, t, h, w) -> (k, n, t, h, w), >= 0. Weights of each frame by itself, no ReLU.
    Source: Ahzyuan, OpenGait branch dev_visana (2024), visual_analyse/grad_cam.py, described not copied.
    Differs: its weights come from the gradient of the distance, ours from the score (-distance); the absolute value
        makes them the same.
    """
    return (grad.mean(dims("hw"), keepdim=True) * act).mean(C).abs()
