"""`gapgate look` and `gapgate similar`: a network's layers on an image, and the training images most like it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.options import DEFAULT_MODEL, argument, find_champion, option, status
from cli.terminal.console import Console
from gapgate.errors import (
    ArtifactError,
    DataError,
    ImageError,
    RegistryError,
    SettingsError,
    storage_errors,
)
from gapgate.text import percent

if TYPE_CHECKING:
    from gapgate.onnx.embedding_index import Neighbour
    from gapgate.onnx.graph import Stage
    from serving.model.predictor import Predictor

_LEARNED = "learned"
_DEFAULT_KERNEL = "edge"
_MAX_NEIGHBOURS = 1000
"""Largest number of neighbours, since a sheet of more images cannot be read."""

Image = Annotated[Path, argument(metavar="IMAGE", help="An image file.")]
Bento = Annotated[
    Path | None,
    option(
        "--bento",
        metavar="FOLDER",
        help="Package to ask, a .bento file or a folder with one; by default the champion's.",
    ),
]
Model = Annotated[str, typer.Option("--model", metavar="NAME", help="Model in the registry whose champion is asked.")]


def look(
    image: Image,
    kernel: Annotated[
        str,
        option(
            "--kernel",
            metavar="NAME",
            help="Kernel to apply. learned: the network's own; or one of identity, edge, outline, sharpen, blur, "
            "gaussian, emboss, sobel-x, sobel-y. By default learned where there is a champion, else edge.",
        ),
    ] = "",
    layers: Annotated[
        int | None,
        option("--layers", metavar="NUMBER", min=1, help="Number of the network's layers that are drawn."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Folder for look.html and the PNG files.")
    ] = Path("look"),
    bento: Bento = None,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Explain convolution on your own image: kernel, convolution, ReLU and pooling, or a network's layers."""
    from gapgate.report.tour import tour as looking

    if kernel and kernel != _LEARNED:
        looking.check_kernel(kernel)
        if layers:
            raise SettingsError(f"--layers {layers} is of --kernel learned; {kernel} has one convolution")
    _check_out(out)
    data = _read(image)
    console = Console()
    with _package(bento, model, must=kernel == _LEARNED) as predictor:
        if predictor and kernel in ("", _LEARNED):
            pixels = _decoded(predictor, image, data)
            name, probability = predictor.class_of(pixels)
            source = f"{predictor.model.name} version {predictor.model.version}"
            answer = f"{source} says {name}, {percent(probability)} sure."
            stages = looking.with_network(
                pixels, predictor.layers, predictor.folder / "model.onnx", out, image.name, answer, layers
            )
            console.print(escape(answer), highlight=False)
        else:
            if predictor:
                # A kernel takes one channel: the network's transform with gray in the place of its own mode.
                gray = replace(predictor, transform=predictor.transform.model_copy(update={"mode": "gray"}))
                plane = _decoded(gray, image, data)[:, :, 0]
            else:
                with _named(image):
                    plane = looking.gray_image(data)
            stages = looking.with_kernel(plane, kernel or _DEFAULT_KERNEL, out, image.name)
            if not kernel:
                console.print(f"{model} has no champion yet (`gapgate run` makes one), so with the kernel edge:")
    console.print(_stages(stages))
    console.print(f"pictures and all in one page: {escape(str(out / looking.PAGE))}", soft_wrap=True, highlight=False)


def similar(
    image: Image,
    count: Annotated[
        int, typer.Option("--k", metavar="NUMBER", min=1, max=_MAX_NEIGHBOURS, help="Number of training images.")
    ] = 8,
    out: Annotated[
        Path | None,
        option(
            "--out",
            metavar="FOLDER",
            help="Folder for similar.png, and for heat.png, which shows the pixels that counted.",
        ),
    ] = None,
    bento: Bento = None,
    model: Model = DEFAULT_MODEL,
) -> None:
    """Show the training images that are nearest to an image, by the network's embedding."""
    if out:
        _check_out(out)
    data = _read(image)
    with _package(bento, model, must=True) as predictor:
        assert predictor is not None
        if predictor.index is None:
            raise ArtifactError(
                f"the package of {predictor.model.name} version {predictor.model.version} holds no training images: "
                "package.similar_images is 0, or its network has no dense layer"
            )
        pixels = _decoded(predictor, image, data)
        name, probability = predictor.class_of(pixels)
        found = predictor.nearest(pixels, count)
        console = Console()
        source = f"{predictor.model.name} version {predictor.model.version}"
        console.print(
            f"{escape(image.name)} is [bold]{escape(name)}[/], {percent(probability)} sure ({escape(source)})"
        )
        console.print(_neighbours(found, predictor.class_names, name))
        if out:
            _draw(out, predictor, pixels, found)
            console.print(f"similar.png and heat.png are in {escape(str(out))}", soft_wrap=True, highlight=False)


def _draw(out: Path, predictor: Predictor, pixels: Any, found: Sequence[Neighbour]) -> None:
    from gapgate.onnx.occlusion import heat_png
    from gapgate.report.tour.pictures import similar as draw

    assert predictor.index is not None
    name, probability = predictor.class_of(pixels)
    heat = predictor.heat(pixels, name, lambda: False)
    assert heat is not None  # None stands for a cancelled call, and this one never is
    captions = [(name, f"{percent(probability, 0)} sure")]
    captions += [(predictor.class_names[near.label], f"{1 - near.distance:.3f}") for near in found]
    with tempfile.TemporaryDirectory() as scratch:
        # Drawn aside, since a version for dark pages is drawn too, which a person who looks at files does not need.
        draw(Path(scratch), pixels, [predictor.index.thumbnail(near.row) for near in found], captions)
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(scratch, "similar.png"), out / "similar.png")
            (out / "heat.png").write_bytes(heat_png(pixels, heat))


@contextmanager
def _package(bento: Path | None, model: str, *, must: bool) -> Iterator[Predictor | None]:
    """Open the model of `bento`, or else the champion's, with a server's checks, for the time of the block. Yields None
    if there is no champion and `must` is False.

    Raises:
        RegistryError: there is no champion, and `must` is True.
        ArtifactError, GateError: as `serving.model.predictor.Predictor.load`.
    """
    from gapgate.evidence.sealed.archive import unpacked_model
    from serving.model.predictor import Predictor

    try:
        found = _in(bento) if bento else find_champion(model)
    except RegistryError as error:
        if must:
            raise RegistryError(f"{error}; or name a package with --bento") from None
        yield None
        return
    with ExitStack() as stack:
        with status(f"opening {found.name}"):
            folder = found if found.is_dir() else stack.enter_context(unpacked_model(found))
            predictor = Predictor.load(folder)
        yield predictor


def _in(path: Path) -> Path:
    """The package's folder or .bento file at a user's path.

    Raises:
        ArtifactError: the folder holds no package.
    """
    if not path.is_dir():
        return path
    # The artifact of `package`, an unpacked Bento, and the package itself.
    for candidate in (path / "model.bento", path / "src" / "model", path):
        if candidate.is_file() or (candidate / "model.onnx").is_file():
            return candidate
    raise ArtifactError(f"{path} holds no package (no model.bento and no model.onnx); name the folder of one")


def _check_out(out: Path) -> None:
    """Check that `out` can be a folder.

    Raises:
        SettingsError: a file has this name.
    """
    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out} is a file; name a folder")


def _read(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: no such file, a folder, or no permission.
    """
    if file.is_dir():
        raise DataError(f"{file} is a folder; name one image file")
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no such file: {file}") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None


def _decoded(predictor: Predictor, file: Path, data: bytes) -> Any:
    """Decode an image as a server does, to the network's input: (H, W, C) uint8.

    Raises:
        ImageError: the image cannot be decoded, or has too many pixels.
    """
    from serving.client.prediction import decoded

    with _named(file):
        return decoded(predictor, data)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Put the file's name before the message of an `ImageError`, which names no file."""
    try:
        yield
    except ImageError as error:
        raise ImageError(error.kind, f"{file}: {error.reason}", error.remedy) from None


def _stages(stages: Sequence[Stage]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("what it does")
    table.add_column("output")
    table.add_column("weights", justify="right")
    for stage in stages:
        size = "\n".join([stage.size, *(f"[dim]{line}[/]" for line in stage.size_words)])
        table.add_row(stage.name, stage.does, size, f"{stage.num_weights:,}" if stage.num_weights else "")
    table.add_row("in all", "", "", f"{sum(stage.num_weights for stage in stages):,}")
    return table


def _neighbours(found: Sequence[Neighbour], class_names: Sequence[str], answer: str) -> Table:
    """Table of the neighbours; labels other than the model's answer are in colour."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("training image", overflow="fold")
    table.add_column("label", overflow="fold")
    table.add_column("similarity", justify="right")
    table.add_column("distance", justify="right")
    for place, near in enumerate(found, start=1):
        name = escape(class_names[near.label])
        label = name if class_names[near.label] == answer else f"[yellow]{name}[/]"
        table.add_row(str(place), escape(near.id), label, f"{1 - near.distance:.4f}", f"{near.distance:.4f}")
    return table
