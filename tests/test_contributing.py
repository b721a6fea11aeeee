"""CONTRIBUTING.md names every module, and no other; the folders of the tests are those of the package."""

from __future__ import annotations

import re

from conftest import ROOT

PACKAGE = ROOT / "lorweb_mini"
ROW = re.compile(r"^\| (\*\*)?`([a-z_/]+)`(?:\*\*)? \| (.+) \|$", re.MULTILINE)
ONLY_START_COMMANDS = {"run", "train"}


def _table() -> dict[str, str]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    layout = text[text.index("## Layout") : text.index("## Style")]
    rows = [(name, says.strip("*")) for _, name, says in ROW.findall(layout)]
    assert len(dict(rows)) == len(rows), "a module is named twice"
    return dict(rows)


def _modules() -> set[str]:
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py")]
    return {path.as_posix() for path in paths if not path.name.startswith("__")}


def _folders() -> set[str]:
    return {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - ONLY_START_COMMANDS


def test_the_table_names_every_module_and_no_other() -> None:
    named = {name for name in _table() if not name.endswith("/")}
    assert named == _modules()
    assert {name.strip("/") for name in _table() if name.endswith("/")} == _folders()


def test_each_module_has_one_line_under_its_folder() -> None:
    folder = ""
    for name, says in _table().items():
        assert 0 < len(says) <= 100, name
        if name.endswith("/"):
            folder = name
        else:
            assert name.rpartition("/")[0] == folder.strip("/"), f"{name} stands under {folder or 'no folder'}"


def test_tests_lie_in_folders_of_the_same_names() -> None:
    tests = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert _folders() <= tests
