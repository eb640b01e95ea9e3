"""What a result depends on: the meaning of the code that made it, and no more."""

from pathlib import Path

import pytest

from pipelines.code_digest import code_digest

CODE = {
    "gapgate/__init__.py": "",
    "gapgate/loop.py": '"""Trains."""\nfrom gapgate import arithmetic\n\ndef run():\n    return arithmetic.double(2)\n',
    "gapgate/arithmetic.py": "def double(x):\n    return 2 * x\n",
    "gapgate/report.py": "TITLE = 'a'\n",
    "gapgate/settings.py": "EPOCHS = 3\n",
}


@pytest.fixture
def root(tmp_path):
    def write(folder: str, **changes: str) -> Path:
        for name, text in (CODE | {f"gapgate/{module}.py": text for module, text in changes.items()}).items():
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path / folder

    return write


def test_what_a_module_imports_belongs_to_it(root):
    before = code_digest("gapgate.loop", root=root("a"))
    assert before != code_digest("gapgate.loop", root=root("b", arithmetic="def double(x):\n    return x + x\n"))
    assert before == code_digest("gapgate.loop", root=root("c", report="TITLE = 'b'\n"))


def test_an_import_inside_a_function_counts(root):
    late = "def run():\n    from gapgate.report import TITLE\n    return TITLE\n"
    before = code_digest("gapgate.loop", root=root("a", loop=late))
    assert before != code_digest("gapgate.loop", root=root("b", loop=late, report="TITLE = 'b'\n"))


def test_comments_docstrings_and_layout_change_nothing(root):
    told = '"""Trains, in one call."""\nfrom gapgate import arithmetic\n\n\ndef run():\n    """Run."""  # quickly\n'
    changed = root("b", loop=told + "    return arithmetic.double(  2)\n")
    assert code_digest("gapgate.loop", root=root("a")) == code_digest("gapgate.loop", root=changed)


def test_the_code_of_the_settings_is_not_what_they_are_set_to(root):
    settings = "from gapgate.settings import EPOCHS\n"
    before = code_digest("gapgate.loop", root=root("a", loop=settings))
    assert before == code_digest("gapgate.loop", root=root("b", loop=settings, settings="EPOCHS = 4\n"))


def test_this_projects_training_depends_on_its_loop_and_not_on_its_report():
    from pipelines import code_digest as module

    names = module._closure(("gapgate.training",), module._ROOT)
    assert {"gapgate.learner", "gapgate.network", "gapgate.optim", "gapgate.augmentation"} <= names
    assert not {"gapgate.report", "gapgate.figures", "gapgate.settings"} & names
