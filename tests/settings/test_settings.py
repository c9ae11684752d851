"""Mistakes are answered in one line, at once, without torch; every shipped YAML composes and explains every key."""

import re
import resource
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from alignment.settings.compose import as_hydra_reads, check_arguments, compose_config, quoted, split_arguments
from alignment.settings.schema import CONF_DIR
from alignment.stages import STAGES
from alignment.types import UserError
from tests import small_recipe
from tests.conftest import REPOSITORY

BASE, BEST = "+recipe=legend_rm", "+recipe=best_of_n"
JUDGED = ["+recipe=judge", "judge.input=a.jsonl", "judge.output=b.csv"]
JUDGE, API = " ".join(JUDGED), "judge=api judge.api.url=http://localhost/v1 judge.api.model=m"
MISTAKES = {  # command line -> what the one line must say
    "": "recipe: no recipe is chosen; add one of +recipe=",
    "+recipe=legend": "recipe: there is no 'legend'; choose one of best_of_n, cdpo, compare, end_to_end, guard, ",
    "+recipe=legend_rm policy.beta=[1]": "policy.beta: it would have no effect: no stage of legend_rm reads it",
    "+recipe=cdpo annotator.layer=3": "annotator.layer: it would have no effect: no stage of cdpo reads it",
    "+recipe=cdpo policy.systems=[best]": "policy.systems: there is no 'best'; the systems are base, base_prompted",
    "+recipe=cdpo policy.grid_seeds=2": "policy.grid_seeds: 2 of 1 seeds",
    "+recipe=cdpo policy.max_steps=0": "policy.max_steps: 0 is out of range; give 1 or more, or -1 for epochs",
    "+recipe=cdpo policy.per_device_batch_size=5": "policy.per_device_batch_size: 5 does not divide batch_size=16",
    "+recipe=cdpo policy.weight_decay=-1": "policy.weight_decay: -1.0 is out of range; give a number at least 0",
    "+recipe=cdpo policy.beta=[0.1,0.1]": "policy.beta: the list is empty or names something twice",
    "+recipe=cdpo policy.beta=[0.0]": "policy.beta: a value is not above 0",
    "+recipe=cdpo confidence=calibrated confidence.alpha=5": "confidence.alpha: it would have no effect",
    "+recipe=cdpo build_pairs.reward_model=none": "build_pairs.reward_model: it would have no effect",
    "+recipe=cdpo data=file data.path=x policy.beta=[0.1,0.2]": (
        "policy.beta and learning_rate: a grid is chosen by validation prompts, and none are named"
    ),
    "+recipe=cdpo data=file data.path=x policy.beta=[0.1,0.2] evaluation.validation_sets=[advbench] judge=words": (
        "policy.beta and learning_rate: a grid is chosen by judges, and no judge says what refuses"
    ),
    "+recipe=cdpo data=file data.path=x policy.beta=[1,2] evaluation.validation_sets=[data] judge=[refusal,words]": (
        "evaluation.validation_sets: there is no set 'data'"
    ),
    "+recipe=cdpo evaluation.validation_sets=[advbench]": (
        "evaluation.validation_sets: it would have no effect: there is no grid for judges to choose of"
    ),
    "+recipe=cdpo evaluation.system_prompt=x": "evaluation.system_prompt: it would have no effect: policy.systems has",
    "+recipe=cdpo policy.systems=[base,base_prompted]": "policy.systems: the world's model knows no words but",
    "+recipe=cdpo confidence=column policy.systems=[cdpo]": "confidence.source: column is what cdpo learns from",
    "+recipe=cdpo confidence=column build_pairs.scorer=judge": "and build_pairs.scorer=judge gives its pairs none",
    "recipe=legend_rm": "recipe: recipes are added, not overridden; write +recipe=...",
    f"{BASE} annotator.layr=2": "annotator.layr: there is no such key; did you mean annotator.layer?",
    f"{BASE} +annotator.more=2": "annotator.more: there is no such key",
    f"{BASE} +more=2": "more: there is no such key",
    f"{BASE} annotator=best": "annotator: there is no 'best'; choose one of auto, helpfulness, labelled, ",
    f"{BASE} trainer.learning_rate=fast": "trainer.learning_rate: Value 'fast'",
    f"{BASE} trainer.learning_rate=2": "trainer.learning_rate: 2.0 is out of range; give a number between 0 and 1",
    f"{BASE} annotator.binning.bins=1": "annotator.binning.bins: 1 is out of range",
    f"{BASE} annotator.binning.bins=3.5": "annotator.binning.bins: Value '3.5'",
    f"{BASE} annotator.binning.low=3": "annotator.binning.high: 2 is not above low=3",
    f"{BASE} annotator.binning.negative=keep": "annotator.binning.low: -2 turns signs round under negative=keep",
    f"{BASE} data.noise=0.4": "data.noise: 0.4 is out of range",
    f"{BASE} data=file": "data.path: a value is required; set data.path=",
    f"{BASE} model=local": "model.path: a value is required",
    "+recipe=cdpo model=local model.path=a model.thinking=true": "model.thinking: train_cdpo learns from",
    f"{BASE} model.path=a": "model.path: it would have no effect: model=world is in the package",
    f"{BASE} stages=[annotate] model=local model.path=a model.thinking=true": "model.thinking: it would have no effect",
    f"{BASE} model=local model.path=nowhere/at/all": "model.path: nowhere/at/all is not a folder",
    f"{BASE} data=file data.path=no.jsonl": "data.path: no.jsonl is not there; give a file",
    f"{BASE} data=file data.path={REPOSITORY}/docs/reports/cdpo.json": "harmful stands for advbench: looked for",
    f"{BASE} annotator.contrast.file=no.csv": "there is no file no.",
    "+recipe=cdpo data=mixture data.parts=[{set:x}]": "data.parts: there is no set 'x'",
    "+recipe=inspect data=pku_saferlhf data.preference=both": "data.preference: 'both' is not a choice; choose one",
    "+recipe=inspect data=mixture data.parts=[{set:hh_harmless,preference:safety}]": "preference would have no effect",
    "+recipe=inspect data=mixture data.parts=[{set:pku_saferlhf,preference:x}]": "data.preference: 'x' is not a choice",
    f"+recipe=inspect data=file data.path={REPOSITORY}/docs/reports/cdpo.json data.keep_out=some": "some names no",
    f"{BASE} annotator.layer=0": "annotator.layer: 0 is not a layer",
    f"{BASE} annotator.layer=first": "annotator.layer: 'first' is not a layer",
    f"{BASE} annotator.pooling=last": "annotator.pooling: 'last' is not a choice; choose one of endpoint",
    f"{BASE} annotator.direction=distance": "annotator.layer: it would have no effect",
    f"{BASE} annotator.direction=cosine annotator.layer=2 annotator.binning.negative=abs": "never negative",
    f"{BASE} annotator.joiner_pairs=x": "annotator.joiner_induced and joiner_pairs: it would have no effect",
    f"{BASE} annotator.contrast.positive=generated": "annotator.contrast: positive and negative are the same",
    f"{BASE} stages=[annotate,fly]": "stages: there is no stage 'fly'; the stages are inspect, read_states, induce",
    f"{BASE} stages=[]": "stages: the list is empty",
    f"{BASE} stages=[annotate,induce]": "stages: they are out of order, or one is named twice; write [induce,annotate]",
    f"{BASE} annotator.contrast.file=a.csv annotator.contrast.count=20": "contrast.count: it would have no effect",
    f"{BASE} annotator.binning.method=quartile annotator.binning.bins=5": "binning.bins: it would have no effect",
    f"{BASE} trainer.max_steps=5 trainer.num_train_epochs=2": "trainer.num_train_epochs: it would have no effect",
    f"{BASE} trainer.max_steps=0": "trainer.max_steps: 0 is out of range",
    f"{BASE} data.path=x.jsonl": "data.path: the chosen data has none; add data=file, which has",
    f"{BASE} trainer.logging_steps=0": "trainer.logging_steps: 0 is out of range",
    f"{BASE} trainer.lr_scheduler_type=foo": "trainer.lr_scheduler_type: 'foo' is not a choice",
    f"{BASE} reward_model.seeds=[-1]": "reward_model.seeds: a seed is negative",
    f"{BASE} annotator.binning.low=-inf": "annotator.binning: low or high is not finite",
    f"{BASE} annotator.layer=length_free annotator.direction=random": "annotator.layer: it would have no effect",
    f"{BASE} annotator.labels=64 annotator.layer=2 annotator.direction=cosine": "annotator.labels: it would have no",
    f"{BASE} annotator.labels=5": "annotator.labels: 5 is out of range",
    f"{BASE} annotator.contrast.refusals=a.txt": "annotator.contrast.refusals: it would have no effect: neither side",
    f"{BASE} annotator=matched annotator.contrast.refusals=a.txt": "contrast.refusals: there is no file a.txt",
    f"{BASE} annotator.contrast.system_prompt=x": "annotator.contrast.system_prompt: it would have no effect",
    f"{BASE} annotator.contrast.positive=refusals annotator.contrast.negative=refusal": "both sides are refusals",
    f"{BASE} annotator.contrast.positive=safe_prompt annotator.contrast.system_prompt=": "system_prompt: it is empty",
    f"{BASE} annotator.contrast.labelled=a.csv annotator.contrast.file=b.csv": "labelled: contrast.file is set, too",
    f"{BASE} annotator.contrast.labelled=a.csv annotator.contrast.questions=b": "questions: it would have no effect",
    f"{BASE} annotator.contrast.labelled=a.csv": "annotator.contrast.labelled: there is no file a.csv",
    f"{BASE} annotator.contrast.labelled=beavertails": "labelled: the embedded world has no set beavertails",
    f"{BASE} annotator.contrast.refusal=": "annotator.contrast.refusal: it is empty",
    f"{BASE} run.dir=": "run.dir: it is empty",
    f"{BASE} run.dir={__file__}": "is a file; name a folder",
    f"{BASE} lora.r=8": "lora.r: the chosen lora has none; add lora=adapters",
    f"{BASE} reward_model.seeds=[1,1]": "reward_model.seeds: the list is empty or names something twice",
    f"{BASE} reward_model.margins=[human]": "reward_model.margins: 'human' is not a choice; list some of none, legend,",
    f"{BASE} reward_model.control_seeds=2 reward_model.seeds=[0]": "reward_model.control_seeds: 2 of 1 seeds; give 1",
    f"{BASE} reward_model.transfer=[hh]": "reward_model.transfer: there is no set 'hh'; name some of",
    f"{BASE} reward_model.transfer=hh_harmless": "reward_model.transfer: the world's model knows no words",
    f"{BASE} trainer.upper_blocks=0": "trainer.upper_blocks: 0 is out of range",
    f"{BASE} trainer.upper_blocks=1 lora=adapters": "lora: adapters adapts all blocks, and trainer.upper_blocks=1 tr",
    f"{BASE} trainer.upper_blocks=1 trainer.activation_checkpointing=true": "trainer.activation_checkpointing: it is",
    f"{BASE} run.workers=0": "run.workers: 0 is out of range",
    f"{BASE} trainer.per_device_batch_size=5": "trainer.per_device_batch_size: 5 does not divide batch_size=32",
    f"{BASE} run.tracking=paper": "run.tracking: 'paper' is not a choice",
    f"{BASE} run.tracking=[tensorboard,paper]": "run.tracking: 'paper' is not a choice; list some of wandb, tensor",
    f"{BASE} seed=1,2": "seed: 1,2 is ambiguous",
    f"{BASE} seed": "seed: cannot be read; write key=value",
    f"{BEST} best_of_n.counts=[]": "best_of_n.counts: the list is empty or names something twice",
    f"{BEST} best_of_n.counts=[0,2]": "best_of_n.counts: 0 is out of range",
    f"{BEST} best_of_n.scorers=[chance]": "best_of_n.scorers: 'chance' is not a choice; choose from hybrid",
    f"{BEST} build_pairs.reward_model=none": "build_pairs.reward_model: none is not among reward_model.margins",
    f"{BEST} sampling.n=4": "sampling.n: it would have no effect: best_of_n.counts says how many",
    f"{BEST} data=file data.path=x.jsonl annotator.contrast.file=x.csv": "best_of_n.scorers: judge picks by harm, of "
    "which refusal says nothing; leave judge out",
    f"{BEST} data=file data.path=x.jsonl best_of_n.scorers=[hybrid] evaluation.sets=[best]": "evaluation.sets: there",
    f"{BEST} judge=refusal": "judge: it would have no effect: the best of the world's samples are",
    "+recipe=cdpo sampling.n=1": "sampling.n: 1 sample makes no pair",
    "+recipe=cdpo build_pairs.scorer=model": "build_pairs.scorer: 'model' is not a choice",
    "+recipe=cdpo sampling.top_p=0": "sampling.top_p: 0.0 is out of range",
    "+recipe=judge judge.output=b.csv": "judge.input: a value is required; name the file of answers",
    "+recipe=judge judge.input=a.jsonl": "judge.output: a value is required; name the file to write",
    "+recipe=judge judge.input=a.csv judge.output=b.txt": "judge.output: b.txt is of an unknown kind; give one of",
    f"{JUDGE} judge.output=a.jsonl": "judge.output: it is the input; name another file",
    JUDGE: "judge.input: there is no file a.jsonl",
    f"{JUDGE} judge=llama_guard": "judge: there is no 'llama_guard'; choose one of api, classifier, llama_guard_2",
    f"{JUDGE} judge=[]": "judge: none is chosen; choose from oracle, refusal",
    f"{JUDGE} judge.wildguard.path=x": "judge.wildguard.path: there is no such key",
    f"{JUDGE} judge=wildguard judge.wildguard.path=nowhere/at/all": "judge.wildguard.path: nowhere/at/all is not a",
    f"{JUDGE} judge=classifier": "judge.classifier.path: a value is required",
    f"{JUDGE} judge=words": "judge.words.path: a value is required; name the folder of a guard",
    f"{JUDGE} judge=probe": "judge.probe.path: a value is required; name the folder of a guard that +recipe=guard",
    f"{JUDGE} judge=words judge.words.path=nowhere": "judge.words.path: nowhere holds no words.json; give a folder",
    f"{JUDGE} judge=wildguard judge.wildguard.threshold=2": "judge.wildguard.threshold: 2.0 is out of range",
    f"{JUDGE} judge.minimum_agreement=0.8": "judge.minimum_agreement: it would have no effect: judge.calibration",
    f"{JUDGE} judge.calibration=xstest judge.minimum_agreement=80": "judge.minimum_agreement: 80.0 is out",
    f"{JUDGE} {API} judge.api.budget=1": "judge.api.budget: without prices nothing is ever spent",
    f"{JUDGE} {API} judge.api.url=https://me:secret@host/v1": "judge.api.url: it holds a user, a password or a query",
    f"{JUDGE} {API} judge.api.url=localhost": "judge.api.url: it is no address of a service",
    f"{BASE} judge=refusal": "judge: it would have no effect: no stage of legend_rm reads it",
    f"-m {BASE} trainer.learning_rate=0.1,7": "trainer.learning_rate: 7.0 is out of range",
    f"--nonsense {BASE}": "command line: unrecognized arguments: --nonsense",
    f"{BASE} -m seed=1,2": "command line: unrecognized arguments: seed=1,2; put flags before all settings",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_would_be_right(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        check_arguments(command.split())
        run_plan(command.split())
    assert MISTAKES[command] in str(error.value)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_folder_of_configuration_and_flags_are_read_as_hydra_reads_them(tmp_path):
    for folder in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["-cd", str(tmp_path)]):
        overrides, flags = split_arguments([*folder, "-m", "+recipe=cdpo", "seed=1,2"])
        assert overrides == ["+recipe=cdpo", "seed=1,2", f"hydra.searchpath=[file://{tmp_path}]"]
        assert flags == {"config_dir", "multirun"}


FOLDERS = [
    "/home/josé mit raum/läufe",
    "C'était",
    "データ/run",
    "a=b,c [x] {y} (z)",
    "it's \\",
    "#1 $HOME ~ %n",
    "Ωmega",
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_any_folder_can_be_written_into_a_command_line(folder):
    """As launchers do with the run's."""
    assert compose_config([BASE, f"run.dir={quoted(folder)}"]).run.dir == folder


@pytest.mark.parametrize(
    "given, key, value",
    [
        ("run.dir=/home/josé mit raum/läufe", "run.dir", "/home/josé mit raum/läufe"),
        ("run.dir='schon gequotét'", "run.dir", "schon gequotét"),
        ('run.dir="schon gequotét"', "run.dir", "schon gequotét"),
        ("run.dir=https://ü.example/a:b", "run.dir", "https://ü.example/a:b"),
        ("judge.input=ひ.jsonl", "judge.input", "ひ.jsonl"),
        ("run.dir=/home/josé/O'Neil/x", "run.dir", "/home/josé/O'Neil/x"),
        ("run.dir=plain/folder with blanks", "run.dir", "plain/folder with blanks"),
    ],
)
def test_words_with_accents_need_no_quotes(given, key, value):
    assert OmegaConf.select(compose_config(as_hydra_reads([*JUDGED, "judge=refusal", given])), key) == value


def test_words_with_accents_in_lists_and_sweeps_need_no_quotes():
    given = as_hydra_reads(
        ["+recipe=inspect", "data=mixture", "data.parts=[{set:file,path:josé mit/x.jsonl}, {set:hh_harmless}]"]
    )
    assert [part.path for part in compose_config(given).data.parts] == ["josé mit/x.jsonl", None]
    assert as_hydra_reads(["-m", "run.dir=é,b,'ö'"]) == ["-m", "run.dir='é',b,'ö'"]
    assert as_hydra_reads(["a=[ é , b,  'ö, x' ]", "a={x: é y , z: 'ü'}"]) == [
        "a=[ 'é' , b,  'ö, x' ]",
        "a={x: 'é y' , z: 'ü'}",
    ]
    given = ["+recipe=cdpo", "evaluation.sets=[data, /home/josé/x.jsonl]"]
    with pytest.raises(UserError, match=r"there is no file /home/josé/x.jsonl"):
        compose_config(as_hydra_reads(given))


def test_a_sweep_over_a_list_takes_values_without_brackets():
    given = as_hydra_reads(["-m", "+recipe=cdpo", "policy.learning_rate=1e-4,1e-5", "policy.seeds=[0,1],2", "seed=1,2"])
    assert given[2:] == ["policy.learning_rate=[1e-4],[1e-5]", "policy.seeds=[0,1],2", "seed=1,2"]
    check_arguments(["-m", "+recipe=cdpo", given[2]])


@pytest.mark.parametrize(
    "more", [["data=file", "data.path=x", "policy.systems=[cdpo,cdpo_star]"], ["build_pairs.scorer=hybrid"]], ids=str
)
def test_a_column_of_confidences_is_taken_where_pairs_have_one(more):
    assert compose_config(["+recipe=cdpo", "confidence=column", *more]).confidence.source == "column"


def run_plan(arguments: list[str]) -> None:
    """Mistakes that only show when files are looked at: found when the run is planned."""
    from alignment.run import plan
    from alignment.runs.run_files import RunDir

    cfg = compose_config([argument for argument in arguments if not argument.startswith("-")])
    plan(cfg, RunDir(Path("runs")))


@pytest.mark.parametrize(
    "arguments", [["--help"], [BASE, "--cfg", "job"], [BASE, "trainer.learning_rat=1"], [BASE, "seed=x"]], ids=str
)
def test_answers_come_in_two_seconds_and_without_torch(arguments, tmp_path):
    code = "import sys, runpy; sys.argv[0] = 'run'\ntry: runpy.run_module('alignment.run', run_name='__main__')\n"
    code += "finally: assert not {'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules), 'heavy import'"
    seconds = []
    while len(seconds) < 2 and min(seconds, default=2) >= 2:  # the first one may read from a cold disk
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)  # its own time, however busy the machine is
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    mistaken = arguments[-1] in ("trainer.learning_rat=1", "seed=x")
    assert done.returncode == (2 if mistaken else 0), done.stderr
    assert "heavy import" not in done.stderr
    if mistaken:
        assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("repalign: ") and not done.stdout
    else:
        assert "annotator" in done.stdout
    assert min(seconds) < 2
    assert not list(tmp_path.iterdir())


def yamls() -> list[Path]:
    return sorted(CONF_DIR.rglob("*.yaml"))


@pytest.mark.parametrize("path", yamls(), ids=lambda path: str(path.relative_to(CONF_DIR)))
def test_every_yaml_composes(path, tmp_path):
    group, name = path.parent.name, path.stem
    needed = {
        "recipe/scorecard": ["scorecard.before=x", "scorecard.after=x", "evaluation.sets=[xstest]"],
        "data/file": ["data.path=x", "annotator.contrast.file=x"], "model/local": ["model.path=x"],
        "recipe/compare": ["compare.runs=[a,b]"],
        "judge/words": ["judge.words.path=x"], "judge/probe": ["judge.probe.path=x"],
        "judge/classifier": ["judge.classifier.path=x", "judge.classifier.unsafe_label=y"],
        "judge/api": ["judge.api.url=https://x/v1", "judge.api.model=y"],
        "recipe/judge": JUDGED[1:], "data/mixture": ["data.parts=[{set:hh_harmless}]"],
    }  # fmt: skip
    if path.parent == CONF_DIR:
        overrides = [BASE]
    elif group == "recipe":
        overrides = [f"+recipe={name}", *needed.get(f"{group}/{name}", [])]
    else:
        whole = JUDGED if group == "judge" else ["+recipe=guard" if group == "guard" else "+recipe=end_to_end"]
        overrides = [*whole, f"{group}={name}", *needed.get(f"{group}/{name}", [])]
    cfg = compose_config(overrides)
    assert cfg.recipe and set(cfg.stages) <= set(STAGES)
    blocks = [value for node in (cfg, cfg.judge) for value in node.values() if isinstance(value, DictConfig)]
    assert all(is_dataclass(OmegaConf.get_type(block)) for block in blocks), (
        "without a schema nothing checks its values"
    )


@pytest.mark.parametrize("path", yamls(), ids=lambda path: str(path.relative_to(CONF_DIR)))
def test_every_key_has_a_comment(path):
    """On its own line, or as the heading of a block of keys."""
    lines = path.read_text().splitlines()
    assert lines[0].startswith("#"), "the file says what it is"
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if "|-" in line:
            break  # the text of --help follows
        key = line.strip().partition(":")[0]
        is_key = ":" in line and not line.lstrip().startswith(("#", "-"))
        if is_key and not line.split(":", 1)[1].strip() and after.startswith(" "):
            continue  # a block; its keys are explained one by one
        assert not is_key or "  # " in line or " # " in line, f"{key} has no comment"


def test_help_lists_the_groups_that_exist():
    text = yaml.safe_load((CONF_DIR / "config.yaml").read_text())["hydra"]["help"]["template"]
    for group in (path for path in CONF_DIR.iterdir() if path.is_dir()):
        listed = re.search(rf"^  {group.name} (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)[1]
        assert sorted(listed.replace(",", " ").split()) == sorted(path.stem for path in group.glob("*.yaml"))


def test_stage_names_are_the_same_everywhere():
    modules = {path.stem for path in (REPOSITORY / "alignment/stages").glob("*.py")} - {"__init__"}
    assert set(STAGES) == modules


def test_every_key_a_stage_depends_on_exists():
    cfg = compose_config([BASE])
    for stage in STAGES.values():
        for key in stage.config:
            node = cfg
            for part in key.split("."):
                assert part in node, key
                node = node[part]


@pytest.mark.slow
def test_fsdp_without_gpus_is_refused_before_anything_runs(tmp_path):
    """accelerate would run plain DDP without saying so."""
    done = small_recipe.run(tmp_path, check=False, ACCELERATE_USE_FSDP="true")
    assert done.returncode == 2 and not done.stdout
    assert "launch: FSDP needs GPUs" in done.stderr
    assert not list((tmp_path).rglob("*.parquet"))


def test_one_value_is_a_list_of_one_where_a_list_is_wanted():
    cfg = compose_config(["+recipe=cdpo", "policy.learning_rate=1e-5", "stages=fit_reward", "policy.seeds=[1]"])
    assert (list(cfg.policy.learning_rate), list(cfg.stages), list(cfg.policy.seeds)) == ([1e-5], ["fit_reward"], [1])
    assert as_hydra_reads(["evaluation.sets=null", "stages=${a}", "seed=3", "-m"]) == [
        "evaluation.sets=null", "stages=${a}", "seed=3", "-m",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"policy.beta: 0.1,0.3 is ambiguous; write policy.beta=\[0.1,0.3\], or -m"):
        compose_config(["+recipe=cdpo", "policy.beta=0.1,0.3"])


def test_reward_models_of_ones_own_model_have_one_seed_unless_more_are_asked_for():
    own = ["+recipe=legend_rm", "model=local", "model.path=a"]
    assert list(compose_config(own).reward_model.seeds) == [0]
    assert list(compose_config([*own, "reward_model.seeds=[0,1]"]).reward_model.seeds) == [0, 1]
    assert list(compose_config(["+recipe=legend_rm"]).reward_model.seeds) == [0, 1, 2, 3, 4]
