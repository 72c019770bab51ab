"""The model card of an adapter: what it is, how it was made, what that cost, how good it is, and where it fails.

Everything is taken from the lineage of the run and from what `millet eval --json` printed; what nobody can compute,
such as licences and limits, from a file `card.toml`. The same input gives the same text.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from millet.errors import BadRequest
from millet.evaluate.bootstrap import Estimate
from millet.evaluate.wording import range_of, title, value_of
from millet.tasks.find import FILE_KINDS, VARIABLE
from millet.tasks.gym import gym_names
from millet.train.recipe import build
from millet.train.stage import FROM_STAGE, MODEL

GYM = "reasoning-gym"
NAMED_KINDS = ("gsm8k", "svamp")  # of tasks: datasets that have a name, whatever the file is called
PLAIN = re.compile(r"[A-Za-z][\w./-]*")  # text that YAML takes for text without quotes

# Kind of stage -> what it makes or does; base: the model that it starts from.
METHODS = {
    "worked": "solutions worked by a program",
    "answers": "answers of {base} {place}",
    "magpie": "questions that {base} asks itself, and its answers",
    "reject": "right replies of {base}, by rejection sampling",
    "distill": "replies of a teacher",
    "sft": "supervised fine-tuning of {base}",
    "grpo": "reinforcement learning of {base} with GRPO",
    "average": "average of {models}, which went on from {base}",
    "distill-logits": "distillation of a teacher's probabilities into {base}",
    "distill-on-policy": "distillation of a teacher into {base} on its own replies",
}

# `thoughts` of a stage of answers -> where these stand.
PLACES = {
    "on": "behind thoughts that were written to their questions",
    "off": "to questions that were written",
    "both": "alone, and behind thoughts that were written to their questions",
}

# Key of a stage -> what it is called in the card.
SETTINGS = {
    "problems": "problems of each task",
    "questions": "questions a step",
    "replies": "replies to each question",
    "keep": "kept of one question",
    "share": "share of each",
    "epochs": "epochs",
    "batch_tokens": "tokens a step",
    "max_tokens": "tokens of a reply",
    "temperature": "temperature",
    "optimizer.learning_rate": "learning rate",
    "lora.rank": "rank",
    "lora.alpha": "alpha",
    "objective.kl": "KL weight",
    "objective.clip_low": "clip below",
    "objective.clip_high": "clip above",
}

# Figure of `millet eval --talk` -> what it is called in the card, and how its values are written.
TALK = {
    "base_perplexity": ("perplexity of the base's own answers, for the base", "{:.2f}"),
    "perplexity": ("the same for this model", "{:.2f}"),
    "rise": ("rise", "{:+.1%}"),
    "closed_itself": ("thoughts that closed by themselves", "{:.1%}"),
    "thinking_tokens": ("tokens of a thought", "{:.0f}"),
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """dataset: as `datasets_of` calls it. use: what it is used for. hub: its name at Hugging Face."""

    dataset: str
    name: str
    licence: str
    source: str
    use: str
    hub: str | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """What cannot be computed. licence: of the result. base_model: the base's name at Hugging Face. languages: ISO 639
    codes. limits: sentences."""

    title: str
    description: str
    licence: str
    base_model: str
    languages: tuple[str, ...]
    limits: tuple[str, ...]
    data: tuple[Data, ...]


def read_card(path: Path) -> Card:
    """Raises BadRequest that says what in the file is wrong."""
    try:
        return build(Card, tomllib.loads(path.read_text(encoding="utf-8")), "the card")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise BadRequest(f"{path} is not TOML: {error}") from error
    except BadRequest as error:
        raise BadRequest(f"{path}: {error}") from error


def datasets_of(lineage: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the stages of a chain took from outside, with the names of those stages: "reasoning-gym", "gsm8k", "svamp",
    and files, tasks in Python among them, as the recipe calls them."""
    found: dict[str, list[str]] = {}
    for name, stage in lineage["stages"].items():
        for dataset in dict.fromkeys(_datasets(stage["configuration"])):
            found.setdefault(dataset, []).append(name)
    return found


def model_card(
    name: str, base: str, card: Card, lineage: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]]
) -> str:
    """The card as Markdown, below a head for Hugging Face.

    name: of the model, of its directory and of its recipe. base: its base's name in the catalog. lineage: of the
    chain, in which a stage may have `conversations` (how many it has written, by task) or `steps`. evaluations: what
    `millet eval` printed, with `--talk` and without. Raises BadRequest for data that the card does not name, and for
    figures that are not whole.
    """
    used = datasets_of(lineage)
    named = {each.dataset: each for each in card.data}
    if missing := [dataset for dataset in used if dataset not in named]:
        raise BadRequest(
            f"the run has used {', '.join(missing)}, which the card does not name; add [[data]] with "
            f'dataset = "{missing[0]}" and its licence'
        )
    parts = [
        _head(card, [named[dataset] for dataset in used]),
        f"# {card.title}\n\n{card.description.strip()}",
        "## Run it\n\n" + _run(name, base, card),
        "## How good it is\n\n" + "\n\n".join(_scores(each, name, base, lineage) for each in evaluations),
        "## Limits\n\n" + "\n".join(f"- {limit}" for limit in card.limits),
        "## How it was made\n\n" + _made(base, lineage),
        "## Data\n\n" + _data(used, named),
        "## What it cost\n\n" + _cost(lineage),
        "## Make it again\n\n" + _again(name, lineage),
    ]
    return "\n\n".join(parts) + "\n"


def _datasets(configuration: Mapping[str, Any]) -> Iterator[str]:
    tasks = configuration.get("tasks") or ()
    for source in _sources(configuration):
        if source in tasks:
            yield _dataset_of(source)
        elif not source.startswith(FROM_STAGE):
            yield source


def _sources(configuration: Mapping[str, Any]) -> list[str]:
    """Tasks, and files and stages that data comes from, as the recipe calls them."""
    data = configuration.get("data") or ()
    files = [data] if isinstance(data, str) else data
    return [*(configuration.get("tasks") or ()), *files, *(configuration.get("prompts") or ())]


def _dataset_of(task: str) -> str:
    """Of a task as `find_task` reads it."""
    kind, _, rest = task.partition(":")
    if kind in NAMED_KINDS:
        return kind
    if kind in FILE_KINDS:
        return rest
    if ".py:" in task:
        return task.rpartition(":")[0]
    in_gym = kind == "gym" or (not task.endswith(".py") and kind in gym_names())
    return GYM if in_gym else task


def _head(card: Card, data: Sequence[Data]) -> str:
    def listed(key: str, values: Sequence[str]) -> str:
        return f"{key}:\n" + "\n".join(f"- {_yaml(value)}" for value in values)

    lines = [
        f"license: {_yaml(card.licence.lower())}",
        f"base_model: {_yaml(card.base_model)}",
        "base_model_relation: adapter",
        "library_name: peft",
        "pipeline_tag: text-generation",
        listed("language", card.languages),
    ]
    if hubs := list(dict.fromkeys(each.hub for each in data if each.hub)):
        lines.append(listed("datasets", hubs))
    return "---\n" + "\n".join(lines) + "\n---"


def _yaml(text: str) -> str:
    return text if PLAIN.fullmatch(text) and text not in ("no", "yes", "on", "off") else json.dumps(text)


def _run(name: str, base: str, card: Card) -> str:
    return f"""```sh
pip install millet-llm
millet chat --model {name}
```

`millet serve --model {name}` has a page for the browser and the usual interfaces for programs. It is a LoRA adapter in
PEFT's format for `{base}`, which Millet fetches. With PEFT:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{card.base_model}")
model = PeftModel.from_pretrained(base, "{name}")  # this directory, which has the chat template too
```

It was trained beside the weights of `{base}` as that file has them; beside others, also the unquantised ones, its
figures may differ."""


def _scores(found: Mapping[str, Any], name: str, base: str, lineage: Mapping[str, Any]) -> str:
    return _talk(found, name, base) if "figures" in found else _tasks(found, name, lineage)


def _tasks(found: Mapping[str, Any], name: str, lineage: Mapping[str, Any]) -> str:
    """One evaluation, or two on the same problems, of which the last is this model's."""
    if any(model["partial"] for model in found["models"]):
        raise BadRequest(f"an evaluation was interrupted ({found['command']}); run it to its end")
    models, k = found["models"], found["settings"]["k"]
    scores = [_by_group(model) for model in models]
    gains = _by_group(found["difference"]) if "difference" in found else None
    groups = scores[-1].keys()
    if any(each.keys() != groups for each in (*scores, gains or scores[-1])):
        raise BadRequest(f"an evaluation asked two models different tasks ({found['command']}); ask both the same")
    figures = ["pass@1", f"majority@{k}"] if k > 1 else ["pass@1"]
    names = [*(_compared(model, lineage) for model in models[:-1]), name]
    heads = ["task", *(f"{each}, {title(figure)}" for each in names for figure in figures)]
    rows = [[group, *(_share(each[group].get(figure)) for each in scores for figure in figures)] for group in groups]
    if gains is not None:
        heads.append("difference in points")
        for group, row in zip(groups, rows, strict=True):
            row.append(_share(gains[group]["pass@1"], signed=True))
    mean = models[-1]["mean"]
    thought = value_of("thinking_tokens", _estimate(mean["thinking_tokens"]))
    return (
        f"{_asked(found)}\n\n{_table(heads, rows if len(rows) > 2 else rows[:1])}\n\n"
        f"{_share(mean['closed_itself'])} of the thoughts of {name} closed by themselves; in the mean they had "
        f"{thought} tokens."
    )


def _asked(found: Mapping[str, Any]) -> str:
    settings = found["settings"]
    replies = "one reply" if settings["k"] == 1 else f"{settings['k']} replies"
    most = f"at most {settings['max_tokens']:,} tokens{_weights(settings)}"
    return (
        f"Up to {settings['problems']:,} problems of each task that no training drew from, {replies} to each, "
        f"temperature {settings['temperature']:g}, thinking {settings['think']}, {most}, seed {settings['seed']}; "
        f"shares of right answers with 95% intervals. By `millet eval` of Millet {found['versions']['millet']}, "
        f"{found['date']}, on {found['machine']}."
    )


def _weights(settings: Mapping[str, Any]) -> str:
    """Where they were not taken as the file has them."""
    return f", --quantize {settings['quantize']}" if settings["quantize"] else ""


def _talk(found: Mapping[str, Any], name: str, base: str) -> str:
    if found["base"] != base:
        raise BadRequest(f"the everyday questions were compared with {found['base']}; give --compare {base}")
    settings, cells = found["settings"], []
    for figure, (wording, form) in TALK.items():
        estimate = _estimate(found["figures"][figure])
        if estimate is not None:
            told = [form.format(value) for value in (estimate.value, estimate.low, estimate.high)]
            cells.append([wording, f"{told[0]} ({told[1]} to {told[2]})"])
    return (
        f"Whether it still talks as `{base}` does, on {settings['problems']:,} everyday questions (`millet eval "
        f"--talk`, temperature {settings['temperature']:g}, seed {settings['seed']}{_weights(settings)}), with 95% "
        "intervals:\n\n" + _table(["", name], cells)
    )


def _compared(model: Mapping[str, Any], lineage: Mapping[str, Any]) -> str:
    """What the first of two models is called: by the stage of the chain that has made it, else as it was typed. Of a
    path no more is told than the run and the stage."""
    made = model["lineage"]
    if isinstance(made, Mapping):
        for name, stage in lineage["stages"].items():
            if made.get("sha256") == stage["sha256"]:
                return f"after {name}"
    given = PurePosixPath(model["model"])
    return "/".join(given.parts[-3:-1]) if given.name == MODEL else given.name


def _by_group(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures by task and level, and those of the mean last: evaluations may have their tasks in any order."""
    groups = {
        f"{task['task']}, level {task['level']}" if task["level"] else str(task["task"]): task["figures"]
        for task in found["tasks"]
    }
    return groups | {"**mean**": found["mean"]}


def _estimate(found: Mapping[str, float] | None) -> Estimate | None:
    return Estimate(**found) if found else None


def _share(found: Mapping[str, float] | None, signed: bool = False) -> str:
    estimate = _estimate(found)
    if estimate is None:
        return value_of("pass@1", None)
    return f"{value_of('pass@1', estimate, signed)} ({range_of('pass@1', estimate, signed)})"


def _made(base: str, lineage: Mapping[str, Any]) -> str:
    stages = enumerate(lineage["stages"].items(), 1)
    return (
        f"From `{base}`, in the stages of one recipe. `lineage.json` has every setting, and hashes of everything.\n\n"
        + "\n".join(f"{number}. **{name}**: {_stage(stage)}" for number, (name, stage) in stages)
    )


def _stage(stage: Mapping[str, Any]) -> str:
    configuration, ledger = stage["configuration"], stage["ledger"]
    base = next(iter(stage["parents"]), "the base")
    what = METHODS[configuration["kind"]].format(
        base=base,
        place=PLACES[configuration.get("thoughts", "on")],
        models=", ".join(configuration.get("models", ())),
    )
    if conversations := stage.get("conversations"):
        counts = ", ".join(f"{task} {count:,}" for task, count in conversations.items())
        what += f": {sum(conversations.values()):,} conversations, {counts}"
    elif sources := _sources(configuration):
        what += f" on {', '.join(source.removeprefix(FROM_STAGE) for source in sources)}"
        what += f": {stage['steps']:,} steps, {ledger['tokens']:,} tokens" if stage.get("steps") else ""
    settings = [
        f"{told} {value:g}" for key, told in SETTINGS.items() if (value := _setting(configuration, key)) is not None
    ]
    told = ", ".join([f"seed {stage['seed']}", *settings])
    return f"{what} ({told})."


def _setting(configuration: Mapping[str, Any], key: str) -> float | None:
    table, _, last = key.rpartition(".")
    found = (configuration.get(table) or {}) if table else configuration
    value: float | None = found.get(last)
    return value


def _data(used: Mapping[str, Sequence[str]], named: Mapping[str, Data]) -> str:
    rows = [
        [named[dataset].name, named[dataset].licence, named[dataset].use, ", ".join(stages), named[dataset].source]
        for dataset, stages in used.items()
    ]
    return _table(["data", "licence", "what for", "stages", "where from"], rows)


def _cost(lineage: Mapping[str, Any]) -> str:
    stages = {name: stage["ledger"] for name, stage in lineage["stages"].items()} | {"**all**": lineage["ledger"]}
    gpu = any(ledger["gpu_seconds"] for ledger in stages.values())
    heads = ["stage", "hours", "CPU hours", *(["GPU hours"] if gpu else []), "tokens trained", "tokens sampled", "cost"]
    rows = [
        [
            name,
            _hours(ledger["wall_seconds"]),
            _hours(ledger["cpu_seconds"]),
            *([_hours(ledger["gpu_seconds"])] if gpu else []),
            f"{ledger['tokens']:,}",
            f"{ledger['sampled_tokens']:,}",
            _money(ledger["money"], ledger["currency"]),
        ]
        for name, ledger in stages.items()
    ]
    return _table(heads, rows) + "\n\nAt the prices of the recipe, for the hours of the machine that it ran on."


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"


def _money(amount: float, currency: str) -> str:
    if currency != "USD":
        return f"{amount:.4f} {currency}"
    return f"${amount:.2f}" if amount >= 1 else f"{100 * amount:.2f} cents"


def _again(name: str, lineage: Mapping[str, Any]) -> str:
    environment, code = _of_last(lineage, "environment"), _of_last(lineage, "code")
    tasks = [task for stage in lineage["stages"].values() for task in stage["configuration"].get("tasks") or ()]
    outside = list(dict.fromkeys(task.partition(":")[2] for task in tasks if VARIABLE.search(task)))
    needed = f" It reads {', '.join(f'`{path}`' for path in outside)}." if outside else ""
    # A stage that was begun by an earlier program may not tell its packages.
    packages = "".join(f", {name} {version}" for name, version in environment.get("packages", {}).items())
    place = environment["gpu"] or f"CPUs, {environment['threads']} threads"
    return (
        f"```sh\nmillet train recipes/{name}.toml\n```\n\nin the project's source tree makes it from its base.{needed} "
        f"It was made by Millet {code['version']}, PyTorch {environment['torch']}, Python "
        f"{environment['python']}{packages} on {place}. The same program on the same machine gives the same weights, "
        "bit for bit, where no GPU took part; elsewhere they differ a little, and so do the figures."
    )


def _of_last(lineage: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = list(lineage["stages"].values())[-1][key]
    return found


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
