"""Mutation run: small faults put into one module at a time, and the share of them that the module's own tests miss.

    python -m tests.mutants [MODULE.py …] [--survivors]

Cosmic Ray's operators make the mutants. It would start an interpreter and import PyTorch for each of them; here they
run in forks of one process that has imported everything but Gapgate. (mutmut forks as well, but leaves out decorated
functions and the top of a module: `@torch.no_grad() def step` of every optimizer.) The run changes files in a copy of
the project under `.mutants/` alone.

A mutant that no test could tell from the original is named with its reason in `equivalent_mutants.toml`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib
import importlib.metadata
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tokenize
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).parents[1]
COPY = ROOT / ".mutants" / "copy"
RESULTS = ROOT / ".mutants" / "results.json"
TIMES = ROOT / ".mutants" / "times.json"
EQUIVALENTS = Path(__file__).with_name("equivalent_mutants.toml")

MODULES = (
    "gapgate/evidence/measures/gap.py",
    "gapgate/evidence/gate.py",
    "gapgate/evidence/measures/calibration.py",
    "gapgate/evidence/sealed/receipt.py",
    "gapgate/evidence/compare.py",
    "gapgate/data/partition.py",
    "gapgate/data/transform.py",
    "gapgate/training/optimization/schedules.py",
    "gapgate/training/optimization/weight_average.py",
    "gapgate/training/optimization/optimizers.py",
    "gapgate/onnx/occlusion.py",
    "gapgate/artifacts.py",
    "gapgate/evidence/evaluate.py",
    "gapgate/evidence/measures/summary.py",
)
"""Where a small fault gives a wrong verdict, a wrong split or a wrong model without any error."""

OPERATORS = (
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer"),
    *("RemoveDecorator", "ZeroIterationForLoop"),
    *("ReplaceUnaryOperator_USub_UAdd", "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_Invert"),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt", "Eq_NotEq", "NotEq_Eq",
        "Is_IsNot", "IsNot_Is",
    )),
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Mul_Add", "Div_Mul", "Div_FloorDiv", "FloorDiv_Div", "FloorDiv_Mul",
        "Mod_Mul", "Pow_Mul", "BitAnd_BitOr", "BitOr_BitAnd", "RShift_LShift", "LShift_RShift",
    )),
)  # fmt: skip
"""Of each comparison its border and its opposite, of each arithmetic operator its inverse: the eleven replacements that
Cosmic Ray has for every `+` are killed by anything, and would only flatter the share."""

SQL_SWAPS = (
    (" <= ", " < "), (" < ", " <= "), (" > ", " >= "), (" <> ", " = "), (" - ", " + "), (" + ", " - "), (" * ", " / "),
    (" / ", " * "), (" AND ", " OR "), (" DESC", " ASC"), ("DISTINCT ", ""), (" IS NULL", " IS NOT NULL"),
    ("SUM(", "MAX("), ("ORDER BY other.row", "ORDER BY -other.row"), ("ORDER BY row", "ORDER BY -row"),
    ("ORDER BY first.row", "ORDER BY -first.row"), (", label)", ")"), (" EXISTS ", " NOT EXISTS "), ("> 1", "> 2"),
    ("= 1", "= 2"), ("0.5", "0"),
)  # fmt: skip
PRELOADED = (
    *(
        "torch",
        "torch._dynamo",
        "torch.optim.adamw",
        "torch.optim.sgd",
        "torchvision",
        "onnx",
        "onnxruntime",
        "safetensors.torch",
    ),
    *("scipy.special", "scipy.stats", "sklearn.metrics", "sklearn.datasets", "sklearn.linear_model", "pyarrow.parquet"),
    *("PIL.Image", "pydantic", "yaml", "jinja2", "matplotlib.figure", "matplotlib.backends.backend_agg", "xxhash"),
)
PYTEST_LEFT_OUT = ("schemathesis", "xdist", "xdist.looponfail")  # half a second in every fork
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=short")
PYTEST = (*PYTEST, *(f"-pno:{name}" for name in PYTEST_LEFT_OUT))
PYTEST = (*PYTEST, "-W", "ignore::pytest.PytestAssertRewriteWarning")  # plugins are imported before the fork
LONGEST_S = 30.0


class SqlReplacer(Operator):
    """Cosmic Ray sees SQL as one string; this swaps one operator or word in it."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        for _ in self._places(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        place, old, new = list(self._places(node))[index]
        node.value = node.value[:place] + new + node.value[place + len(old) :]
        return node

    @staticmethod
    def _places(node: Any) -> Iterator[tuple[int, str, str]]:
        if node.type not in ("string", "fstring_string") or not any(w in node.value for w in ("SELECT ", "UPDATE ")):
            return
        for old, new in SQL_SWAPS:
            place = -1
            while (place := node.value.find(old, place + 1)) >= 0:
                yield place, old, new

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


@dataclass(frozen=True)
class Mutant:
    line: int
    was: str
    now: str
    source: str

    def __str__(self) -> str:
        return f"{self.line}:\n    - {self.was}\n    + {self.now}"


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant that compiles and is another program, once."""
    source = _without_comments(source)
    seen, found = {_essence(source)}, []
    for operator in (*(get_operator(f"core/{name}")() for name in OPERATORS), SqlReplacer()):
        for occurrence in itertools.count():
            try:
                if (changed := mutate_code(source, operator, occurrence)) is None:
                    break
                essence = _essence(changed)
            except (SyntaxError, AttributeError):  # AttributeError: ExceptionReplacer cannot do `except a.Name`
                continue
            if essence not in seen:
                seen.add(essence)
                found.append(_described(source, changed))
    return sorted(found, key=lambda mutant: mutant.line)


def _without_comments(source: str) -> str:
    """The same lines without comments, so that a reworded comment needs no change of `equivalent_mutants.toml`."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]].rstrip()
    return "\n".join((*lines, ""))


def _essence(source: str) -> str:
    """The program without what has no effect on it: a function's annotations, which nothing evaluates, and how its
    arguments may be given (Cosmic Ray takes the `*` before keyword arguments for a multiplication)."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            given = node.args
            given.args = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            given.defaults = [*given.defaults, *(value for value in given.kw_defaults if value is not None)]
            given.posonlyargs, given.kwonlyargs, given.kw_defaults, node.returns = [], [], [], None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "BaseModel" not in source:
            node.annotation = ast.Name("Any")
    return ast.dump(tree)


def _described(source: str, changed: str) -> Mutant:
    before, after = source.splitlines(), changed.splitlines()
    was, now, line = [], [], 0
    for tag, i, j, k, m in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            line = line or i + 1
            was += [text.strip() for text in before[i:j] if text.strip()]
            now += [text.strip() for text in after[k:m] if text.strip()]
    return Mutant(line, " ".join(was), " ".join(now), changed)


def tests_of(module: str) -> list[str]:
    """The module's own tests: those of its name in the folder of tests that mirrors its own."""
    path = Path(module)
    return sorted(str(file.relative_to(ROOT)) for file in (ROOT / "tests" / path.parent).glob(f"test_{path.stem}*.py"))


class QuickestFirst:
    """A pytest plugin: tests in the order of the time that they took before, which it also writes down."""

    def __init__(self, took_s: dict[str, float]) -> None:
        self.before_s, self.now_s = took_s, dict[str, float]()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.before_s.get(item.nodeid, 0.0))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test that takes far longer than before hangs; the signal ends the fork, whatever it is doing."""
        signal.alarm(int(10 + 10 * self.before_s.get(nodeid, LONGEST_S)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.now_s[report.nodeid] = self.now_s.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        TIMES.write_text(json.dumps(self.now_s))


def run_tests(tests: list[str], took_s: dict[str, float]) -> tuple[bool, float]:
    """Whether the tests pass, in a fork; one that hangs does not pass."""
    started = time.monotonic()
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        with (ROOT / ".mutants" / "output.txt").open("w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        code = 1
        try:
            code = int(pytest.main([*PYTEST, *tests], plugins=[QuickestFirst(took_s)]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return status == 0, time.monotonic() - started


def warm_up() -> None:
    """Copy the project, go there, and import what tests need; Gapgate itself is imported by the forks alone."""
    shutil.rmtree(COPY, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (COPY / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, COPY / name)
    os.chdir(COPY)
    os.environ |= {"PYTHONPATH": str(COPY), "GAPGATE_MUTANTS": "1"}
    sys.path[:] = [str(COPY), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        del sys.modules[name]
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        if plugin.name not in PYTEST_LEFT_OUT:
            plugin.load()
    for name in PRELOADED:
        importlib.import_module(name)
    hypothesis.settings.register_profile(
        "mutants",
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        database=None,
        deadline=None,
    )
    hypothesis.settings.load_profile("mutants")
    gc.freeze()  # pytest collects garbage twice in each fork: over all that is imported here 3 s, with this none


def try_mutant(module: str, mutant: Mutant, original: str, tests: list[str], took_s: dict[str, float]) -> bool:
    """Whether the tests notice."""
    path = COPY / module
    path.write_text(mutant.source)
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):  # two mutants may have one size and one second
        stale.unlink()
    try:
        return not run_tests(tests, took_s)[0]
    finally:
        path.write_text(original)
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            stale.unlink()


def run_module(module: str, named: list[dict[str, str]], before: list[list[str]] | None) -> dict[str, Any]:
    """Try all mutants of a module, or those among `before`; equivalents are not tried."""
    original, tests = (COPY / module).read_text(), tests_of(module)
    passed, taken_s = run_tests(tests, {})
    took_s = json.loads(TIMES.read_text())
    if not passed:
        raise SystemExit(f"{module}: its tests {tests} fail without any mutant; see .mutants/output.txt")
    every = mutants_of(original)
    skipped = {(one["was"], one["now"]) for one in named}
    if unknown := skipped - {(mutant.was, mutant.now) for mutant in every}:
        raise SystemExit(f"{module}: {EQUIVALENTS.name} names mutants that are not made: {sorted(unknown)}")
    tried = [mutant for mutant in every if (mutant.was, mutant.now) not in skipped]
    wanted = tried if before is None else [mutant for mutant in tried if [mutant.was, mutant.now] in before]
    print(f"{module}: {len(every)} mutants, {len(wanted)} to try; tests take {taken_s:.1f} s", flush=True)
    survivors = []
    for mutant in wanted:
        if not try_mutant(module, mutant, original, tests, took_s):
            survivors.append([mutant.was, mutant.now])
            print(f"  survived {module}:{mutant}", flush=True)
    return {"mutants": len(every), "equivalents": len(every) - len(tried), "survivors": survivors}


def table(results: dict[str, Any]) -> str:
    """The result of each module as a Markdown table."""
    lines = ["| module | mutants | killed | equivalent | survivors | share |", "|---|---|---|---|---|---|"]
    counts = {name: (r["mutants"], r["equivalents"], len(r["survivors"])) for name, r in results.items()}
    if len(counts) > 1:
        counts["**all**"] = tuple(map(sum, zip(*counts.values(), strict=True)))  # type: ignore[assignment]
    for name, (mutants, equivalents, survivors) in counts.items():
        killed, share = mutants - equivalents - survivors, survivors / max(1, mutants - equivalents)
        lines.append(f"| {name} | {mutants:,} | {killed:,} | {equivalents} | {survivors} | {share:.1%} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which small faults do the tests of a module miss?")
    parser.add_argument("modules", nargs="*", default=MODULES)
    parser.add_argument("--survivors", action="store_true", help="try only what survived the last run, if any")
    given = parser.parse_args(argv)
    equivalents = tomllib.loads(EQUIVALENTS.read_text())
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    warm_up()
    for module in given.modules:
        before = results[module]["survivors"] if given.survivors and module in results else None
        results[module] = run_module(module, equivalents.get(module, []), before)
        RESULTS.write_text(json.dumps(results, indent=1))
    gc.unfreeze()
    print(f"\nCosmic Ray {importlib.metadata.version('cosmic-ray')}, pytest {pytest.__version__}\n")
    print(table({module: results[module] for module in MODULES if module in results}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
