"""Recipes: what users write, what they get, and what they are told when it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import sparsewright as sw
from sparsewright.data import list_datasets
from sparsewright.models import create_model
from sparsewright.training import Duration, RecipeError, list_recipes, load_recipe
from sparsewright.training.lr_schedule import LearningRate
from sparsewright.training.optimizers import build_optimizer
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import parse_yaml

SHIPPED = [
    "cifar10/resnet20",
    "cifar10/resnet32x2",
    "cifar10/resnet32x2/rpg-99",
    "cifar10/resnet32x2/rpg-99.5",
    "cifar10/resnet32x2/rpg-99.9",
    "cifar10/resnet50",
    "cifar10/resnet56/gsm-10x",
    "cifar10/resnet8",
    "cifar10/vgg19",
    "cifar10/vgg19/rpg-99",
    "cifar10/vgg19/rpg-99.5",
    "cifar10/vgg19/rpg-99.9",
    "cifar10/wrn22-2",
    "cifar100/resnet50",
    "cifar100/vgg19",
    "digits/lenet300",
    "imagenet/resnet50",
    "imagenet/resnet50/gsm-4x",
    "imagenet/resnet50/gsm-5x",
    "imagenet/resnet50/rpg-80",
    "imagenet/resnet50/rpg-90",
    "imagenet/resnet50/rpg-90-scratch",
    "imagenet/resnet50/rpg-95",
    "imagenet/resnet50/rpg-95-scratch",
    "imagenet/resnet50/rpg-98",
    "mnist/lenet300",
    "mnist/lenet300/gsm-ticket-60x",
    "mnist/lenet5",
    "mnist/lenet5/gsm-ticket-125x",
    "mnist/lenet5/gsm-ticket-300x",
    "mnist/lenet5/rpg-98",
    "mnist/lenet5/rpg-99",
    "mnist/lenet5/rpg-99.5",
]
# By method and what comes out: a speed-up, or what is removed in per cent.
GREG_ENDS = {
    "cifar10/resnet56": ["2.55x", "50", "70", "90", "92.5", "95"],
    "cifar100/vgg19": ["8.84x"],
    "digits/lenet300": ["2.85x"],
    "imagenet/resnet34": ["1.32x"],
    "imagenet/resnet50": ["1.49x", "2.31x", "2.56x", "3.06x", "82.7"],
}
OF_GREG = [
    f"{folder}/{how}-{end}" for folder, ends in GREG_ENDS.items() for end in ends for how in ("greg1", "greg2", "l1")
]
GSM = [name for name in SHIPPED if "/gsm-" in name]
RPG = [name for name in SHIPPED if "/rpg-" in name]


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


MINIMAL = "data: {name: digits}\nmodel: {name: lenet300}\nduration: 2ep\n"


def test_every_recipe_of_the_issue_is_shipped() -> None:
    assert sorted(info.name for info in list_recipes()) == sorted([*SHIPPED, *OF_GREG])
    assert all(info.summary for info in list_recipes())


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in GSM + RPG])
@pytest.mark.parametrize("method", ["dense", *(info.name for info in sw.list_methods())])
def test_every_method_goes_with_every_recipe(name: str, method: str) -> None:
    overrides = ["method=" + method] + ([] if method == "dense" else ["sparsity=0.9"])
    recipe = load_recipe(name, overrides)
    (stage,) = [stage for stage in recipe.resolved_stages() if stage.needs_sparsity or method == "dense"]
    assert stage.method.name == method
    assert recipe.data.name.split(":")[0] in {info.name.split(":")[0] for info in list_datasets()}


# Of the authors' scripts: base epochs, its rate and milestones; GSM's epochs, rate, milestones and momentum; the rest.
GSM_SETTINGS = {
    "mnist/lenet300/gsm-ticket-60x": (200, 3e-2, (40, 80, 120, 160), 280, 1e-2, (160, 200, 240), 0.99, 1 - 1 / 60),
    "mnist/lenet5/gsm-ticket-125x": (200, 3e-2, (40, 80, 120, 160), 280, 1e-2, (160, 200, 240), 0.99, 1 - 1 / 125),
    "mnist/lenet5/gsm-ticket-300x": (200, 3e-2, (40, 80, 120, 160), 280, 1e-2, (160, 200, 240), 0.99, 1 - 1 / 300),
    "cifar10/resnet56/gsm-10x": (500, 0.1, (100, 200, 300, 400), 600, 5e-3, (400, 500), 0.98, 0.9),
}


# Published: rank weight and residual energy, by sparsity in per cent.
RPG_ON_IMAGENET = {"80": (0.5, 0.2), "90": (0.5, 0.1), "95": (3, 0.2), "98": (4, 0.2)}


@pytest.mark.parametrize("name", [name for name in RPG if name.startswith("imagenet")])
def test_rpg_recipes_for_imagenet_have_the_published_settings(name: str) -> None:
    recipe = load_recipe(name)
    (stage,) = recipe.resolved_stages()
    per_cent, *scratch = name.partition("rpg-")[2].split("-")
    settings = {**recipe.method_defaults, **stage.method.options}
    assert (stage.sparsity, recipe.data.batch_size, str(stage.duration)) == (int(per_cent) / 100, 8 * 128, "100ep")
    assert recipe.model.name == "torchvision:resnet50" + ("" if scratch else "@IMAGENET1K_V1")
    assert stage.optimizer.model_dump(include={"name", "lr", "momentum", "nesterov", "weight_decay"}) == {
        "name": "sgd",
        "lr": 0.4,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-4,
    }
    schedule = stage.schedule.model_dump(mode="json")
    assert (schedule["name"], schedule["warmup"], stage.label_smoothing) == ("cosine", "5ep", 0.1)
    assert (settings["update_interval"], settings["drop_fraction"]) == (100, 0.3)
    assert (settings["prune_end"], settings["update_end"]) == (0.9, 0.901)
    assert (settings["rank_weight"], settings["residual_energy"]) == RPG_ON_IMAGENET[per_cent]


@pytest.mark.parametrize("name", [name for name in RPG if name.startswith("cifar10")])
def test_rpg_recipes_for_cifar_have_the_published_settings(name: str) -> None:
    recipe = load_recipe(name)
    (stage,) = recipe.resolved_stages()
    assert (recipe.data.batch_size, str(stage.duration), recipe.model.name) == (128, "300ep", name.split("/")[1])
    assert stage.sparsity == pytest.approx(float(name.partition("rpg-")[2]) / 100)
    optimizer = stage.optimizer.model_dump(include={"lr", "momentum", "nesterov", "weight_decay"})
    assert optimizer == {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4}
    options = stage.method.options
    assert (options["update_interval"], options["drop_fraction"]) == (100, 0.3)
    assert (options["prune_end"], options["update_end"]) == (0.8, 0.8)
    assert (options["rank_weight"], options["residual_energy"]) == (0.5, 0.1)


@pytest.mark.parametrize("name", [name for name in RPG if name.startswith("mnist")])
def test_rpg_recipes_for_mnist(name: str) -> None:
    recipe = load_recipe(name)
    (stage,) = recipe.resolved_stages()
    assert (recipe.model.name, stage.method.name) == ("lenet5", "rpg")
    assert stage.sparsity == pytest.approx(float(name.partition("rpg-")[2]) / 100)


@pytest.mark.parametrize("name", GSM_SETTINGS)
def test_gsm_recipes_have_the_settings_of_the_authors(name: str) -> None:
    recipe = load_recipe(name)
    base, gsm = recipe.resolved_stages()
    epochs, rate, milestones, gsm_epochs, gsm_rate, gsm_milestones, momentum, sparsity = GSM_SETTINGS[name]
    mnist = name.startswith("mnist")
    assert recipe.data.batch_size == (256 if mnist else 64)
    assert (base.name, base.method.name, gsm.name, gsm.method.name) == ("base", "dense", "gsm", "gsm")
    assert gsm.sparsity == pytest.approx(sparsity, abs=1e-9)
    for stage, expected in ((base, (epochs, rate, milestones)), (gsm, (gsm_epochs, gsm_rate, gsm_milestones))):
        schedule = stage.schedule.model_dump(mode="json")
        assert (str(stage.duration), stage.optimizer.lr) == (f"{expected[0]}ep", expected[1])
        assert schedule["milestones"] == [f"{milestone}ep" for milestone in expected[2]]
        assert (schedule["gamma"], schedule["warmup"]) == (0.1, "5ep")
        settings = stage.optimizer.model_dump()
        assert (settings["nesterov"], settings["weight_decay"]) == ((True, 5e-4) if mnist else (False, 1e-4))
        assert (settings["decay_bias_and_norm"], settings["momentum"]) == (False, 0.9 if stage is base else momentum)


@pytest.mark.parametrize("name", ["cifar10/resnet50", "cifar10/vgg19", "cifar100/resnet50", "cifar100/vgg19"])
def test_cifar_recipes_have_the_settings_of_the_granet_paper(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.name == name.split("/")[0]
    assert recipe.data.batch_size == 128
    assert str(recipe.duration) == "160ep"
    optimizer = recipe.optimizer.model_dump()
    assert (optimizer["lr"], optimizer["momentum"], optimizer["nesterov"], optimizer["weight_decay"]) == (
        0.1,
        0.9,
        True,
        5e-4,
    )
    rates = LearningRate(recipe.schedule, 160 * 391, 391)
    assert [rates.factor(epoch * 391) for epoch in (0, 79, 80, 119, 120, 159)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert rates.factor(80 * 391 - 1) == 1


def test_wide_resnet_recipe_has_the_settings_of_the_rigl_paper() -> None:
    recipe = load_recipe("cifar10/wrn22-2")
    assert (recipe.model.name, str(recipe.duration), recipe.data.batch_size) == ("wrn-22-2", "250ep", 128)
    rates = LearningRate(recipe.schedule, 250 * 391, 391)
    assert [rates.factor(epoch * 391) for epoch in (76, 77, 154, 231)] == pytest.approx([1, 0.2, 0.04, 0.008])


def test_imagenet_recipe_has_the_settings_of_the_granet_authors() -> None:
    recipe = load_recipe("imagenet/resnet50", ["method=granet", "sparsity=0.8"])
    (stage,) = recipe.resolved_stages()
    assert (recipe.data.batch_size, recipe.label_smoothing, recipe.optimizer.weight_decay) == (128, 0.1, 1e-4)
    assert recipe.method_options(stage) == {"update_interval": 4000, "prune_end": 0.3}
    rates = LearningRate(stage.schedule, 100_000, 1000)
    assert rates.factor(0) == pytest.approx(1 / 5000)
    assert [rates.factor(step) for step in (4999, 29_999, 30_000, 60_000, 90_000)] == pytest.approx(
        [1, 1, 0.1, 0.01, 0.001]
    )


def test_presets_are_kept_but_where_a_recipe_has_method_defaults() -> None:
    def interval(name: str) -> int | None:
        recipe = load_recipe(name, ["method=rigl", "sparsity=0.8"])
        return recipe.method_options(recipe.resolved_stages()[0]).get("update_interval")

    assert [interval(name) for name in ("cifar10/resnet50", "imagenet/resnet50")] == [None, 4000]


def test_method_defaults_reach_only_methods_that_have_the_option() -> None:
    static = load_recipe("mnist/lenet300", ["method=static", "sparsity=0.9"])
    assert "update_interval" not in static.method_options(static.resolved_stages()[0])
    mine = load_recipe("mnist/lenet300", ["method=granet", "sparsity=0.9", "method.update_interval=77"])
    assert mine.method_options(mine.resolved_stages()[0])["update_interval"] == 77


def test_overrides_reach_nested_keys_lists_and_short_names() -> None:
    recipe = load_recipe(
        "digits/lenet300",
        ["method.update_interval=30", "method=granet", "sparsity=0.95", "optimizer.lr=1e-2", "stages.0.duration=2ep"],
    )
    (stage,) = recipe.resolved_stages()
    assert stage.method.name == "granet"
    assert stage.method.options == {"update_interval": 30}
    assert (stage.sparsity, stage.optimizer.lr, str(stage.duration)) == (0.95, 0.01, "2ep")


def test_another_optimizer_keeps_the_weight_decay_but_not_settings_that_it_does_not_have() -> None:
    recipe = load_recipe("digits/lenet300", ["optimizer=adam", "schedule=cosine"])
    assert recipe.optimizer.name == "adam"
    assert recipe.optimizer.weight_decay == 5e-4
    assert recipe.optimizer.lr == 1e-3
    assert recipe.schedule.name == "cosine"


def test_stages_inherit_and_override(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + """
optimizer: {lr: 0.1, momentum: 0.9}
gradient_clip: 1.0
sparsity: 0.8
stages:
- {kind: train}
- {kind: prune}
- {kind: train, duration: 30it, optimizer: {lr: 0.01}, gradient_clip: null}
- {kind: evaluate, name: final}
"""
    )
    stages = load_recipe(write(tmp_path, text)).resolved_stages()
    assert [stage.name for stage in stages] == ["train-1", "prune", "train-2", "final"]
    assert stages[1].method.name == "magnitude"
    assert stages[1].sparsity == 0.8
    optimizer = stages[2].optimizer.model_dump()
    assert (optimizer["lr"], optimizer["momentum"], stages[2].gradient_clip) == (0.01, 0.9, None)


def test_a_stage_takes_the_short_form_of_a_section(tmp_path: Path) -> None:
    short = "stages: [{method: granet, optimizer: adam, schedule: cosine, sparsity: 0.8}]\n"
    long = "stages: [{method: {name: granet}, optimizer: {name: adam}, schedule: {name: cosine}, sparsity: 0.8}]\n"
    recipe = load_recipe(write(tmp_path, MINIMAL + short))
    (stage,) = recipe.resolved_stages()
    assert (stage.method.name, stage.optimizer.name, stage.schedule.name) == ("granet", "adam", "cosine")
    spelled_out = load_recipe(write(tmp_path, MINIMAL + long))
    assert (recipe, recipe.digest()) == (spelled_out, spelled_out.digest())


def test_extends_by_name_and_by_path(tmp_path: Path) -> None:
    write(tmp_path, "extends: digits/lenet300\nduration: 3ep\n", "base.yaml")
    child = load_recipe(write(tmp_path, "extends: base.yaml\noptimizer: {lr: 0.5}\n"))
    assert (child.name, str(child.duration), child.optimizer.lr, child.data.batch_size) == ("mine", "3ep", 0.5, 64)
    assert child.optimizer.model_dump()["momentum"] == 0.9


def test_the_resolved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10/wrn22-2", ["method=set", "sparsity=0.9", "gradient_clip=2"])
    again = load_recipe(write(tmp_path, yaml.safe_dump(recipe.resolved())))
    assert again == recipe
    assert again.digest() == recipe.digest()


def test_the_digest_tells_settings_and_seeds_apart_but_not_spellings() -> None:
    base = load_recipe("digits/lenet300")
    assert base.digest() == load_recipe("digits/lenet300", ["stages=[{kind: train}]", "label_smoothing=0"]).digest()
    others = [load_recipe("digits/lenet300", [change]).digest() for change in ("optimizer.lr=0.2", "optimizer=rmsprop")]
    assert len({base.digest(), base.digest(seed=1), *others}) == 4
    assert len(base.digest()) == 8


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["optimizer.momentun=0.9"], ["'optimizer.momentun'", "'momentum'"]),
        (["labelsmoothing=0.1"], ["'labelsmoothing'", "'label_smoothing'"]),
        (["data.flips=true"], ["'data.flips'", "'flip'"]),
        (["stages.0.durations=2ep"], ["'stages.0.durations'", "'duration'"]),
        (["stages.3.duration=2ep"], ["stages.3.duration", "allowed: 0"]),
        (["method=grantt", "sparsity=0.9"], ["'grantt'", "'granet'"]),
        (["method=granet", "sparsity=0.9", "method.update_intervall=3"], ["'update_intervall'", "'update_interval'"]),
        (["method=static", "sparsity=0.9", "method.update_interval=3"], ["static", "'update_interval'"]),
        (["method_defaults.update_intervall=3"], ["'update_intervall'", "'update_interval'"]),
        (["method=granet"], ["sparsity", "granet", "sparsity=0.9"]),
        (["sparsity=0.9"], ["sparsity=0.9", "dense", "method="]),
        (["method=granet", "sparsity=1.0"], ["sparsity", "less than 1", "1.0"]),
        (["method=granet", "sparsity=-0.1"], ["sparsity", "greater than or equal to 0"]),
        (["stages.0.duration=foo"], ["stages.0.duration", "160ep", "'foo'", "auto", "greg-1"]),
        (
            ["method.granularity=filter"],
            ["dense", "'granularity'", "greg-1", "stages.N.method.granularity", "method_defaults.granularity"],
        ),
        (["duration=5"], ["duration", "160ep", "5000it", "5"]),
        (["duration=0ep"], ["duration", "longer than zero"]),
        (["duration=2.5it"], ["duration", "whole"]),
        (["schedule.milestones=[1.5]"], ["schedule.milestones", "between 0 and 1", "1.5"]),
        (["optimizer=sgdd"], ["optimizer", "'sgdd'", "'sgd'"]),
        (["schedule.name=cosin"], ["schedule", "'cosin'", "'cosine'"]),
        (["optimizer.lr=-1"], ["optimizer.lr", "greater than 0", "-1"]),
        (["data.batch_size=0"], ["data.batch_size", "greater than or equal to 1"]),
        (["stages.0.kind=trane"], ["stages.0.kind", "'train'", "'trane'"]),
        (["stages=[{kind: prune, duration: 2ep}]", "sparsity=0.5"], ["duration", "prune"]),
        (["stages=[{kind: train, optimizer: {lrr: 1}}]"], ["stages.0", "'optimizer.lrr'", "'lr'"]),
        (["stages=[]"], ["stages", "at least one"]),
        (["stages=[{sparsity: 0.9}]"], ["stages.0", "sparsity=0.9", "dense", "method="]),
        (
            ["stages=[{method: set, sparsity: 0.5}, {method: dense, sparsity: 0.7}]"],
            ["stages.1", "sparsity=0.7", "dense"],
        ),
        (["stages=[{method: grantt, sparsity: 0.9}]"], ["stages.0", "'grantt'", "'granet'"]),
        (["stages=[{kind: train, kind: prune}]"], ["'kind'", "twice"]),
        (["extends=cifar10/resnet50"], ["extends", "recipe file", "no override"]),
        (["duration.x=3"], ["duration.x", "no keys"]),
        (["lr"], ["key=value", "'lr'"]),
        (["optimizer.lr=[1"], ["YAML"]),
    ],
)
def test_a_wrong_recipe_is_one_clear_sentence(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits/lenet300", overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_yaml_merge_keys_may_be_overridden() -> None:
    text = "base: &base {lr: 0.1, momentum: 0.9}\nmine: {<<: *base, lr: 0.2}\n"
    assert parse_yaml(text)["mine"] == {"lr": 0.2, "momentum": 0.9}


def test_a_missing_recipe_names_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match=r"'cifar10/resnet5'.*did you mean 'cifar10/resnet50'"):
        load_recipe("cifar10/resnet5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("data: [unclosed\n", "not valid YAML"),
        ("extends: mine.yaml\n", "extends itself"),
        (MINIMAL + "duration: 3ep\n", r"mine\.yaml is not valid YAML: the key 'duration' is there twice in line 4"),
        (MINIMAL + "optimizer:\n  lr: 0.1\n  momentum: 0.9\n  lr: 0.2\n", "key 'lr' is there twice in line 7"),
        ("extends: nowhere/none\n", "there is no recipe 'nowhere/none'"),
        ("model: {name: lenet300}\nduration: 1ep\n", "data is missing"),
        ("extends: digits/lenet300\nexclude: 3\n", "unknown key 'exclude'"),
    ],
)
def test_a_broken_file_is_one_clear_sentence(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected) as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_durations_count_steps() -> None:
    assert Duration.parse("160ep").steps(391) == 62_560
    assert Duration.parse("0.5ep").steps(100) == 50
    assert Duration.parse("5000it").steps(391) == 5000
    assert [str(Duration.parse(text)) for text in ("160ep", "0.5ep", "5000it", "12345678it")] == [
        "160ep",
        "0.5ep",
        "5000it",
        "12345678it",
    ]


def test_warmup_and_cosine_are_functions_of_the_step() -> None:
    recipe = load_recipe("digits/lenet300", ["schedule={name: cosine, warmup: 10it, floor: 0.1}"])
    rates = LearningRate(recipe.schedule, 110, 23)
    factors = [rates.factor(step) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "adagrad"])
def test_biases_and_norms_can_be_exempt_from_weight_decay(name: str) -> None:
    model = create_model("resnet20", num_classes=10)
    changes = [f"optimizer={name}", "optimizer.weight_decay=0.01"]
    everything = build_optimizer(model, load_recipe("cifar10/resnet20", changes).optimizer)
    assert [group["weight_decay"] for group in everything.param_groups] == [0.01]
    exempting = load_recipe("cifar10/resnet20", [*changes, "optimizer.decay_bias_and_norm=false"]).optimizer
    decayed, exempt = build_optimizer(model, exempting).param_groups
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (0.01, 0.0)
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in exempt["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_digests_stay_what_they_were() -> None:
    """They name run folders: another digest would train a finished run again."""
    known = {
        "digits/lenet300": "3bbda83c",
        "cifar10/resnet56/gsm-10x": "6cca0a7c",
        "imagenet/resnet50/rpg-90": "49255ccd",
    }
    assert {name: load_recipe(name).digest() for name in known} == known
    sparse = load_recipe("digits/lenet300", ["method=granet", "sparsity=0.5"])
    assert sparse.digest(3) == "08de60a9"


GREG = ["method=greg-1", "method.granularity=filter"]


def test_a_sparsity_may_be_ratios_by_pattern_or_stage() -> None:
    def sparsity(*values: str) -> Any:
        recipe = load_recipe("cifar10/resnet20", [*GREG, *(f"sparsity={value}" for value in values)])
        return recipe.resolved_stages()[0].sparsity

    assert sparsity("0.5") == 0.5
    assert sparsity("[0, 0.75, 0.75, 0.32, 0]") == [0, 0.75, 0.75, 0.32, 0]
    by_pattern = sparsity('{"stages.0.*": 0.5, "*": 0.25}')
    assert list(by_pattern.items()) == [("stages.0.*", 0.5), ("*", 0.25)]


def test_ratios_survive_the_file_in_the_run_folder(tmp_path: Path) -> None:
    recipe = load_recipe("cifar10/resnet20", [*GREG, 'sparsity={"stages.1.*": 0.5, "*": 0.25}'])
    again = load_recipe(write(tmp_path, yaml.safe_dump(recipe.resolved(), sort_keys=False)))
    assert again.digest() == recipe.digest()
    assert again.sparsity == recipe.sparsity


def test_the_order_of_patterns_counts() -> None:
    """The first that matches a layer decides, so that another order is another run."""
    orders = ('{"stages.1.*": 0.5, "*": 0.25}', '{"*": 0.25, "stages.1.*": 0.5}')
    first, second = (load_recipe("cifar10/resnet20", [*GREG, f"sparsity={order}"]) for order in orders)
    assert first.digest() != second.digest()


def test_ratios_of_a_stage_replace_those_that_it_inherits() -> None:
    text = MINIMAL + (
        "method: {name: greg-1, granularity: filter}\nsparsity: {fc1: 0.5}\nstages: [{sparsity: {fc2: 0.25}}, {}]"
    )
    tree = parse_yaml(text)
    first, second = Recipe.model_validate(tree).resolved_stages()
    assert (first.sparsity, second.sparsity) == ({"fc2": 0.25}, {"fc1": 0.5})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([*GREG, "sparsity=[0, 1.5, 0]"], ["sparsity[1]", "[0, 1)", "1.5"]),
        ([*GREG, "sparsity=[0, high, 0]"], ["sparsity[1]", "number", "'high'"]),
        ([*GREG, "sparsity=[0.5]"], ["list", "stem", "classifier"]),
        ([*GREG, "sparsity=[0.5, 0.5]"], ["number in [0, 1)", "list", "mapping", "[0.5, 0.5]"]),
        ([*GREG, "sparsity={}"], ["sparsity", "empty"]),
        ([*GREG, 'sparsity={"fc1": -1}'], ["sparsity['fc1']", "[0, 1)"]),
        ([*GREG, "sparsity=many"], ["sparsity", "number in [0, 1)", "list", "mapping", "'many'"]),
        (["method=set", 'sparsity={"fc1": 0.5}'], ["set", "one number", "{fc1: 0.5}", "greg-1"]),
        ([*GREG, "sparsity=0.5", "duration=always"], ["duration", "160ep"]),
        (["duration=auto"], ["auto", "greg-1", "dense"]),
        (["sparsity=[0, 0.5, 0]"], ["[0, 0.5, 0]", "dense"]),
    ],
)
def test_ratios_and_lengths_that_cannot_be_used(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits/lenet300", overrides)
    assert all(word in str(caught.value) for word in words), caught.value
