"""launch/accelerate: accelerate reads every file as we mean it; and every recipe starts from either command."""

import re
import sys

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import CPUOffloadPolicy, StateDictType
from transformers import AutoModelForCausalLM
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

from alignment.run import main
from alignment.settings.compose import compose_config, split_arguments
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from tests.conftest import REPOSITORY, tiny_model

FILES = sorted((REPOSITORY / "launch/accelerate").glob("*.yaml"))
RECIPES = sorted(path.stem for path in (REPOSITORY / "conf/recipe").glob("*.yaml"))
NEEDED = {
    "scorecard": ["scorecard.before=x", "scorecard.after=x", "evaluation.sets=[xstest]"],
    "compare": ["compare.runs=[a,b]"],
    "judge": ["judge.input=a.jsonl", "judge.output=b.jsonl"],
}


def launched(name: str, monkeypatch):
    """What `accelerate launch --config_file` makes of a file: its arguments, and its environment as ours."""
    file = REPOSITORY / f"launch/accelerate/{name}.yaml"
    arguments = launch_command_parser().parse_args(["--config_file", str(file), "recipes/cdpo.py"])
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        _, environment = prepare_deepspeed_cmd_env(arguments)
    else:
        environment = prepare_multi_gpu_env(arguments)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    return arguments


def test_the_files_are_those_the_readme_names():
    line = re.search(r"\nlaunch/ +accelerate/: (.*?);", (REPOSITORY / "README.md").read_text()).group(1)
    assert set(re.findall(r"(?:single|ddp|fsdp2|zero\d(?:_cpu|_offload)?)\b", line)) == {file.stem for file in FILES}


def test_whatever_is_said_to_be_launched_is_there():
    texts = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("tests/*.py"), *FILES]
    named = {name for text in texts for name in re.findall(r"launch/accelerate/(\w+\.yaml)", text.read_text())}
    assert named and named <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_file_repeats_what_the_trainer_knows(file, monkeypatch):
    settings = yaml.safe_load(file.read_text())
    assert settings["mixed_precision"] == "no" and settings["num_machines"] == 1
    assert not {"downcast_bf16", "gradient_accumulation_steps", "gradient_clipping"} & set(settings)
    if "deepspeed_config" in settings:
        assert settings["deepspeed_config"]["gradient_accumulation_steps"] == "auto"
        assert settings["deepspeed_config"]["gradient_clipping"] == "auto"
    arguments = launched(file.stem, monkeypatch)
    assert arguments.num_processes == (1 if file.stem == "single" else 2)
    assert bool(arguments.use_cpu) == file.stem.endswith("_cpu")
    assert f"launch/accelerate/{file.name}" in file.read_text()  # the command in its first lines


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem.startswith("zero")])
def test_deepspeed_takes_its_numbers_from_the_trainer(name, monkeypatch, tmp_path):
    launched(name, monkeypatch)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == int(name[4])
    found = plugin.deepspeed_config
    assert found["train_micro_batch_size_per_gpu"] == found["train_batch_size"] == "auto"
    assert found["gradient_accumulation_steps"] == found["gradient_clipping"] == "auto"
    assert not {"optimizer", "scheduler"} & set(found)  # the trainer's own
    offload = {name: found["zero_optimization"][name]["device"] for name in ("offload_optimizer", "offload_param")}
    assert set(offload.values()) == {"cpu" if name.endswith("_offload") else "none"}
    whole = found["zero_optimization"].get("stage3_gather_16bit_weights_on_model_save", False)
    assert whole is (name[4] == "3")  # or save_model would leave pieces
    arguments = ConfidenceDPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=3, gradient_accumulation_steps=5, max_grad_norm=0.7,
        use_cpu=True, bf16=False, report_to="none",
    )  # fmt: skip
    config = HfTrainerDeepSpeedConfig(found)
    config.trainer_config_process(arguments)
    assert not config.mismatches
    found = config.config
    assert found["train_micro_batch_size_per_gpu"] == 3 and found["gradient_accumulation_steps"] == 5
    assert found["gradient_clipping"] == 0.7


def test_fsdp2_splits_blocks_and_gathers_whole_policies(monkeypatch):
    arguments = launched("fsdp2", monkeypatch)
    assert arguments.use_fsdp and not arguments.use_deepspeed
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.activation_checkpointing is False and not isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    assert plugin.cpu_ram_efficient_loading is False  # every rank holds the policy that TRL was given
    model = tiny_model("llama", AutoModelForCausalLM)
    splits = fsdp2_prepare_auto_wrap_policy(plugin, model)
    assert [name for name, module in model.named_modules() if splits(module)] == [f"model.layers.{i}" for i in range(3)]


def test_every_recipe_has_a_script_and_composes():
    scripts = [recipe for recipe in RECIPES if recipe != "inspect"]  # a script of that name would hide Python's module
    assert sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.py")) == scripts
    assert not set(scripts) & sys.stdlib_module_names
    for recipe in scripts:
        assert f'main(recipe="{recipe}")' in (REPOSITORY / f"recipes/{recipe}.py").read_text()
        assert compose_config([f"+recipe={recipe}", *NEEDED.get(recipe, [])]).recipe == recipe


@pytest.mark.parametrize("given", ["seed=3", "-m seed=3,4", "--cfg job seed=3", "seed=3 --cfg job", "--cfg job"])
def test_a_recipes_script_takes_flags_where_alignment_run_does(given, monkeypatch):
    monkeypatch.setattr("alignment.run.quiet_libraries", lambda: None)
    monkeypatch.setattr("alignment.run._hydra_main", lambda: None)
    monkeypatch.setattr("sys.argv", ["a=b/recipes/cdpo.py", *given.split()])
    main(recipe="cdpo")
    settings, flags = split_arguments(given.split())
    assert split_arguments(sys.argv[1:]) == (["+recipe=cdpo", *settings], flags)
