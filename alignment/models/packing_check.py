"""Packed rows must give what padded ones give: compared on some of the data before anything long begins."""

from torch import Tensor

from alignment.types import StageFailed

TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-2  # of the largest value; in half precision the order of additions shows


def agree(what: str, packed: Tensor, padded: Tensor, half: bool) -> None:
    """StageFailed unless they do."""
    difference = float((packed.float() - padded).abs().max() / padded.abs().max().clamp(min=1e-6))
    if not difference <= (HALF_TOLERANCE if half else TOLERANCE):  # NaN fails too
        raise StageFailed(
            "packing",
            f"the {what} of some rows differ by {difference:.1e} from those of padded rows",
            "set packing=off, and report the model",
        )
