"""The list of what we touch in TRL, transformers and accelerate is whole, and each entry has a test of its meaning."""

import ast
import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import RewardConfig, SFTConfig

from alignment.settings.method_schema import Trainer
from alignment.trainers.arguments import PASSED_ON, batch_shape, shared_arguments
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.margin_rm import MarginRewardTrainer
from alignment.trainers.sft import PackedSFTTrainer
from alignment.trainers.trl_seams import DOCUMENTED, SEAMS
from alignment.types import UserError
from tests.conftest import REPOSITORY, byte_tokenizer, tiny_model
from tests.policies import test_training
from tests.trainers import (
    test_dealing,
    test_one_device,
    test_pair_mean,
    test_trl_around,
    test_trl_contracts,
    test_trl_order,
    trl_alone,
)

AROUND_US = (
    "loss_is_scaled_for_ga",
    "prepare_data_loader",
    "_preprocess_mask_arguments",
)  # we rely on what they do, and name none
OURS = {"batch_size", "per_device_batch_size", "precision", "save_dtype", "upper_blocks", "without_router_loss"}
TRAINERS = {
    "trl.DPOTrainer": ConfidenceDPOTrainer,
    "trl.RewardTrainer": MarginRewardTrainer,
    "trl.SFTTrainer": PackedSFTTrainer,
}
PARTS = {
    part: sorted(REPOSITORY.glob(f"alignment/{part}/*.py"))
    for part in ("trainers", "policies", "evaluation", "sampling")
}
assert all(len(files) > 1 for files in PARTS.values()), "a package isn't where it was"
SOURCES = [path for files in PARTS.values() for path in files]
SOURCES.append(REPOSITORY / "alignment" / "models" / "completions.py")
LISTED = {name for names in SEAMS.values() for name in names}


def theirs(owner: str):
    """A class or module by its dotted name."""
    try:
        return importlib.import_module(owner)
    except ModuleNotFoundError:
        module, _, name = owner.rpartition(".")
        return getattr(importlib.import_module(module), name)


def overridden(ours: type) -> list[tuple[str, object, object]]:
    """Our methods that stand in the place of one of TRL's or transformers': name, ours, theirs."""
    found = []
    for position, cls in enumerate(ours.__mro__):
        for name, method in vars(cls).items() if cls.__module__.startswith("alignment") else ():
            for parent in ours.__mro__[position + 1 :]:
                if name in vars(parent) and not parent.__module__.startswith("alignment") and callable(method):
                    found.append((name, method, vars(parent)[name]))
                    break
    return [one for one in found if not one[0].startswith("__")]


def nodes(kind: type, sources: list[Path] = SOURCES) -> list:
    return [node for path in sources for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind)]


@pytest.fixture(scope="module")
def constructed(tmp_path_factory) -> dict[str, object]:
    """TRL's own trainers, after a step: what they hold then is all we may read."""
    folder = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(folder)
    once = {"max_steps": 1, "save_strategy": "no"}
    scored = tiny_model("llama", AutoModelForSequenceClassification, num_labels=1, pad_token_id=0)
    trainers = {"trl.DPOTrainer": trl_alone.new(folder, folder / "out", **once)}
    for owner, config, model, row in (
        ("trl.RewardTrainer", RewardConfig, scored, {"chosen_ids": [5, 6], "rejected_ids": [8, 9], "margin": 0.5}),
        ("trl.SFTTrainer", SFTConfig, trl_alone.policy(folder), {"input_ids": [5, 6, 2], "labels": [-100, 6, 2]}),
    ):
        trainers[owner] = theirs(owner)(
            model=model, args=config(output_dir=str(folder / "out"), **once, **trl_alone.QUIET),
            train_dataset=Dataset.from_list([row]), processing_class=byte_tokenizer("chatml"),
        )  # fmt: skip
    for trainer in trainers.values():
        trainer.train()
    policy_trainer = trainers["trl.DPOTrainer"]
    return {
        **trainers,
        "transformers.Trainer": policy_trainer,
        "transformers.TrainingArguments": policy_trainer.args,
        "transformers.PreTrainedConfig": policy_trainer.model.config,
    }


# ---- the list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", SEAMS)
def test_every_seam_is_there(owner, constructed):
    holder = constructed[owner] if owner in constructed else theirs(owner)
    for name, use in SEAMS[owner].items():
        assert hasattr(holder, name), f"{owner}.{name} is gone. We rely on it: {use}"


def test_every_seam_is_still_one_of_ours():
    source = "".join(path.read_text() for path in SOURCES if path.name != "trl_seams.py")
    unused = {name for name in LISTED if not re.search(rf"\b{name}\b", source)}
    assert unused == set(AROUND_US), f"no longer used, or used by name: {unused ^ set(AROUND_US)}"


def test_every_seam_has_a_test_of_its_meaning():
    everything = {(owner, name) for owner, names in SEAMS.items() for name in names}
    where = (test_dealing, test_one_device, test_pair_mean, test_trl_order, test_trl_contracts)
    where += (test_trl_around, test_training)
    assert all(where)  # imported, so that they have registered
    assert everything == trl_alone.CHECKED, f"say what they mean: {everything - trl_alone.CHECKED}"


@pytest.mark.parametrize("owner", TRAINERS)
def test_every_override_is_listed_and_takes_what_the_parents_give(owner):
    listed = set(SEAMS[owner]) | set(SEAMS["transformers.Trainer"])
    found = overridden(TRAINERS[owner])
    assert found
    for name, ours, parents in found:
        assert name in listed, f"{name} of {owner} is overridden: list it in trainers/trl_seams.py"
        mine, given = (list(inspect.signature(method).parameters) for method in (ours, parents))
        passes_rest_on = mine[-2:] == ["args", "kwargs"] and mine[:-2] == given[: len(mine) - 2]
        assert passes_rest_on or mine == given, f"{owner}.{name} is now called with {given}, ours takes {mine}"


def test_every_name_that_we_use_of_a_trainer_is_listed(constructed):
    """self.x, super().x and trainer.x, with an underscore or without, where TRL has it or we don't define it."""
    others = ("cdpo_config.py", "completions.py")  # there self is the configuration, or a model
    sources = [path for path in SOURCES if path.name not in others]
    attributes = nodes(ast.Attribute, sources)
    of_trainers = {
        node.attr for node in attributes if ast.unparse(node.value) in ("self", "super()", "trainer", "self._trainer")
    }
    defined = {node.name for node in nodes(ast.FunctionDef, sources)}
    defined |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    defined |= {node.target.id for node in nodes(ast.AnnAssign, sources) if isinstance(node.target, ast.Name)}
    known = {name for owner in TRAINERS for name in dir(constructed[owner])}
    used = (of_trainers & known) | (of_trainers - defined)
    assert len(used & LISTED) > 20
    assert used <= LISTED | set(DOCUMENTED), f"list in trainers/trl_seams.py: {used - LISTED - set(DOCUMENTED)}"
    assert set(DOCUMENTED) <= used, f"no longer used: {set(DOCUMENTED) - used}"


def test_every_private_name_of_anything_is_listed(constructed):
    """Names with an underscore that are not ours, also those that getattr is given."""
    attributes = nodes(ast.Attribute)
    used = {node.attr for node in attributes if ast.unparse(node.value) != "os"}  # Python's own os._exit
    used |= {
        node.args[1].value
        for node in nodes(ast.Call)
        if ast.unparse(node.func) in ("getattr", "hasattr", "setattr") and isinstance(node.args[1], ast.Constant)
    }
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    ours = {node.name for node in nodes(ast.FunctionDef)}
    ours |= {node.attr for node in attributes if isinstance(node.ctx, ast.Store)}
    ours -= {name for holder in constructed.values() for name in dir(holder)}
    assert private & LISTED and private <= LISTED | ours, f"list in trainers/trl_seams.py: {private - LISTED - ours}"


def test_every_import_from_within_their_packages_is_listed():
    """What trl, transformers and peft export at their top is documented, and so is all of accelerate.utils."""
    for node in nodes(ast.ImportFrom):
        if node.module.split(".")[0] in ("trl", "transformers", "accelerate", "peft") and "." in node.module:
            for name in (one.name for one in node.names):
                listed = f"{node.module}.{name}" in SEAMS or name in SEAMS.get(node.module, ())
                assert listed or node.module == "accelerate.utils", f"list {node.module}.{name} in trl_seams.py"


# ---- settings -------------------------------------------------------------------------------------------------------


def test_trainer_keys_are_trls_but_for_ours():
    """A key of conf/trainer reaches RewardConfig under its own name, or is one of the three documented as ours."""
    known = {field.name for field in fields(RewardConfig)}
    keys = {field.name for field in fields(Trainer)}
    assert keys - OURS <= known
    assert keys == set(yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text()))
    assert keys == OURS | set(PASSED_ON) | {"max_length", "save_steps", "center_rewards_coefficient"}


def test_arguments_carry_every_setting(tmp_path):
    trainer = yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text())
    trainer |= {"batch_size": 12, "per_device_batch_size": 3, "learning_rate": 0.123, "precision": "float32"}
    made = RewardConfig(output_dir=str(tmp_path), **shared_arguments(trainer, "trainer", 1, (), "name"))
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (3, 4)
    assert {name: getattr(made, name) for name in PASSED_ON} == {name: trainer[name] for name in PASSED_ON}
    for save_steps, rounded in ((200, 200), (15, 20), (1, 10)):  # a checkpoint stands where a log does
        trainer |= {"logging_steps": 10, "save_steps": save_steps}
        assert shared_arguments(trainer, "trainer", 1, (), "name")["save_steps"] == rounded


def test_batch_shape_keeps_the_step():
    for ranks in (1, 2, 4):
        for per_device in (None, 1, 2, 4, 64):
            micro_batch, accumulation = batch_shape(32, per_device, ranks, "trainer")
            assert micro_batch * accumulation * ranks == 32


@pytest.mark.parametrize("group", ["trainer", "policy"])
def test_a_batch_that_cannot_be_dealt_names_the_key_that_is_wrong(group):
    """Under torchrun, where nobody knows the number of ranks before."""
    settings = yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text())
    with pytest.raises(UserError, match=rf"^{group}.batch_size: 7 pairs can't be dealt to 2 ranks"):
        shared_arguments({**settings, "batch_size": 7}, group, 2, (), "name")
    with pytest.raises(UserError, match=rf"^{group}.per_device_batch_size: 3 on 2 ranks doesn't divide 8"):
        shared_arguments({**settings, "batch_size": 8, "per_device_batch_size": 3}, group, 2, (), "name")
