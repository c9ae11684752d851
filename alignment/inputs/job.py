"""What a stage is given: the settings, the run whose files it reads, the folder it writes into, and its ranks."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from alignment.runs import artifacts
from alignment.runs.manifest import Rows
from alignment.runs.ranks import Ranks
from alignment.runs.run_files import QUARANTINE, RunDir


@dataclass(frozen=True)
class Job:
    """out: what lies in this folder when the stage ends is published."""

    cfg: DictConfig
    run: RunDir
    out: Path
    ranks: Ranks

    @property
    def work(self) -> Path:
        """The folder of what a killed run goes on from; it is removed once the stage is published."""
        return self.out.parent

    def set_aside(self, quarantined: list[dict], read: int) -> Rows:
        """Writes which of the rows that were read could not be used, and why; how many they are."""
        if self.ranks.main:
            artifacts.write_lines(self.out / QUARANTINE, quarantined)
        return Rows(read, read - len(quarantined), len(quarantined))
