"""MLflow's own server on the workspace's store."""

from __future__ import annotations

import socket

import pytest

from components.platform.tracking.mlflow_server import serve
from gapgate.errors import ServeError


def test_a_port_that_another_program_has_is_one_line_and_a_users_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ServeError, match=f"^port {port} cannot be used .Address already in use.; .*--port$"
        ) as caught:
            serve(port, lambda address: pytest.fail(f"it serves at {address}"))
    assert caught.value.exit_code == 2
