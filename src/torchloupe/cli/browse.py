"""loupe browse and loupe schedule: what a model is fed and how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from torchloupe.data.samples import Feed
    from torchloupe.probe import Subject
    from torchloupe.render.samples import Window

Words = Annotated[list[str] | None, Parameter(consume_multiple=True)]


def schedule(
    *configs: str,
    parameter: Literal["lr", "momentum", "wd"] = "lr",
    dataset_size: Annotated[int | None, Parameter(alias="-d")] = None,
    ngpus: Annotated[int | None, Parameter(alias="-n")] = None,
    save_path: Annotated[Path | None, Parameter(alias="-s")] = None,
    title: str | None = None,
    style: str = "whitegrid",
    window_size: str | None = None,
    by: Literal["epoch", "iter"] | None = None,
    metric: Path | None = None,
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
        Size of the picture in inches, W*H; 12*7 by default, higher where many schedules get a small picture each.
    by
        Horizontal axis; epochs where they are known by default.
    metric
        A table (.csv) of what a training measured, a line an epoch, which schedulers follow that wait for a plateau: the column
        that they monitor, else the last one.
    cfg_options
        Changes to the config, key=value, for example train_cfg.max_epochs=10 optim_wrapper.optimizer.lr=0.01.
    """
    import warnings

    from torchloupe.errors import BadInput, LoupeWarning
    from torchloupe.methods.schedule import record
    from torchloupe.render import curves as render
    from torchloupe.runs.progress import progress
    from torchloupe.sources.configs import options
    from torchloupe.sources.schedules import Training, schedules
    from torchloupe.sources.schedules import metric as read_metric

    if not configs:
        raise BadInput("nothing to draw: name a config, a folder of configs or a spec such as timm:cosine?epochs=100")
    # What is wrong with the picture is said before anything is built.
    render.style_name(style)
    size = render.window_size(window_size) if window_size else None
    training = Training(dataset_size, ngpus, by, options(cfg_options or ()), read_metric(metric))
    if save_path is not None:
        render.check_suffix(save_path)
    plans = [plan for config in configs for plan in schedules(config, training)]
    found = []
    with progress("schedules", len(plans)) as bar:
        for plan in plans:
            found.append(record(plan, parameter, bar.part))
            bar.advance()
    figure = render.draw(found, by=by, title=title, style=style, size=size)
    print("\n".join(render.table(found, by)))
    for curve in found:
        for line in curve.findings:
            warnings.warn(f"{curve.name}: {line}", LoupeWarning, stacklevel=2)
    if save_path is not None:
        render.save_figure(figure, save_path)
        numbers = save_path.with_suffix(".csv")
        render.write_csv(found, numbers)
        asked = {"sources": list(configs), "dataset_size": dataset_size, "ngpus": ngpus, "cfg_options": cfg_options, "metric": metric,
                 "findings": {curve.name: list(curve.findings) for curve in found if curve.findings}}  # fmt: skip
        picture = {"by": by, "title": title, "style": style, "window_size": window_size}
        told = render.save(found, save_path, {**asked, "picture": picture})
        print(f"{save_path}, numbers in {numbers} and {told.with_suffix('.npz')}")
    elif not render.show(figure):
        print("no display here: --save-path curve.png saves the picture and its numbers")
    return 0


def browse(
    config: str,
    *,
    output_dir: Path | None = None,
    phase: Literal["train", "val", "test"] = "train",
    show_number: Annotated[int | None, Parameter(alias="-n")] = None,
    show_interval: Annotated[float | None, Parameter(alias="-i")] = None,
    mode: Annotated[Literal["original", "transformed", "concat", "pipeline"], Parameter(alias="-m")] = "transformed",
    bgr2rgb: bool = False,
    rescale_factor: Annotated[float, Parameter(alias="-r")] = 1.0,
    cfg_options: Words = None,
    transform: str | None = None,
    model: str | None = None,
    data: str | None = None,
    repeat: int = 1,
    seed: int = 0,
    range: str | None = None,
    channels: str | None = None,
    boxes: str | None = None,
    grid: str | None = None,
    draw: str = "auto",
    against: str | None = None,
    embedding: str | None = None,
    weights: Path | None = None,
    strict: bool = False,
) -> int:
    """Look at a data set as the model is fed: through its pipeline, step by step.

    Prints sizes, classes, colours, broken and duplicate pictures of the samples seen. OpenMMLab configs, transforms
    and factories are Python and run as code.

    Parameters
    ----------
    config
        An OpenMMLab config (.py) or a folder of them, folder:PATH (a class per sub-folder),
        torch:package.module:factory for any torch Dataset, or what a tool exports: coco:FILE.json?images=DIR (panoptic
        ones too), yolo:data.yaml, voc:FOLDER, labelme:FOLDER, cvat:FILE.xml?images=DIR, csv:FILE, hf:FOLDER,
        webdataset:GLOB.
    output_dir
        Folder for the pictures, the plots and the numbers; not saved where absent, but shown in a window or,
        without a display, on a web page in a temporary folder.
    phase
        Which data set of a config.
    show_number
        How many samples; all by default.
    show_interval
        Seconds between pictures, in the window and on the page, 2 by default. Given, the window opens beside
        --output-dir as well.
    mode
        original (as loaded), transformed (after the pipeline), concat (both) or pipeline (after every step).
    bgr2rgb
        Turn the colour channels of the shown pictures round, for data sets that give BGR without saying so.
    rescale_factor
        Enlarge or shrink the shown pictures, for example 10 for CIFAR.
    cfg_options
        Changes to the config, key=value.
    transform
        Steps for folder: and torch: data, package.module:name or file.py:name (torchvision, albumentations, kornia or any
        callable, a list of them, or a function that makes one).
    model
        The preprocessing of a model for folder: and torch: data: timm:NAME, transformers:FOLDER, torchvision:NAME or
        an OpenMMLab config: what would this model see?
    data
        A folder of pictures (a class per sub-folder) in the place of the config's own data; the pipeline stays.
    repeat
        Each sample so many times, side by side: the randomness of an augmentation.
    seed
        The same seed gives the same pictures.
    range
        LOW:HIGH, the values that are shown black and white, such as 0:4095 for twelve bits; else what the type of the values
        says, and for numbers of any type what a few pictures of the data set hold.
    channels
        Channels to show of pictures that have others than red, green and blue: 3,2,1, or 4, or each.
    boxes
        How boxes of a data set are written that does not say so: xyxy, xywh, cxcywh, shares (xyxy as shares of the
        picture) or yolo (cxcywh as shares).
    grid
        Contact sheets of ROWSxCOLUMNS samples instead of a picture a sample.
    draw
        Which samples are drawn: all, none, sample:N, evenly spread; auto: all up to 1,000, sample:200 above. All are counted.
    against
        Another source, such as the test pictures: those that look the same in both are listed.
    embedding
        A network, as for loupe cam (timm:resnet18): pictures of one class are listed whose nearest neighbours, by its features, are
        of another one.
    weights
        The checkpoint of that network.
    strict
        Stop at the first sample that cannot be shown.
    """
    import math
    import tempfile
    import warnings

    from torchloupe.data.samples import BadSample
    from torchloupe.errors import BadInput, LoupeWarning
    from torchloupe.render import curves
    from torchloupe.render import samples as render
    from torchloupe.sources.configs import options
    from torchloupe.sources.datasets import Settings, feeds
    from torchloupe.sources.look import chosen_channels, value_range
    from torchloupe.sources.truth import checked_form

    settings = Settings(value_range(range), chosen_channels(channels), checked_form(boxes))
    for option, number in (("--show-number", show_number), ("--repeat", repeat)):
        if number is not None and number < 1:
            raise BadInput(f"{option} {number}: expected a positive number")
    if not (rescale_factor > 0 and math.isfinite(rescale_factor)):
        raise BadInput(f"--rescale-factor {rescale_factor:g}: expected a positive number")
    interval = 2.0 if show_interval is None else show_interval
    if not (interval >= 0 and math.isfinite(interval)):
        raise BadInput(f"--show-interval {interval:g}: expected seconds, zero or more")
    if seed < 0:
        raise BadInput(f"--seed {seed}: expected zero or more")
    cells = render.grid_size(grid) if grid else None
    words = options(cfg_options or ())
    found = feeds(config, phase=phase, transform=transform, model=model, data=data, changes=words, settings=settings)
    folder = output_dir
    window = (folder is None or show_interval is not None) and curves.window()
    if folder is None and not window:
        folder = Path(tempfile.mkdtemp(prefix="loupe-browse-"))
    asked = {"source": config, "phase": phase, "mode": mode, "transform": transform, "model": model, "data": data,
             "seed": seed, "repeat": repeat, "cfg_options": cfg_options or [], "range": range, "channels": channels,
             "boxes": boxes, "draw": draw, "against": against, "embedding": embedding,
             "weights": None if weights is None else str(weights)}  # fmt: skip
    if weights is not None and embedding is None:
        raise BadInput("--weights is for the network of --embedding; give one")
    network = None
    if embedding is not None:
        from torchloupe.sources import subject

        network = subject(embedding, weights=weights)
        if "random" in network.notes:
            warnings.warn(f"--embedding: {network.notes['random']}", LoupeWarning, stacklevel=2)
    other = feeds(against, phase=phase, changes=words, settings=settings)[0] if against is not None else None
    failed: list[BadSample] = []
    for feed in found:
        place = None if folder is None else folder / feed.name if len(found) > 1 else folder
        try:
            screen = render.Window(feed.name, interval) if window else None
            order = getattr(feed, "order", "")
            if bgr2rgb and order:
                text = f"--bgr2rgb has no effect: {feed.name} gives {order} and is shown in its own colours already"
                warnings.warn(text, LoupeWarning, stacklevel=2)
            look = (mode, rescale_factor, bgr2rgb and not order)
            _browse_one(feed, place, asked, look, show_number, interval, cells, strict, screen, other, network)
        except BadSample as error:
            if strict or len(found) == 1:
                raise
            warnings.warn(f"left out {feed.name}: {error}", LoupeWarning, stacklevel=2)
            failed.append(error)
    if len(failed) == len(found):
        raise failed[0]
    return 0


def _browse_one(
    feed: Feed,
    folder: Path | None,
    asked: dict[str, Any],
    look: tuple[str, float, bool],
    number: int | None,
    interval: float,
    cells: tuple[int, int] | None,
    strict: bool,
    screen: Window | None,
    other: Feed | None,
    network: Subject | None,
) -> None:
    """One data set: its pictures written or shown as they come, then its table, plots, numbers and page."""
    from torchloupe import store
    from torchloupe.methods.browse import Census
    from torchloupe.render import curves
    from torchloupe.render import samples as render
    from torchloupe.runs.browse import Closeness, counted, drawn, leaked, length, seen

    mode, factor, flip = look
    total = length(feed, number)
    repeat, census = int(asked["repeat"]), Census()
    wanted = drawn(total, asked["draw"])
    files: list[tuple[Path, str]] = []
    sheet: list[Any] = []

    def put(image: Any, name: str, caption: str) -> bool:
        image = render.framed(image)
        if folder is not None:
            files.append((render.save_image(image, folder / f"{name}.png"), caption))
        return screen is None or screen.show(image, caption)

    def flush() -> bool:
        page = render.joined(sheet, cells[1] if cells else 1)
        sheet.clear()
        return put(page, f"sheet-{len(files) + 1:03d}", f"sheet {len(files) + 1}")

    close = Closeness(network) if network is not None else None
    open_still = True
    whole = mode != "original"
    for repeats in counted(feed, census, total, repeat=repeat, seed=int(asked["seed"]), whole=whole, strict=strict):
        sample = repeats[0]
        if close is not None:
            close.add(sample, len(census.names) - 1)
        if sample.index in wanted:
            tiles = [render.view(one, mode, factor, flip) for one in repeats]
            image = render.joined(tiles, 1 if mode in ("pipeline", "concat") else None)
            # What has no name of its own is called by its number.
            called = "" if sample.name == str(sample.index) else sample.name
            stem = store.safe_name(f"{sample.index:05d}-{Path(called).stem}" if called else f"{sample.index:05d}")
            if cells:
                sheet.append(render.captioned(image, f"{sample.index} {Path(called).name}".strip()))
                open_still = flush() if len(sheet) == cells[0] * cells[1] else True
            else:
                open_still = put(image, stem, " ".join(f"{sample.index} {called} {sample.label}".split()))
            if not open_still:
                break
    if sheet and open_still:
        flush()
    summary = census.summary()
    if other is not None:
        summary["leaked"] = leaked(census, other, length(other, number))
    if close is not None:
        summary["doubts"] = close.summary(census)
    lines = render.table(feed.name, summary)
    print("\n".join(lines))
    if folder is None:
        return
    told = seen(feed.name, census, asked, summary)
    store.save(folder, "census", told.arrays(), told.record)
    curves.save_figure(render.plots(feed.name, told.size, summary), folder / "census.png")
    goal = render.page(feed.name, [*files, (folder / "census.png", "all samples seen")], lines, folder, interval)
    print(f"{len(files)} pictures in {folder}, page {goal}")
