"""What users came for, at the top of a run's folder: links to what its stages published."""

import os
import shlex
from contextlib import suppress
from pathlib import Path

from alignment.runs.run_files import RunDir

# name of the link: where stages publish such things, and how one is loaded
KINDS = {
    "policy": (("train_*/*/seed-*/policy",), 'transformers.AutoModelForCausalLM.from_pretrained("{path}")'),
    "reward": (("train_cdpo/*/seed-*/reward", "fit_reward/reward"), 'alignment.HybridReward.load("{path}")'),
    "reward_model": (
        ("train_rm/*/seed-*",),
        'transformers.AutoModelForSequenceClassification.from_pretrained("{path}")',
    ),
    "pairs.parquet": (
        ("build_pairs/pairs.parquet", "annotate/pairs.parquet"),
        'datasets.load_dataset("parquet", data_files="{path}")',
    ),
    "fitted_pairs.parquet": (
        ("fit_reward/pairs.parquet",),
        'datasets.load_dataset("parquet", data_files="{path}"): gap and gamma of each label, docs/mislabelled_pairs.md',
    ),
}
ADAPTERS = "adapters"  # in the folder of a model: what was merged into it
LOADED_ON_BASE = 'peft.PeftModel.from_pretrained(<the base model>, "{path}")'
SERVED = "vllm serve {path}; or transformers serve, and to chat with it: transformers chat {path}"


def link(run: RunDir) -> list[str]:
    """Makes the links anew, and says what lies where, a line each.

    Of several policies or reward models, each has a link in a folder: policy/cdpo_star/seed-0. In a copy of a run that
    has files where the links were, those stay.
    """
    lines: list[str] = []
    for name, (places, loading) in KINDS.items():
        top = run.root / name
        published = next(filter(None, (sorted(run.root.glob(place)) for place in places)), [])
        for target in published if _unlinked(top) else []:
            system, seed = _which(run, target)
            at = top if len(published) == 1 else top / system / seed
            with suppress(OSError):  # a file system without links
                at.parent.mkdir(parents=True, exist_ok=True)
                at.symlink_to(os.path.relpath(target, at.parent))
        if published:
            path = top if len(published) == 1 else top / "<system>" / "seed-<n>"
            path = path if any(top.glob("*")) or top.is_file() else published[0]
            lines.append(f"{name:21} {loading.format(path=path)}")
            if any((target / ADAPTERS).is_dir() for target in published):
                lines.append(f"{'  its adapters':21} {LOADED_ON_BASE.format(path=path / ADAPTERS)}")
            if name == "policy":
                lines.append(f"{'':21} {SERVED.format(path=shlex.quote(str(path)))}")
    if run.tables.exists():
        lines.append(f"{'report':21} {run.report}; tables and pictures in {run.tables.parent}")
    if run.page_at_top.exists():
        lines.append(f"{'page':21} {run.page_at_top}: for a browser, and to send")
    return lines


def _which(run: RunDir, target: Path) -> tuple[str, str]:
    """The system, or the margins, and the seed of what was trained."""
    parts = target.relative_to(run.root).parts
    return (parts[1], parts[2]) if len(parts) > 2 else ("", "")


def _unlinked(top: Path) -> bool:
    """Removes earlier links, never what they lead to; False where something else than links is."""
    if top.is_symlink():
        top.unlink()
    elif top.is_dir() and all(path.is_symlink() or path.is_dir() for path in top.rglob("*")):
        for path in sorted(top.rglob("*"), reverse=True):
            path.unlink() if path.is_symlink() else path.rmdir()
        top.rmdir()
    return not top.exists()
