"""The model that answers: the one inside the Bento, or the one that an alias in a registry names."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from gapgate.errors import GapgateError
from serving.options import Options
from serving.predictor import Predictor
from serving.registry import MlflowRegistry, ModelUri
from serving.responses import ApiError
from serving.schema import ReceiptAnswer
from serving.watcher import Watcher

logger = logging.getLogger("gapgate.serving")


def check(options: Options) -> None:
    """Raises:
    SettingsError: `options.model` or MLFLOW_TRACKING_URI is no address of its kind."""
    if options.model:
        _followed(options)


def _followed(options: Options) -> tuple[MlflowRegistry, ModelUri]:
    cache = Path(options.model_cache or Path(tempfile.gettempdir(), f"gapgate-models-{os.getuid()}"))
    return MlflowRegistry(os.environ.get("MLFLOW_TRACKING_URI", ""), cache), ModelUri.parse(options.model)


class Models:
    """Holds the current model. A request takes it once and keeps it: a model that is replaced answers what it began."""

    def __init__(self, options: Options, package: Path) -> None:
        """`package` is the folder of the Bento's own model, used where `options.model` names none.

        Raises:
            SettingsError: `options.model` or MLFLOW_TRACKING_URI is no address of its kind.
        """
        self.current: Predictor | None = None
        self.receipts: dict[str, ReceiptAnswer] = {}
        """Digest → what stands behind the answers that carry it, of every model that this process served."""
        self._package = package
        self._code = "starting"
        self._problem = "the model is being loaded"
        self._watcher = self._watch(options) if options.model else None

    def start(self) -> None:
        """Load the model; a package that is refused leaves the server running and not ready, with the reason."""
        if self._watcher:
            self._watcher.serve_last()
            self._watcher.start()
            return
        try:
            self.switch(Predictor.load(self._package))
            logger.info("serving %s", self._package, extra={"package": self.require().digest})
        except Exception as error:  # a damaged graph makes ONNX Runtime raise its own; the server tells it at /readyz
            is_ours = isinstance(error, GapgateError)
            self._code, self._problem = "refused", str(error) if is_ours else f"{type(error).__name__}: {error}"
            logger.error("the package is refused: %s", self._problem, exc_info=None if is_ours else error)

    def stop(self) -> None:
        """End the watcher."""
        if self._watcher:
            self._watcher.stop()

    def switch(self, predictor: Predictor) -> None:
        """Answer every request from now on with another model; the receipts of the ones before stay."""
        self.receipts[predictor.receipt] = predictor.receipt_answer
        self.current = predictor

    def require(self) -> Predictor:
        """The model.

        Raises:
            ApiError: 503, there is none; with the reason.
        """
        if self.current is None:
            code = "refused" if self.refused else self._code
            raise ApiError(503, code, self.problem, {"Retry-After": "1"})
        return self.current

    @property
    def problem(self) -> str:
        """Why there is no model."""
        found = [self._watcher.refused, self._watcher.problem] if self._watcher else []
        return "; ".join(filter(None, found)) or self._problem

    @property
    def refused(self) -> bool:
        """Whether the registry's alias names a version that is not served."""
        return bool(self._watcher and self._watcher.refused)

    def _watch(self, options: Options) -> Watcher[Predictor]:
        registry, uri = _followed(options)
        return Watcher(
            registry,
            uri,
            poll_s=options.model_poll_s,
            load=Predictor.load,
            switch=self.switch,
            current=lambda: self.current,
        )
