"""The order of the slow tests: each worker begins with long ones, so that all end together."""

import os
from collections.abc import Sequence

import pytest

# Those of more than half a minute. A test that makes what others share counts with it.
LONGEST = [
    "launching/test_hosts.py::test_two_hosts_that_are_cut_off_say_so_and_go_on_when_they_are_joined",
    "stages/test_bfloat16_in_ranks.py::test_a_reward_model_passes_the_parity_gate",  # DeepSpeed compiles, once
    "launching/test_slurm_chain.py::test_a_chain_interrupted_twice_ends_as_if_it_had_not_been",
    "stages/test_real_recipe.py::test_the_report_keeps_its_schema_and_says_of_what_it_is",
    "test_kills.py::test_a_killed_run_finishes_with_the_bytes_of_one_never_killed",
    "test_real_runs.py::test_the_wheel_runs_from_any_folder",
    "launching/test_local.py::test_a_rank_that_is_killed_is_named_and_nothing_is_lost",
    "launching/test_local.py::test_a_rank_that_hangs_is_named_within_the_time_out",
    "test_benchmarks.py::test_the_gpu_benchmarks_run_on_a_processor_too",
    "test_policy_runs.py::test_every_stage_of_the_chain_runs_in_one_process_group",
    "trainers/test_cdpo_in_ranks.py::test_ranks_and_micro_batches_make_no_difference",
    "trainers/test_cdpo_in_ranks.py::test_deepspeed_makes_no_difference",
    "memory/test_parts.py::test_the_estimate_is_near_the_measured_peak",
    "runs/test_stopping.py::test_a_recipe_asked_to_stop_again_and_again_ends_as_if_it_had_not_been",
    "test_benchmarks.py::test_every_other_kind_of_comparison_from_beginning_to_end",
    "launching/test_local.py::test_asked_to_stop_the_ranks_do_and_the_same_command_goes_on",
    "stages/test_variants.py::test_real_text_and_a_real_model",
    "launching/test_slurm_chain.py::test_the_recipe_on_two_nodes_under_zero2_is_that_of_one_process",
]


def in_order(tests: Sequence[str], workers: int) -> list[int]:
    """The places of these tests: cut, as xdist's worksteal does, into a piece for each worker, shorter ones first, each
    piece begins with every nth of the longest. The others follow as they stand, so that what the tests of a file share
    is made by one worker; of them another one steals, from the end, when it has nothing left to do."""
    places = {name: place for place, name in enumerate(LONGEST)}
    ranks = [places.get(test.removeprefix("tests/").partition("[")[0]) for test in tests]
    longest = sorted((i for i, rank in enumerate(ranks) if rank is not None), key=lambda i: ranks[i])
    others, order = [i for i, rank in enumerate(ranks) if rank is None], []
    for worker in reversed(range(workers)):
        own, size = longest[worker::workers], (len(tests) - len(order)) // (worker + 1)
        order += [*own, *others[: max(0, size - len(own))]]
        others = others[max(0, size - len(own)) :]
    return order


def reorder(items: list[pytest.Item]) -> None:
    """Leaves fast tests as they stand."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [items[i] for i in in_order([item.nodeid for item in items], workers)]
