"""What it takes to read a million preference pairs, and to look into them.

    python -m benchmarks.data [pairs]        a million: two minutes on two cores, 2 GB of disk

Each half is a process of its own on the same made-up json lines: one in a hundred is broken, one in a thousand asks
what an evaluation set asks. Beside it `json.loads` of these lines, which is the least that anybody does.
"""

import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.data.columns import text_message
from alignment.data.inspection import inspect
from alignment.data.preference_pairs import PARTS, Source, Wanted, prepare
from alignment.data.row_table import RowTable
from alignment.data.same_prompts import kept_out_of

ASKED = [f"evaluation prompt number {i}?" for i in range(5000)]
BROKEN = (
    '{"prompt": "half', '{"prompt": "", "chosen": "a", "rejected": "b"}',
    '{"prompt": "p", "chosen": "same", "rejected": "same"}',
)  # fmt: skip


def write(path: Path, pairs: int) -> None:
    """Prompts of 8 to 40 words, answers of 10 to 80, as in hh-rlhf."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as file:
        for i in range(pairs):
            if i % 100 == 99:
                file.write(BROKEN[i // 100 % 3] + "\n")
                continue
            prompt = ASKED[i % 5000] if i % 1000 == 1 else " ".join(source.choices(words, k=source.randint(8, 40)))
            answers = [" ".join(source.choices(words, k=source.randint(10, 80))) for _ in range(2)]
            row = {"prompt": prompt, "chosen": answers[0], "rejected": answers[1], "category": "x", "harmful": True}
            file.write(json.dumps(row) + "\n")


def parse(folder: Path) -> dict:
    with (folder / "pairs.jsonl").open() as file:
        return {"lines": sum(bool(json.loads(line)) for line in file if line.endswith("}\n"))}


def read(folder: Path) -> dict:
    kept_out = kept_out_of({"evaluation": [text_message("user", text) for text in ASKED]})
    counts = prepare([Source("file", str(folder / "pairs.jsonl"))], "", Wanted(0.1, 0), kept_out, folder / "data")
    return {**counts["sources"][0], "files": None}


def look(folder: Path) -> dict:
    found = [inspect(RowTable.open(folder / "data" / f"{part}.arrow")) for part in PARTS]
    return {"pairs": sum(one["pairs"] for one in found)}


PARTS_OF_THE_WORK = {"json.loads": parse, "prepare": read, "inspect": look}


def main(pairs: int) -> None:
    with TemporaryDirectory() as folder:
        write(Path(folder) / "pairs.jsonl", pairs)
        for name in PARTS_OF_THE_WORK:
            subprocess.run([sys.executable, "-m", "benchmarks.data", "--only", name, folder], check=True)


def only(name: str, folder: Path) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    found = PARTS_OF_THE_WORK[name](folder)
    took = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    numbers = {name: round(value, 1) for name, value in {**took, "peak_gb": peak}.items()}
    print(json.dumps({"work": name, **numbers, **found}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--only"]:
        only(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else 1_000_000)
