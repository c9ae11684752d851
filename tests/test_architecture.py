"""docs/architecture.md has a line for every file, from the first line of its docstring, in the order of the layers.

python -m tests.test_architecture writes that part of it anew.
"""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

from tests.conftest import REPOSITORY

DOCUMENT = REPOSITORY / "docs/architecture.md"
PACKAGE = REPOSITORY / "alignment"
HEADING = "## Every file\n"


def layers() -> list[str]:
    """Modules and packages at the root from the top down, as the import contract has them."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [one for one in contracts if one["type"] == "layers"]
    return [name.strip() for layer in contract["layers"] for name in layer.split("|")]


def purpose(file: Path) -> str:
    """The first sentence of its docstring, in one line."""
    paragraph = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<!eq)(?<! al)\. (?=[A-Z`])", paragraph)[0].rstrip(".:")


def every_file() -> str:
    blocks = []
    for name in layers():
        if (PACKAGE / f"{name}.py").exists():
            blocks.append(f"**`{name}.py`** {purpose(PACKAGE / f'{name}.py')}")
            continue
        files = sorted(path for path in (PACKAGE / name).rglob("*.py") if path.name != "__init__.py")
        rows = [f"| `{file.relative_to(PACKAGE / name)}` | {purpose(file)} |" for file in files]
        blocks.append(
            "\n".join([f"**`{name}/`** {purpose(PACKAGE / name / '__init__.py')}\n", "| | |\n|---|---|", *rows])
        )
    return HEADING + "\n" + "\n\n".join(blocks) + "\n"


def test_the_list_of_files_is_up_to_date():
    assert DOCUMENT.read_text().split(HEADING)[1] == every_file().split(HEADING)[1]


def test_every_file_and_package_says_what_it_is_for():
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    assert [str(file.relative_to(PACKAGE)) for file in files if len(purpose(file)) < 20] == []


def test_the_root_is_small_and_every_name_occurs_once():
    modules = [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 6
    names = Counter(path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_is_long():
    """300 lines at most; longer, it is two things."""
    counts = {path.name: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in counts.items() if count > 300} == {}


def test_the_readme_has_a_line_for_every_package():
    house = (REPOSITORY / "README.md").read_text().split("## The house")[1].split("\n## ")[0]
    assert [name for name in layers() if f"\n  {name}" not in house] == []


if __name__ == "__main__":
    DOCUMENT.write_text(DOCUMENT.read_text().split(HEADING)[0] + every_file())
