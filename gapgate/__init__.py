"""The domain, from labelled images to evidence. It imports no platform (kfp, mlflow, dvc, bentoml).

`gapgate.run` and `gapgate.load` are the Python API. They are in `pipelines.api`, above this package, and imported when
they are first used: the domain has no import of a higher layer, and `import gapgate` takes no time. Their types are in
`__init__.pyi` (https://scientific-python.org/specs/spec-0001/).
"""

import importlib

__version__ = "0.2.0"
__all__ = ["Model", "Prediction", "Result", "__version__", "errors", "load", "run"]


def __getattr__(name: str) -> object:
    if name == "errors":
        return importlib.import_module("gapgate.errors")
    if name in __all__:
        importlib.import_module("gapgate.process.own_packages").refuse_namesakes()
        return getattr(importlib.import_module("pipelines.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
