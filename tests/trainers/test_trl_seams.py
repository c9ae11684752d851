"""Every name we touch in TRL and transformers is still there, under the meaning we rely on."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields

import pytest
import torch
import transformers
import trl
import yaml
from accelerate.state import AcceleratorState
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from trl import DPOConfig, DPOTrainer, RewardConfig
from trl.models import prepare_deepspeed
from trl.trainer import dpo_trainer

from alignment.config import Trainer
from alignment.policies.training import SealedSFTTrainer
from alignment.trainers.arguments import PASSED_ON, batch_shape, shared_arguments
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.margin_rm import MarginRewardTrainer
from alignment.trainers.trl_seams import PRIVATE_ELSEWHERE, SEAMS
from tests.conftest import REPOSITORY, byte_tokenizer, tiny_model

OURS = {"batch_size", "per_device_batch_size", "precision"}
TRAINERS = {"RewardTrainer": MarginRewardTrainer, "DPOTrainer": ConfidenceDPOTrainer, "SFTTrainer": SealedSFTTrainer}
SOURCES = sorted((REPOSITORY / "alignment/trainers").glob("*.py"))


def theirs(owner: str) -> type:
    return getattr(trl, owner, None) or getattr(dpo_trainer, owner, None) or getattr(transformers, owner)


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


# ---- the list is right ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", SEAMS)
def test_every_seam_is_there(owner):
    classes = [cls for cls in theirs(owner).__mro__ if cls.__module__.startswith(("trl", "transformers"))]
    source = "".join(inspect.getsource(cls) for cls in classes)
    for name, use in SEAMS[owner]:
        assert re.search(rf"\b{name}\b", source), f"{owner}.{name} is gone. We rely on it: {use}"


@pytest.mark.parametrize("owner", TRAINERS)
def test_every_override_is_listed_and_takes_what_the_parents_give(owner):
    listed = {name for names in (SEAMS[owner], SEAMS["Trainer"]) for name, _ in names}
    found = overridden(TRAINERS[owner])
    assert found
    for name, ours, parents in found:
        assert name in listed, f"{name} of {owner} is overridden: list it in trainers/trl_seams.py"
        mine, given = (list(inspect.signature(method).parameters) for method in (ours, parents))
        passes_all_on = mine[1:] == ["args", "kwargs"]
        assert passes_all_on or mine == given, f"{owner}.{name} is now called with {given}, ours takes {mine}"


def test_every_private_name_is_listed():
    """Names with an underscore that our trainers read or call, and don't define themselves."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    defined |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    private = {name for name in used - defined if name.startswith("_") and not name.startswith("__")}
    listed = {name for names in SEAMS.values() for name, _ in names} | set(PRIVATE_ELSEWHERE)
    assert private and private <= listed, f"list in trainers/trl_seams.py: {private - listed}"


# ---- the names mean what we take them to mean -----------------------------------------------------------------------


class OnTokens(DPOTrainer):
    def _prepare_dataset(self, dataset, *rest):
        return dataset


@pytest.fixture(scope="module")
def trainer(tmp_path_factory) -> DPOTrainer:
    """TRL's own."""
    folder = tmp_path_factory.mktemp("policy")
    tiny_model("llama", AutoModelForCausalLM).save_pretrained(folder)
    rows = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 2], "rejected_ids": [10, 2]},
        {"prompt_ids": [11], "chosen_ids": [12, 2], "rejected_ids": [13, 14, 15, 2]},
    ]
    return OnTokens(
        model=AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"),
        args=DPOConfig(output_dir=str(folder / "out"), report_to="none", use_cpu=True, bf16=False),
        train_dataset=Dataset.from_list(rows),
        processing_class=byte_tokenizer("chatml"),
    )


@pytest.fixture
def batch(trainer) -> dict[str, torch.Tensor]:
    return trainer.data_collator([trainer.train_dataset[i] for i in range(2)])


def test_a_batch_has_the_chosen_rows_first_padded_on_the_right(trainer, batch):
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}
    assert batch["input_ids"][:, :4].tolist()[1::2] == [
        [11, 12, 2, trainer.data_collator.pad_token_id],
        [11, 13, 14, 15],
    ]
    assert batch["completion_mask"].sum(dim=1).tolist() == [3, 2, 2, 4]
    assert batch["attention_mask"].sum(dim=1).tolist() == [6, 3, 5, 5]


def test_the_fused_head_gives_log_probabilities_of_every_label(trainer, batch):
    """By hand: log softmax of the logits, each position says the next token; 0 where there is no label."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    trainer.model.eval()
    with torch.no_grad():
        found = trainer.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True).log_probs.sum(dim=1)
        logits = trainer.model(**inputs).logits.log_softmax(dim=-1)
    told = logits[:, :-1].gather(2, batch["input_ids"][:, 1:, None]).squeeze(2) * batch["completion_mask"][:, 1:]
    torch.testing.assert_close(found, told.sum(dim=1))
    reference = torch.cat(trainer.compute_ref_log_probs(trainer.ref_model, batch))
    torch.testing.assert_close(reference, found)
    assert not reference.requires_grad


def test_a_trainer_holds_what_we_read_of_it(trainer):
    assert trainer._tokenizer is trainer.processing_class and trainer.loss_is_scaled_for_ga is False
    assert trainer._is_vision_dataset is False and trainer.aux_loss_enabled is False
    assert trainer.precompute_ref_logps is False and trainer._precompute_model_hash is None
    assert trainer._precompute_engine is None and trainer.beta == trainer.args.beta
    assert isinstance(trainer.ref_model, PreTrainedModel) and trainer.ref_model is not trainer.model
    trainer._set_signature_columns_if_needed()
    assert {"prompt_ids", "chosen_ids", "rejected_ids"} <= set(trainer._signature_columns)


def test_log_averages_the_metrics_of_its_mode_and_forgets_them(trainer):
    trainer.model.train()
    trainer._metrics["train"].update({"ours": [1.0, 3.0]})
    trainer._metrics["eval"].update({"theirs": [5.0]})
    trainer.log({"loss": 0.0})
    assert trainer.state.log_history[-1]["ours"] == 2.0 and "theirs" not in trainer.state.log_history[-1]
    assert not trainer._metrics["train"] and trainer._metrics["eval"].pop("theirs") == [5.0]


def called(method, name: str) -> list[str]:
    """The arguments of every call of `name` in a method's source, as written."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        ", ".join(ast.unparse(one) for one in [*call.args, *call.keywords])
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == name
    ]


def test_their_code_calls_what_we_override_when_we_expect_it():
    base = transformers.Trainer
    assert all("self.ref_model or self.model" in one for one in called(DPOTrainer.__init__, "hash_module"))
    references = called(DPOTrainer.__init__, "_precompute_ref_logps")
    assert len(references) == 3 and all("ref_batch_size" in one for one in references)
    assert called(DPOTrainer.evaluate, "_precompute_ref_logps")
    inner = base._inner_training_loop if not hasattr(base, "_run_epoch") else base._run_epoch
    assert called(inner, "get_batch_samples") and called(inner, "training_step")
    everything = inspect.getsource(base)
    for name in ("_load_optimizer_and_scheduler", "_load_best_model", "_save_checkpoint"):
        assert f"self.{name}(" in everything, f"Trainer no longer calls {name}"


def test_functions_take_what_we_give():
    assert list(inspect.signature(prepare_deepspeed).parameters)[:2] == ["model", "accelerator"]
    assert not inspect.signature(unset_hf_deepspeed_config).parameters
    assert all(
        parameter.default is not inspect.Parameter.empty
        for parameter in inspect.signature(AcceleratorState._reset_state).parameters.values()
    )


# ---- settings -------------------------------------------------------------------------------------------------------


def test_trainer_keys_are_trls_but_for_ours():
    """A key of conf/trainer reaches RewardConfig under its own name, or is one of the three documented as ours."""
    known = {field.name for field in fields(RewardConfig)}
    keys = {field.name for field in fields(Trainer)}
    assert keys - OURS <= known
    assert keys == set(yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text()))
    assert keys == OURS | set(PASSED_ON) | {"max_length", "center_rewards_coefficient"}


def test_arguments_carry_every_setting(tmp_path):
    trainer = yaml.safe_load((REPOSITORY / "conf/trainer/reward_model.yaml").read_text())
    trainer |= {"batch_size": 12, "per_device_batch_size": 3, "learning_rate": 0.123, "precision": "float32"}
    made = RewardConfig(output_dir=str(tmp_path), **shared_arguments(trainer, 1, "none", "name"))
    assert (made.per_device_train_batch_size, made.gradient_accumulation_steps) == (3, 4)
    assert {name: getattr(made, name) for name in PASSED_ON} == {name: trainer[name] for name in PASSED_ON}


def test_batch_shape_keeps_the_step():
    for ranks in (1, 2, 4):
        for per_device in (None, 1, 2, 4, 64):
            micro_batch, accumulation = batch_shape(32, per_device, ranks)
            assert micro_batch * accumulation * ranks == 32
