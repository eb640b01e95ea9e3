from gapgate import errors as errors
from pipelines.api import Model as Model
from pipelines.api import Prediction as Prediction
from pipelines.api import Result as Result
from pipelines.api import load as load
from pipelines.api import run as run

__version__: str
