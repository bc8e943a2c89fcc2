"""Recipes: settings that come with a choice of method, shares of a duration, published numbers, kept checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsewright.training import RecipeError, load_recipe, train
from sparsewright.training.checkpoint import load_checkpoint
from sparsewright.training.folder import RunFolderError
from sparsewright.training.kept_checkpoints import kept_checkpoint

BASE = """
data: {name: digits, batch_size: 64}
model: {name: lenet300}
duration: 8ep
optimizer: {name: sgd, lr: 0.1}
by_method:
  gsm:
    method: {exclude: fc3.weight}
    optimizer: {momentum: 0.98}
    stages:
      - {method: dense, duration: 25%}
      - {duration: 75%}
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_choice_of_method_brings_its_settings(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", BASE)
    dense, gsm = load_recipe(base), load_recipe(base, ["method=gsm", "sparsity=0.9", "method.include=fc*"])
    assert [(stage.method.name, str(stage.duration)) for stage in dense.resolved_stages()] == [("dense", "8ep")]
    assert [(s.method.name, str(s.duration)) for s in gsm.resolved_stages()] == [("dense", "2ep"), ("gsm", "6ep")]
    assert gsm.method.options == {"exclude": "fc3.weight", "include": "fc*"}
    assert (dense.optimizer.model_dump()["momentum"], gsm.optimizer.model_dump()["momentum"]) == (0.0, 0.98)


def test_what_the_user_says_wins_over_what_comes_with_the_method(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", BASE)
    overrides = ["method=gsm", "sparsity=0.9", "stages.0.duration=1ep", "optimizer.momentum=0.9", "duration=4ep"]
    recipe = load_recipe(base, overrides)
    assert [str(stage.duration) for stage in recipe.resolved_stages()] == ["1ep", "3ep"]
    assert recipe.optimizer.model_dump()["momentum"] == 0.9


def test_a_file_that_chooses_its_method_does_without_and_others_inherit(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", BASE)
    own = write(tmp_path, "own.yaml", "extends: base.yaml\nmethod: gsm\nsparsity: 0.9\n")
    child = write(tmp_path, "child.yaml", "extends: base.yaml\noptimizer: {momentum: 0.95}\n")
    assert len(load_recipe(own).resolved_stages()) == 1
    inherited = load_recipe(child, ["method=gsm", "sparsity=0.9"])
    assert len(inherited.resolved_stages()) == 2
    assert inherited.optimizer.model_dump()["momentum"] == 0.95, "the file has the last word over what it extends"


def test_the_saved_recipe_says_what_was_trained(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", BASE)
    recipe = load_recipe(base, ["method=gsm", "sparsity=0.9"])
    import yaml

    saved = write(tmp_path, "saved.yaml", yaml.safe_dump(recipe.resolved()))
    assert load_recipe(saved).digest() == recipe.digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("by_method: {gsmm: {}}", "unknown method 'gsmm' in by_method; did you mean 'gsm'"),
        ("by_method: [gsm]", "by_method maps names of methods to settings"),
        ("by_method: {gsm: 3}", "by_method.gsm must be a mapping of settings, got 3"),
        ("by_method: {gsm: {method: 3}}", "by_method.gsm.method must be a mapping of options, got 3"),
        ("published: [{accuracy: 0.98, source: a paper}]", "greater than 1"),
        ("published: [{acuracy: 98, source: a paper}]", "unknown key 'published.0.acuracy'; did you mean 'accuracy'"),
        ("by_method: {gsm: {method: rigl}}", "by_method.gsm chooses another method"),
        ("by_method: {gsm: {extends: mnist/lenet300}}", "by_method.gsm cannot set extends"),
        ("stages: [{duration: 0%}]", "written as 50%, above 0% and up to 100%, got '0%'"),
        ("stages: [{duration: 150%}]", "written as 50%, above 0% and up to 100%"),
        ("duration: 50%", "a duration is written as 160ep"),
        ("published: [{accuracy: 99}]", "source is missing"),
        ("published: [{accuracy: 990, source: a paper}]", "less than or equal to 100"),
    ],
)
def test_what_cannot_be_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, "wrong.yaml", f"extends: digits/lenet300\n{text}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert message in str(caught.value)


def test_settings_by_method_are_no_override() -> None:
    with pytest.raises(RecipeError, match="by_method belongs into a recipe file"):
        load_recipe("digits/lenet300", ["by_method.gsm.duration=1ep"])


def test_published_numbers_are_found_by_method_and_sparsity_and_count_in_no_digest(tmp_path: Path) -> None:
    numbers = (
        "published: [{accuracy: 94.75, source: a paper, method: dense},"
        " {accuracy: 94.4, source: a paper, method: granet, sparsity: 0.95}]"
    )
    with_numbers = write(tmp_path, "with.yaml", f"extends: digits/lenet300\n{numbers}\n")
    recipe = load_recipe(with_numbers, ["method=granet", "sparsity=0.95"])
    assert recipe.digest() == load_recipe("digits/lenet300", ["method=granet", "sparsity=0.95"]).digest()
    found = recipe.published_for("granet", 0.95)
    assert found is not None
    assert (found.accuracy, found.source, found.changed) == (94.4, "a paper", ())
    assert recipe.published_for("granet", 0.9) is None
    assert recipe.published_for("rigl", 0.95) is None
    dense = recipe.published_for("dense", None)
    assert dense is not None
    assert dense.accuracy == 94.75
    shorter = load_recipe(with_numbers, ["method=granet", "sparsity=0.95", "duration=2ep"]).published_for(
        "granet", 0.95
    )
    assert shorter is not None
    assert shorter.changed == ("duration",)
    same = load_recipe(with_numbers, ["method=granet", "sparsity=0.95", "duration=40ep"]).published_for("granet", 0.95)
    assert same is not None
    assert same.changed == (), "the recipe has 40 epochs"
    child = write(tmp_path, "child.yaml", "extends: with.yaml\n")
    assert load_recipe(child).published == ()


def test_a_published_number_that_names_no_sparsity_says_when_ours_is_another() -> None:
    name = "mnist/lenet300/gsm-ticket-60x"
    own, other = (
        load_recipe(name).published_for("gsm", 0.98),
        load_recipe(name, ["sparsity=0.5"]).published_for("gsm", 0.5),
    )
    assert own is not None
    assert other is not None
    assert (own.changed, other.changed) == ((), ("sparsity",))


def test_checkpoints_in_the_middle_are_kept(tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", ["duration=3ep"])
    train(recipe, out=tmp_path / "run", keep=[23, 46], quiet=True)
    for step in (23, 46):
        kept = load_checkpoint(kept_checkpoint(tmp_path / "run", step))
        assert kept["progress"]["total_steps"] == step
        assert kept["optimizer"]["state"]
        stopped = train(recipe, out=tmp_path / f"stop{step}", stop=step, quiet=True)
        assert stopped["steps"] == step
        from safetensors.torch import load_file

        weights = load_file(tmp_path / f"stop{step}" / "model.safetensors")
        assert all(torch.equal(kept["model"][name], value) for name, value in weights.items())
    train(recipe, out=tmp_path / "run", keep=[23], resume=True, quiet=True)
    with pytest.raises(ValueError, match="multiple of 23 steps below 69, not after step 24"):
        train(recipe, out=tmp_path / "other", keep=[24], quiet=True)
    with pytest.raises(TypeError, match="keep must be an int"):
        train(recipe, out=tmp_path / "other", keep=[23.0], quiet=True)  # pyright: ignore[reportArgumentType]
    stages = "stages=[{duration: 1ep}, {kind: prune, sparsity: 0.5}, {duration: 1ep}]"
    with pytest.raises(RecipeError, match="kept of a recipe of one train stage that begins at step 0; it has stages"):
        train(load_recipe("digits/lenet300", [stages]), out=tmp_path / "other", keep=[23], quiet=True)
    with pytest.raises(RunFolderError, match="past step 23 and did not keep its checkpoint"):
        train(recipe, out=tmp_path / "stop46", stop=46, keep=[23], resume=True, quiet=True)
