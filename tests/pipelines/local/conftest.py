from tests.components.conftest import home, server  # noqa: F401
