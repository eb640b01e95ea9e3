"""The model that answers: the one inside the Bento, or a version in a registry."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from gapgate.errors import GapgateError
from serving.description.schema import ReceiptAnswer
from serving.http.responses import ApiError
from serving.model.predictor import Predictor
from serving.model.registry import MlflowRegistry, ModelUri
from serving.model.watcher import Watcher, reason_of
from serving.options import Options

logger = logging.getLogger("gapgate.serving")


def check(options: Options) -> None:
    """Check the options of the model before any worker starts.

    Raises:
        SettingsError: `options.model` or MLFLOW_TRACKING_URI is no address of its kind.
    """
    if options.model:
        _followed(options)


def _followed(options: Options) -> MlflowRegistry:
    # A name for each user: two users of one machine cannot share a folder (`PackageCache`).
    cache = Path(options.model_cache or Path(tempfile.gettempdir(), f"gapgate-models-{os.getuid()}"))
    return MlflowRegistry(os.environ.get("MLFLOW_TRACKING_URI", ""), ModelUri.parse(options.model), cache)


class Models:
    """Holder of the current model. A request takes the model once, so a switch does not touch requests in work."""

    def __init__(self, options: Options, package: Path) -> None:
        """Prepare to load the model; `package` is the folder of the Bento's own, used if `options.model` is empty.

        Raises:
            SettingsError: `options.model` or MLFLOW_TRACKING_URI is no address of its kind.
        """
        self.current: Predictor | None = None
        self.receipts: dict[str, ReceiptAnswer] = {}
        """Digest → receipt with its lineage, for every model that this process has served."""
        self._package = package
        self._code = "starting"
        self._problem = "the model is being loaded"
        self._watcher: Watcher[Predictor] | None = None
        if options.model:
            load, switch = Predictor.load, self.switch
            self._watcher = Watcher(_followed(options), options.model_poll_s, load, switch, lambda: self.current)

    def start(self) -> None:
        """Load the model or start to follow it. If it is refused, the server runs on and `/readyz` gives the reason."""
        if self._watcher:
            # In this order: only one of the two may load models at a time (see `Watcher`).
            self._watcher.serve_last()
            self._watcher.start()
            return
        try:
            self.switch(Predictor.load(self._package))
            logger.info("serving %s", self._package, extra={"package": self.require().digest})
        except Exception as error:  # a damaged graph makes ONNX Runtime raise its own; the server tells it at /readyz
            self._code, self._problem = "refused", reason_of(error)
            trace = None if isinstance(error, GapgateError) else error
            logger.error("the package is refused: %s", self._problem, exc_info=trace)

    def stop(self) -> None:
        """Stop to follow the registry."""
        if self._watcher:
            self._watcher.stop()

    def switch(self, predictor: Predictor) -> None:
        """Make another model answer all further requests; the receipts of earlier models stay."""
        # The receipt first: the watcher's thread runs this, and a request on the event loop may use the model at once.
        self.receipts[predictor.receipt] = predictor.receipt_answer
        self.current = predictor

    def require(self) -> Predictor:
        """Return the current model.

        Raises:
            ApiError: 503, there is none; the message gives the reason.
        """
        if self.current is None:
            code = "refused" if self.refused else self._code
            raise ApiError(code, self.problem, {"Retry-After": "1"})
        return self.current

    @property
    def problem(self) -> str:
        """The reason why there is no model, or why the registry's version is not served."""
        found = [self._watcher.refused, self._watcher.problem] if self._watcher else []
        return "; ".join(filter(None, found)) or self._problem

    @property
    def refused(self) -> bool:
        """True if the registry names a version that is refused."""
        return bool(self._watcher and self._watcher.refused)
