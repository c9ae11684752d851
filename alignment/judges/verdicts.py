"""What a judge says of an answer."""

from dataclasses import dataclass
from typing import Literal

Refusal = Literal["none", "partial", "full"]


@dataclass(frozen=True)
class Verdict:
    """None: this judge can't say. severity and helpfulness are levels from 0 to 3."""

    toxic: bool | None
    refusal: Refusal | None
    severity: int | None = None
    helpfulness: int | None = None
