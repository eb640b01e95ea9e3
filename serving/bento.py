"""Program that builds a Bento from a folder of model files: `python -m serving.bento MODEL_DIR NAME:VERSION ARCHIVE`.

It is a process of its own, because BentoML keeps its home, its settings and the imported service for the whole process.
Equal inputs give equal bytes: BentoML's creation time is fixed, and the archive has sorted names and no times.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import yaml

import gapgate
from serving.description.docs import TEMPLATE
from serving.description.openapi_examples import SAMPLES
from serving.http.pages import STATIC
from serving.telemetry.privacy import QUIET

SERVICE = "serving.service:GapgateService"
BASE_IMAGE = "python:3.11-slim"
REQUIREMENTS = Path(__file__).with_name("requirements.lock")
CREATION_TIME = "1970-01-01T00:00:00+00:00"
ENTRYPOINT = Path(__file__).with_name("bento_entrypoint.sh")
README = Path(__file__).with_name("bento_readme.md")
"""Text about the Bento, in which `{tag}` stands for its name and version."""


def main(argv: list[str] | None = None) -> int:
    """Build the Bento that the arguments describe."""
    parser = argparse.ArgumentParser(prog="python -m serving.bento", description="Build a Bento.")
    parser.add_argument("model_dir", type=Path, help="folder with model.onnx, transform.json, certificate.json, ...")
    parser.add_argument("tag", help="NAME:VERSION of the Bento")
    parser.add_argument("archive", type=Path, help=".bento file to write")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        # BentoML reads its environment once, when it is imported; `_collect` is the first to do so.
        os.environ |= {"BENTOML_HOME": str(Path(folder, "home")), **QUIET}
        context = Path(folder, "context")
        _collect(arguments.model_dir, context)
        bento = _build(context, arguments.tag)
        _finish(bento)
        _archive(bento, arguments.archive)
    return 0


def _collect(model_dir: Path, context: Path) -> None:
    """Copy the content of the Bento's `src` to `context`: the model's package, every module of this project that the
    server imports, and the files of the pages."""
    shutil.copytree(model_dir, context / "model")
    for served in ("serving.__main__", "serving.worker", "serving.service"):
        importlib.import_module(served)
    # The imports above tell which modules a server needs; a list by hand would miss one.
    root = Path(gapgate.__file__).parent.parent
    shutil.copytree(STATIC, context / STATIC.relative_to(root))
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in ("gapgate", "serving"):
            source = Path(str(module.__file__))
            copy = context / source.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    for data in (SAMPLES, TEMPLATE):
        shutil.copyfile(data, context / data.relative_to(root))


def _build(context: Path, tag: str) -> Path:
    """Run BentoML's build; return the folder of the Bento in BentoML's home."""
    import bentoml
    from bentoml.images import Image

    from serving import service

    class PinnedImage(Image):  # type: ignore[misc]
        """An image whose requirements are the lock file, which `_finish` copies.

        BentoML 1.4.39 would add a `bentoml==...` without a hash, which pip refuses beside lines that have one; it would
        install uv with pip where there is none, even with `lock_python_packages=False`; and it would repeat the file in
        `bento.yaml`, which the server parses three times when it starts, at 0.35 s each.
        """

        def _freeze_python_requirements(self, bento_fs: Path, platform_: str | None = None) -> str:
            return ""

    # `distro="none"` leaves compilers and git out of the image.
    built: Any = service.GapgateService
    built.image = PinnedImage(base_image=BASE_IMAGE, distro="none", lock_python_packages=False)
    name, _, version = tag.partition(":")
    description = README.read_text().replace("{tag}", tag)
    bento = bentoml.build(SERVICE, name=name, version=version, build_ctx=str(context), description=description)
    return Path(bento.path)


def _finish(bento: Path) -> None:
    """Add the requirements and the start of a container, and replace the time of the build by a fixed one."""
    shutil.copyfile(REQUIREMENTS, bento / "env" / "python" / "requirements.txt")
    shutil.copyfile(ENTRYPOINT, bento / "env" / "docker" / "entrypoint.sh")
    content: dict[str, Any] = yaml.safe_load((bento / "bento.yaml").read_text())
    content["creation_time"] = CREATION_TIME
    (bento / "bento.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def _archive(bento: Path, archive: Path) -> None:
    """Pack the Bento as a tar that `bentoml import` reads, with every name sorted and every time zero. It is not
    compressed: weights do not shrink, and xz took 20 s for 100 MB of them and 16 s at each start of a server."""

    def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        # The umask of the builder must not show in the archive.
        member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
        return member

    with tarfile.open(archive, "w:") as tar:
        for path in sorted(bento.rglob("*")):
            tar.add(path, path.relative_to(bento).as_posix(), recursive=False, filter=anonymous)


if __name__ == "__main__":
    sys.exit(main())
