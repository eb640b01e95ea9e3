"""The gate's verdict for readers: a headline, and a page of Markdown with each check's reason and what to do now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

REMEDIES = {
    "max_gap_points": "It overfits. Add operations to `augment.operations`, a `dropout` layer to `train.architecture`, "
    "weight to `train.weight_decay`, or training images; or take fewer `train.epochs`.",
    "min_test_accuracy": "It recognises too little. Look at the worst errors in the report: raise `preprocess.size_px` "
    "if details are lost, correct wrong labels, or raise `train.epochs`.",
    "min_class_recall": "One class is weak. Add images of it, or set `train.class_weights` to balanced.",
    "max_ece": "Its confidence is wrong. Too sure: augmentation, dropout or a larger `train.weight_decay`; not sure "
    "enough: a lower `train.label_smoothing` or more `train.epochs`.",
    "max_parity": "The exported network answers otherwise than the trained one, a fault of the export: report it.",
    "max_leaked_share": "Images of val or test are in another split too, or have two labels. The run's splits "
    "name them: take them out of one side, or leave the splitting to Gapgate.",
    "finite_figures": "A calculation went wrong. Lower `train.learning_rate`, and train again.",
}
"""Name of a check → what to do when it fails."""
UNDECIDED = "Too few images. Add photos, about as many as the check says, of the class that it names."
_PASSED = (
    "Nothing: the next steps register and package the model. `gapgate models` lists its version, and a service that "
    "follows the registry answers with the champion."
)
_FAILED = {
    "max_gap_points": "the gap is too wide",
    "min_test_accuracy": "too few new images are recognised",
    "min_class_recall": "one class is recognised too rarely",
    "max_ece": "its confidence cannot be trusted",
    "max_parity": "the exported network answers otherwise",
    "max_leaked_share": "images are in two splits",
    "finite_figures": "a figure is not finite",
}
"""Name of a check → what its failure means, for the headline."""
_MARKUP = re.compile(r"([\\`*_\[\]|<>~])")


def deciding(certificate: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the check that decided: the first that failed, else the first undecided one, else the first one, which is
    the gap's."""
    checks = certificate["checks"]
    return next((check for check in checks if check["verdict"] == certificate["verdict"]), None)


def headline(certificate: Mapping[str, Any]) -> str:
    """Say the verdict in one line."""
    check = deciding(certificate)
    if certificate["verdict"] == "pass":
        return "Passed: the model holds on images it has not seen"
    if certificate["verdict"] == "undecided":
        return "Undecided: too few images to tell"
    return f"Did not pass: {_FAILED.get(check['name'], check['name']) if check else 'nothing was checked'}"


def what_now(certificate: Mapping[str, Any]) -> str:
    """Say what to do, of the check that decided; text with settings between backticks."""
    check = deciding(certificate)
    if certificate["verdict"] == "pass":
        return _PASSED
    return UNDECIDED if certificate["verdict"] == "undecided" else REMEDIES.get(check["name"] if check else "", "")


def markdown(certificate: Mapping[str, Any]) -> str:
    """Write the content of `certificate.json` as Markdown.

    Text that stems from the data, such as a class name, is shown as it is and never as markup.
    """
    lines, checks = [f"# Gate: {certificate['verdict']}", ""], certificate["checks"]
    # A list: KFP's page (2.17) is narrow, and puts no space between the cells of a table.
    lines += [f"- **{check['verdict']}** `{check['name']}`: {plain(check['reason'])}" for check in checks]
    lines += ["", "## What now", ""]
    missed = [check for check in checks if check["verdict"] != "pass"]
    if not missed:
        return "\n".join([*lines, _PASSED, ""])
    remedies = (UNDECIDED if check["verdict"] == "undecided" else REMEDIES[check["name"]] for check in missed)
    lines += [f"- {remedy}" for remedy in dict.fromkeys(remedies)]
    lines += ["", "The page `docs/your-model-did-not-pass.md` tells more. Change one thing, and run again.", ""]
    return "\n".join(lines)


def plain(text: str) -> str:
    """A text whose characters have no meaning in Markdown."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
