"""Of a repository of several models: which one answers, and which must be there for it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.triton_repository import (
    ENSEMBLE,
    MAX_NESTING,
    ModelFacts,
    Served,
    Step,
    model_folders,
    served_of,
)

FILES = (
    "fraud/config.pbtxt",
    "features/1/model.onnx",
    "score/config.pbtxt",
    "score/3/model.onnx",
    "score/12/model.onnx",
)


def ensemble(*steps: str | Step) -> ModelFacts:
    return ModelFacts(ENSEMBLE, steps=tuple(step if isinstance(step, Step) else Step(step) for step in steps))


FRAUD = ensemble("features", "score")


def served(files: tuple[str, ...] = FILES, named: str = "", **facts: ModelFacts) -> Served:
    found = served_of(files, facts or {"fraud": FRAUD}, named)
    assert found is not None
    return found


def refusal(files: tuple[str, ...] = FILES, named: str = "", facts: Mapping[str, ModelFacts] | None = None) -> str:
    with pytest.raises(Invalid) as refused:
        served_of(files, {"fraud": FRAUD} if facts is None else facts, named)
    return f"{refused.value.message} ({refused.value.hint})"


def test_models_are_folders_with_a_configuration_or_a_numbered_graph_and_their_versions_are_numbers() -> None:
    assert model_folders((*FILES, "README.md", "score/labels.txt", "score/07/model.onnx", "score/3/w/part.bin")) == {
        "features": (1,),
        "fraud": (),
        "score": (3, 12),
    }
    assert model_folders(["models/2024/1/model.onnx", "models/2024/config.pbtxt"]) == {"models/2024": (1,)}


@pytest.mark.parametrize("files", [(), ("m.onnx", "w.bin"), ("config.pbtxt", "1/model.onnx"), ("1/model.onnx",)])
def test_a_file_and_a_models_own_folder_are_no_repository(files: tuple[str, ...]) -> None:
    assert model_folders(files) == {}
    assert served_of(files, {}, "") is None


def test_the_ensemble_answers_and_its_parts_are_there_in_their_newest_versions() -> None:
    found = served()
    assert (found.top.name, found.top.version, found.top.is_ensemble) == ("fraud", 1, True)
    assert [(part.name, part.version) for part in found.parts] == [("features", 1), ("score", 12)]
    assert found.graphs == ("features/1/model.onnx", "score/12/model.onnx")


def test_or_in_those_that_its_steps_name() -> None:
    found = served(fraud=ensemble("features", Step("score", 3)))
    assert found.graphs == ("features/1/model.onnx", "score/3/model.onnx")


def test_a_graph_may_be_called_as_its_configuration_says() -> None:
    files = ("all/config.pbtxt", "score/config.pbtxt", "score/1/net.onnx")
    facts = {"all": ensemble("score"), "score": ModelFacts(file="net.onnx")}
    assert served(files, **facts).graphs == ("score/1/net.onnx",)
    assert "'score/1/net.bin' is no .onnx file of it" in refusal(
        (*files, "score/1/net.bin"), facts={**facts, "score": ModelFacts(file="net.bin")}
    )


def test_a_repository_may_lie_deeper_and_models_elsewhere_are_none_of_its() -> None:
    files = tuple(f"models/{path}" for path in FILES)
    found = served_of((*files, "more/features/1/model.onnx"), {"models/fraud": FRAUD}, "")
    assert found is not None
    assert found.graphs == ("models/features/1/model.onnx", "models/score/12/model.onnx")


def test_of_ensembles_that_lead_to_others_the_one_on_top_answers_and_each_part_is_there_once() -> None:
    facts = {"fraud": FRAUD, "all": ensemble("fraud", "score", "fraud")}
    found = served((*FILES, "all/config.pbtxt"), **facts)
    assert found.top.name == "all"
    assert [part.name for part in found.parts] == ["features", "score", "fraud"]


def test_of_several_on_top_one_must_be_named() -> None:
    files, facts = (*FILES, "other/config.pbtxt"), {"fraud": FRAUD, "other": ensemble("score")}
    assert refusal(files, facts=facts) == (
        "there are 2 ensembles, of which none is a part of another: fraud, other "
        "(choose one, such as triton: {mode: managed, model: fraud})"
    )
    assert served(files, "other", **facts).graphs == ("score/12/model.onnx",)


def test_a_graph_can_be_named_as_well_and_has_no_parts() -> None:
    found = served(named="score")
    assert (found.graphs, found.parts, found.top.is_ensemble) == (("score/12/model.onnx",), (), False)


def test_without_an_ensemble_and_a_name_none_is_chosen_here() -> None:
    assert served_of(FILES, {}, "") is None


def test_a_name_that_nobody_or_several_have_is_refused() -> None:
    assert refusal(named="scores") == "there is no model 'scores' (it has features, fraud, score)"
    assert "it is no repository of several models" in refusal(("1/model.onnx",), "score")
    assert "there are 2 models 'score': more/score, score" in refusal((*FILES, "more/score/1/model.onnx"), "score")


def test_a_step_that_is_missing_is_told_with_the_ensemble_that_wants_it() -> None:
    assert refusal(facts={"fraud": ensemble("features", "scores")}) == (
        "the ensemble 'fraud' leads to 'scores', and no such model is beside it (there are features, fraud, score)"
    )
    for elsewhere in ("../score", "", "/", "."):
        assert "no such model" in refusal(facts={"fraud": ensemble(elsewhere)})
    assert "asks for version 4 of 'score' (it has 3, 12)" in refusal(facts={"fraud": ensemble(Step("score", 4))})
    assert "'fraud' has no steps" in refusal(facts={"fraud": ensemble()})


def test_ensembles_that_lead_to_themselves_are_told_with_the_way() -> None:
    files = tuple(f"{name}/config.pbtxt" for name in ("a", "b", "c"))
    facts = {"a": ensemble("b"), "b": ensemble("c"), "c": ensemble("a")}
    assert refusal(files, facts=facts).startswith("ensembles lead to themselves: a → b → c → a")
    assert refusal(files, "b", facts).startswith("ensembles lead to themselves: b → c → a → b")
    assert refusal(("a/config.pbtxt",), facts={"a": ensemble("a")}).startswith("ensembles lead to themselves: a → a")


def test_a_chain_of_ensembles_has_an_end() -> None:
    names = [f"e{number}" for number in range(5_000)]
    facts = {name: ensemble(after) for name, after in zip(names, [*names[1:], "score"], strict=True)}
    files = (*FILES, *(f"{name}/config.pbtxt" for name in names))
    assert f"more than {MAX_NESTING} ensembles lead from one to the next" in refusal(files, "e0", facts)


def test_a_part_is_walked_once_however_many_ways_lead_to_it() -> None:
    names = [f"e{number}" for number in range(MAX_NESTING)]
    facts = {
        name: ensemble(*[after] * 50) for name, after in zip(names, [*names[1:], "score"], strict=True)
    }  # 50^16 ways
    files = (*FILES, *(f"{name}/config.pbtxt" for name in names))
    assert len(served(files, **facts).parts) == MAX_NESTING


def test_a_part_in_two_versions_is_refused() -> None:
    assert "'score' is asked for in versions 12 and 3" in refusal(facts={"fraud": ensemble("score", Step("score", 3))})


def test_code_is_refused_whatever_is_allowed_elsewhere() -> None:
    told = refusal(facts={"fraud": FRAUD, "score": ModelFacts("python")})
    assert "'score' is for Triton's backend 'python'" in told
    assert "a model's own code never runs" in told


@pytest.mark.parametrize("name", ["*", "a b", "-x", "ä", "a?b", "a%2f"])
def test_a_name_that_cannot_stand_in_a_path_or_means_more_than_one_model_is_refused(name: str) -> None:
    assert "cannot stand in a path" in refusal((*FILES, f"{name}/1/model.onnx"), facts={"fraud": ensemble(name)})


def test_a_model_without_a_version_is_refused() -> None:
    assert "'score' has no version (put it at score/1/model.onnx)" in refusal(
        ("fraud/config.pbtxt", "score/config.pbtxt"), facts={"fraud": ensemble("score")}
    )


names = st.sampled_from(["a", "b", "c", "d", "e"])


@given(st.dictionaries(names, st.lists(names, max_size=3)), names)
def test_whatever_a_repository_says_parts_come_after_what_they_lead_to_or_it_is_refused(
    steps: dict[str, list[str]], named: str
) -> None:
    files = [f"{name}/1/model.onnx" for name in "abcde"]
    try:
        found = served_of(files, {name: ensemble(*lead_to) for name, lead_to in steps.items()}, named)
    except Invalid:
        return
    assert found is not None
    there: list[str] = []
    for member in (*found.parts, found.top):
        assert member.name not in there
        assert {step.model for step in member.facts.steps} <= set(there)
        there.append(member.name)
