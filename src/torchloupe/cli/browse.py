"""loupe browse and loupe schedule: what a model is fed and how it is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]


def schedule(
    *configs: str,
    parameter: Literal["lr", "momentum", "wd"] = "lr",
    dataset_size: Annotated[int | None, Parameter(alias="-d")] = None,
    ngpus: Annotated[int | None, Parameter(alias="-n")] = None,
    save_path: Annotated[Path | None, Parameter(alias="-s")] = None,
    title: str | None = None,
    style: str = "whitegrid",
    window_size: str = "12*7",
    by: Literal["epoch", "iter"] | None = None,
    cfg_options: Words = None,
) -> int:
    """Draw how the learning rate, momentum or weight decay goes over a training.

    The optimizer and the schedulers are built as the training would build them and are stepped; no picture is loaded.
    Several configs or specs are drawn over one another. OpenMMLab configs are Python files and run as code.

    Parameters
    ----------
    configs
        Config files (OpenMMLab .py, OpenGait or HRNet .yaml), folders of configs, or specs:
        torch:package.module:factory?epochs=90, torch:StepLR?step_size=30&epochs=90,
        timm:cosine?epochs=300&warmup_epochs=5&lr=0.1, transformers:cosine?iters=10000&warmup_steps=500.
    parameter
        What to draw.
    dataset_size
        Number of training pictures; given, no data set is built. Needed where something goes by iteration.
    ngpus
        Number of GPUs: the batch size of a config is that of one GPU.
    save_path
        Picture to write (.png, .jpg, .svg, .pdf ...), with its numbers as .csv beside it. Shown in a window, not
        saved, where absent.
    title
        Title of the picture; the name of the config by default.
    style
        Style of the picture: whitegrid, darkgrid, white, dark, ticks, or one of matplotlib's.
    window_size
        Size of the picture in inches, W*H.
    by
        Horizontal axis; epochs where they are known by default.
    cfg_options
        Changes to the config, key=value, for example train_cfg.max_epochs=10 optim_wrapper.optimizer.lr=0.01.
    """
    from torchloupe.errors import BadInput
    from torchloupe.methods.schedule import record
    from torchloupe.render import curves as render
    from torchloupe.sources.configs import options
    from torchloupe.sources.schedules import Training, schedules

    if not configs:
        raise BadInput("nothing to draw: name a config, a folder of configs or a spec such as timm:cosine?epochs=100")
    # What is wrong with the picture is said before anything is built.
    render.style_name(style)
    size = render.window_size(window_size)
    training = Training(dataset_size, ngpus, by, options(cfg_options or ()))
    if save_path is not None:
        render.check_suffix(save_path)
    plans = [plan for config in configs for plan in schedules(config, training)]
    found = []
    for plan in plans:
        with bar(plan.name, plan.length) as progress:
            found.append(record(plan, parameter, progress))
    figure = render.draw(found, by=by, title=title, style=style, size=size)
    print("\n".join(render.table(found, by)))
    if save_path is not None:
        render.save_figure(figure, save_path)
        render.write_csv(found, save_path.with_suffix(".csv"))
        print(f"{save_path}, {save_path.with_suffix('.csv')}")
    elif not render.show(figure):
        print("no display here: --save-path curve.png saves the picture and its numbers")
    return 0


@contextmanager
def bar(name: str, total: int) -> Iterator[Callable[[int], Any]]:
    """A progress bar (done, rate, time left) on a terminal, nothing elsewhere; yields what takes the number done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(name, total=total, rate="")

        def tell(done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, completed=done, rate=f"{speed:,.0f}/s" if speed else "")

        yield tell
