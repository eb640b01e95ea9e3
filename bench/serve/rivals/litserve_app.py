"""LitServe as its documentation sets it up for production, with the fast queue that it names for over 100 requests/s.

python -m bench.serve.rivals.litserve_app PORT
"""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray

from bench.serve.rivals.model import Model


class Classifier(litserve.LitAPI):
    """The model in LitServe's steps."""

    def setup(self, device: str) -> None:
        self.model = Model.from_environment()

    # LitServe takes an annotation of the request, or of the response, as a schema to check it against.
    def decode_request(self, request) -> NDArray[np.uint8]:
        return self.model.decode(request["image"].file.read())

    def predict(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        return self.model.answer(image)

    def encode_response(self, output: dict[str, Any]):
        return output


if __name__ == "__main__":
    server = litserve.LitServer(Classifier(), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
