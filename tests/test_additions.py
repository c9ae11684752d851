"""What an addition touches: each is made in a copy of the package, in the files CONTRIBUTING lists alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

FORMATS, SETS, PLACES = (
    f"alignment/{name}.py" for name in ("judges/guard_formats", "data/preference_sets", "data/places")
)
(SCHEMA,) = (
    str(path.relative_to(REPOSITORY))
    for path in (REPOSITORY / "alignment/settings").glob("*.py")
    if "    wildguard: Any = None\n" in path.read_text()
)
GUARD = """        Guard(
            name="lantern", source="nobody/lantern", task="{bos}{conversation}\\nSafe?", user="U: {text}",
            agent="A: {text}", joiner="\\n", grammar=re.compile("(?P<verdict>no|yes)"), words=("no", "yes"),
            new_tokens=4, markers=(), line_markers=("U:", "A:"), published=(Published("tides", 0.5, None, "a card"),),
        ),
"""
READER = """def tides(lines: Iterator[Line]) -> Iterator[RawPair]:
    for number, row in lines:
        yield (number,), {"prompt": row["ask"], "chosen": row["good"], "rejected": row["bad"]}


"""


def add(folder: Path, edits: dict[str, list[tuple[str, str]]], copied: dict[str, tuple[str, str, str]]) -> set[str]:
    """The package with text put before other text, and files that are others with a word replaced; which files."""
    for name in ("alignment", "conf", "launch"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, insertions in edits.items():
        text = (folder / name).read_text()
        for before, added in insertions:
            assert text.count(before) == 1, f"{name} has no single {before!r}"
            text = text.replace(before, added + before)
        (folder / name).write_text(text)
    for name, (source, old, new) in copied.items():
        (folder / name).write_text((folder / source).read_text().replace(old, new))
    return edits.keys() | copied.keys()


def run(code: str, folder: Path) -> None:
    environment = {"PYTHONPATH": str(folder), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def counted(what: str) -> set[str]:
    """The files that CONTRIBUTING lists for an addition, where it also says how many they are."""
    section = (REPOSITORY / "CONTRIBUTING.md").read_text().split("## What an addition touches")[1].split("\n## ")[0]
    found = re.search(rf"\*\*{what}: (\d+) files\*\*.*\n((?:  ?.*\n)+)", section)
    files = re.findall(r"^  - `([^`]+)`", found[2], re.MULTILINE)
    assert len(files) == int(found[1])
    return set(files)


def test_a_guard_judge(tmp_path):
    edits = {
        FORMATS: [('        Guard(\n            name="wildguard"', GUARD)],
        SCHEMA: [("    wildguard: Any = None\n", "    lantern: Any = None\n")],
    }
    touched = add(tmp_path, edits, {"conf/judge/lantern.yaml": ("conf/judge/wildguard.yaml", "wildguard", "lantern")})
    assert touched == {file.replace("<name>", "lantern") for file in counted("A guard judge")}
    run(
        """
import sys
import pytest
from alignment.judges.choice import JUDGES, chosen
from alignment.settings.compose import compose_config
from alignment.types import UserError
asked = ["+recipe=judge", "judge=[refusal,lantern]", "judge.input=a.jsonl", "judge.output=b.jsonl"]
assert chosen(compose_config([*asked, "judge.lantern.threshold=0.5"]).judge) == ["refusal", "lantern"]
known = JUDGES["lantern"]
assert (known.kind, known.says, known.published[0].f1) == ("guard", {"toxic"}, 0.5)
for mistake in ("batch_tokens=0", "threshold=2", "dtype=int3"):
    with pytest.raises(UserError, match=f"judge.lantern.{mistake[:5]}"):
        compose_config([*asked, f"judge.lantern.{mistake}"])
with pytest.raises(UserError, match="helpful_rate"):  # it doesn't speak of helpfulness
    compose_config(["+recipe=scorecard", "scorecard.before=x", "scorecard.after=y", "evaluation.sets=[xstest]",
                    "judge=lantern", "scorecard.gate.min_helpful_rate=0.5"])
assert not {"torch", "transformers"} & set(sys.modules)
""",
        tmp_path,
    )


def test_a_preference_data_set(tmp_path):
    edits = {
        SETS: [("SETS: dict", READER), ('"beavertails": beavertails,', '"tides": tides, ')],
        PLACES: [("    # Prompts, some with", '    "tides": Place(None, local=(("tides/*.jsonl",),)),\n')],
    }
    touched = add(
        tmp_path, edits, {"conf/data/tides.yaml": ("conf/data/hh_harmless.yaml", "name: hh_harmless", "name: tides")}
    )
    assert touched == {file.replace("<name>", "tides") for file in counted("A preference data set")}
    (tmp_path / "data/tides").mkdir(parents=True)
    rows = '{"ask": "a?", "good": "b", "bad": "c"}\n{"ask": "d?", "good": "e", "bad": "e"}\n'
    (tmp_path / "data/tides/some.jsonl").write_text(rows)
    run(
        """
import sys
from pathlib import Path
from alignment.data.preference_pairs import Source, Wanted, prepare
from alignment.data.row_table import RowTable
from alignment.settings.compose import compose_config
data = compose_config(["+recipe=inspect", "data=tides", "data.folder=data"]).data
counts = prepare([Source(data.name, data.path)], data.folder, Wanted(0.0, data.seed), {}, Path("out"))
assert (counts["sources"][0]["read"], counts["sources"][0]["used"]) == (2, 1)
(row,) = RowTable.open(Path("out/train.arrow"))
assert (row["id"], row["source"], row["chosen"][0]["content"]) == ("tides-000000001", "tides", "b")
assert not {"torch", "transformers"} & set(sys.modules)
""",
        tmp_path,
    )
