"""The page of the Python API, from its signatures and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator

from pipelines.api import Check, Figure, Model, Prediction, Result, load, run

_HEAD = """\
# Python

The pipeline and its models without the command line. `import gapgate` is quick: what it needs is imported by the first
call.

```python
import gapgate

result = gapgate.run("photos/", settings={"train.epochs": 20}, show=print)
print(result.verdict, result.gap)  # pass Figure(value=1.8, low=0.6, high=2.9)

if result.passed:
    model = gapgate.load(result.version)
    answer = model.predict("new.jpg")
    print(answer.class_name, answer.confidence, answer.receipt)

try:
    gapgate.run("photos/", settings={"train.epochs": 0})
except gapgate.errors.SettingsError as error:
    print(error)  # train.epochs=0 is below the limit 1; raise it
```

A run has the workspace of the command: `.gapgate` in the current folder, or `GAPGATE_HOME`. Every mistake is a
`gapgate.errors.GapgateError`: one line, with the remedy, and the `exit_code` of the command.
"""


def markdown() -> str:
    """The page, in Markdown."""
    parts = [
        _HEAD,
        *_function(run, "gapgate.run"),
        *_record(Result),
        *_record(Figure),
        *_record(Check),
        *_function(load, "gapgate.load"),
        *_record(Model),
        *_function(Model.predict, "Model.predict", "(images: ImageLike) -> Prediction", _MANY),
        *_record(Prediction),
    ]
    return "\n".join(parts)


_MANY = "(images: Sequence[ImageLike]) -> list[Prediction]"


def _function(function: Callable[..., object], name: str, *signatures: str) -> Iterator[str]:
    short = name.rpartition(".")[2]
    yield f"## {name}\n"
    # Annotations are texts there, between quotes.
    form = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(function)))
    forms = signatures or (form.replace("'", '"'),)
    yield "```python"
    yield from (_wrapped(f"{short}{form}") for form in forms)
    yield "```\n"
    summary, *sections = re.split(r"^(Args|Returns|Raises):\n", inspect.getdoc(function) or "", flags=re.M)
    yield f"{_flowing(summary)}\n"
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        body = textwrap.dedent(text).strip()
        if title == "Returns":
            yield f"Returns: {_one_line(body)}\n"
            continue
        yield f"{ {'Args': 'Arguments', 'Raises': 'Raises'}[title] }:\n"
        for entry in re.split(r"\n(?=\S)", body):
            names, _, meaning = entry.partition(": ")
            yield f"- {', '.join(f'`{each}`' for each in names.split(', '))}: {_one_line(meaning)}"
        yield ""


def _record(kind: type) -> Iterator[str]:
    """A frozen dataclass: its fields and properties."""
    yield f"## {kind.__name__}\n"
    yield f"{_flowing(inspect.getdoc(kind) or '')}\n"
    yield "| Field | Type | Meaning |\n| --- | --- | --- |"
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(meaning))):
                yield _row(name, ast.unparse(node.annotation), meaning)
            case ast.AnnAssign(target=ast.Name(id=name)), _ if not name.startswith("_"):
                raise ValueError(f"{kind.__name__}.{name} has no docstring")
            case ast.FunctionDef(name=name, decorator_list=[ast.Name(id="property")], returns=ast.expr() as returns), _:
                yield _row(name, ast.unparse(returns), ast.get_docstring(node) or "")
    yield ""


def _row(name: str, kind: str, meaning: str) -> str:
    cells = (f"`{name}`", f"`{kind}`".replace("|", "\\|").replace("'", '"'), _one_line(meaning))
    return f"| {' | '.join(cells)} |"


def _wrapped(signature: str) -> str:
    if len(signature) <= 100:
        return signature
    name, _, rest = signature.partition("(")
    arguments, _, returned = rest.rpartition(")")
    lines = [f"    {each}," for each in re.split(r", (?![^\[]*\])", arguments)]
    return "\n".join([f"{name}(", *lines, f"){returned}"])


def _flowing(text: str) -> str:
    return "\n\n".join(map(_one_line, text.strip().split("\n\n")))


def _one_line(text: str) -> str:
    return " ".join(text.split())
