"""KFP's published v2beta1 API, as `kfp_server_api` (generated from its OpenAPI description) has it: routes, and a check
of every value against its models."""

import inspect
import json
import re
from dataclasses import dataclass
from datetime import datetime

import kfp_server_api
from kfp_server_api import api, models

# OPERATION_UNSPECIFIED is 0; filter.proto leaves out 4.
_OPERATIONS = dict(zip((0, 1, 2, 3, 5, 6, 7, 8, 9), models.V2beta1PredicateOperation.allowable_values, strict=True))
_KINDS = {"str": str, "int": int, "bool": bool, "float": float}


class RefusedError(Exception):
    """What a request gets as its answer."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Route:
    """One method of the API."""

    name: str
    method: str
    path: re.Pattern
    query: frozenset
    body: str
    answer: str


def routes():
    """Every method of every service, from the generated client's source."""
    found = []
    for service in vars(api).values():
        if not inspect.isclass(service):
            continue
        for name, function in vars(service).items():
            if not name.endswith("_with_http_info"):
                continue
            source = inspect.getsource(function)
            path, method = re.search(r"'(/apis/[^']*)', '([A-Z]+)',", source).groups()
            query = re.findall(r"query_params\.append\(\('([^']+)'", source)
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", source)
            kind = re.search(rf":type {body[1]}: (\w+)", source)[1] if body else ""
            answer = re.search(r"response_type='([^']+)'", source)
            pattern = re.compile(re.sub(r"\\\{[^}]*\\\}", r"([^/:]+)", re.escape(path)))
            short = name.removesuffix("_with_http_info").rpartition("_service_")[2]
            found.append(Route(short, method, pattern, frozenset(query), kind, answer[1] if answer else "object"))
    return found


def check(value, kind, where):
    """Refuse what the type `kind` does not allow: another type, a field that it has not, a word that is none of its."""
    if value is None or kind == "object":
        return
    if match := re.fullmatch(r"list\[(.*)\]", kind):
        _expect(isinstance(value, list), where, kind)
        for item in value:
            check(item, match[1], where)
    elif match := re.fullmatch(r"dict\(str, (.*)\)", kind):
        _expect(isinstance(value, dict), where, kind)
        for key, item in value.items():
            check(item, match[1], f"{where}.{key}")
    elif kind == "datetime":
        _expect(isinstance(value, str), where, kind)
        datetime.fromisoformat(value)
    elif kind in _KINDS:
        _expect(type(value) is _KINDS[kind], where, kind)
    else:
        _check_model(value, getattr(models, kind), where)


def _check_model(value, model, where):
    if not model.openapi_types:
        _expect(value in model.allowable_values, where, f"one of {model.allowable_values}")
        return
    _expect(isinstance(value, dict), where, model.__name__)
    names = {key: name for name, key in model.attribute_map.items()}
    for key, item in value.items():
        _expect(key in names, f"{where}.{key}", f"a field of {model.__name__}")
        check(item, model.openapi_types[names[key]], f"{where}.{key}")
    made = kfp_server_api.ApiClient().deserialize(_Answer(json.dumps(value)), model.__name__)
    _expect(made.to_dict() is not None, where, model.__name__)


def predicates(text):
    """The conditions of a filter, each with the fields of `V2beta1Predicate`."""
    if not text:
        return []
    content = json.loads(text)
    for predicate in content["predicates"]:
        for key in list(predicate):  # protobuf's JSON takes both spellings
            predicate[re.sub("([A-Z])", lambda match: "_" + match[1].lower(), key)] = predicate.pop(key)
        if isinstance(predicate["operation"], int):  # and an enum's number for its name
            predicate["operation"] = _OPERATIONS[predicate["operation"]]
    check(content, "V2beta1Filter", "filter")
    return content["predicates"]


def _expect(is_right, where, kind):
    if not is_right:
        raise RefusedError(400, f"{where} is not {kind}")


@dataclass
class _Answer:
    data: str
