"""Models of the user's own and of timm: what they are given, take and return."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from own_package import package
from torch import Tensor, nn

from raydrop.data.inputs import InputSpec
from raydrop.errors import ConfigError
from raydrop.models import Head, as_spec, build_model, head_of, untried_model
from raydrop.models.adapter import Adapted, adapted, logits_in
from raydrop.study.catalogue import bring

__all__ = ["package"]

IMAGES = as_spec((3, 8, 8))
FEATURES = InputSpec(((5,),), (torch.float32,))
WORDS = InputSpec(((7,), (7,)), (torch.int64,) * 2, ("input_ids", "attention_mask"))
PAIR = InputSpec(((4,), (3,)), (torch.float32,) * 2, None, is_tuple=True)


class Words(nn.Module):
    """Logits of token ids, in a dict with other things, as models of Hugging Face have them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.head = nn.Linear(6, num_classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Any]:
        words = self.table(input_ids)
        if attention_mask is not None:
            words = words * attention_mask[..., None]
        return {"loss": None, "logits": self.head(words.mean(1))}


class Two(nn.Module):
    def __init__(self, num_classes: int, input_shape: tuple[tuple[int], tuple[int]]) -> None:
        super().__init__()
        (first,), (second,) = input_shape
        self.first, self.second = nn.Linear(first, num_classes), nn.Linear(second, num_classes)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.first(first) + self.second(second)  # type: ignore[no-any-return]


def test_sizes_are_given_to_those_that_ask() -> None:
    asked: list[dict[str, Any]] = []

    def net(num_classes: int, image_shape: Any, in_chans: int, input_shape: Any) -> nn.Module:
        asked.append({"k": num_classes, "i": image_shape, "c": in_chans, "s": input_shape})
        return nn.Sequential(nn.Flatten(), nn.Linear(192, num_classes))

    def few(in_features: int) -> nn.Module:
        return nn.Linear(in_features, 4)

    build_model(bring("model", net), 4, IMAGES)
    assert {"k": 4, "i": (3, 8, 8), "c": 3, "s": (3, 8, 8)} in asked
    assert build_model(bring("model", few), 4, FEATURES).in_features == 5
    with pytest.raises(ConfigError, match="missing 1 required positional argument: 'in_features'"):
        build_model(bring("model", few), 4, IMAGES)


def test_arguments_of_the_user_come_first(package: object) -> None:
    with pytest.raises(ConfigError, match=r"to return 10 numbers for each sample.* found 4"):
        build_model("mypkg.net:SignNet(num_classes=4)", 10, IMAGES)
    assert build_model("mypkg.net:SignNet(4)", 4, IMAGES)
    assert build_model("mypkg.net:Mlp", 4, FEATURES)(torch.zeros(2, 5)).shape == (2, 4)


def test_a_name_of_torchvision_keeps_its_meaning() -> None:
    def resnet34(num_classes: int) -> nn.Module:
        return nn.Linear(5, num_classes)

    name = bring("model", resnet34)
    with pytest.raises(ConfigError, match="that torchvision has none by, found 'resnet34'"):
        build_model(name, 4, FEATURES)


def test_a_plain_module_is_not_wrapped() -> None:
    model = nn.Linear(5, 4)
    assert adapted(model, FEATURES, 4) is model
    built = build_model(bring("model", Two), 4, PAIR)
    assert isinstance(built, Adapted)
    first, second = torch.randn(3, 4), torch.randn(3, 3)
    assert torch.equal(built((first, second)), built.module(first, second))


def test_dicts_go_by_name_and_logits_are_found() -> None:
    model = build_model(bring("model", Words), 4, WORDS)
    ids, mask = torch.randint(20, (3, 7)), torch.ones(3, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    logits = model({"attention_mask": mask, "input_ids": ids})
    assert torch.equal(logits, model.module(ids, mask)["logits"])  # type: ignore[operator]
    assert head_of(bring("model", Words), 4, WORDS) == Head("module.head", True)
    with pytest.raises(TypeError, match="token_types"):
        model({"input_ids": ids, "token_types": ids})


def test_a_forward_that_takes_the_whole_dict_gets_it() -> None:
    class Whole(Words):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(**batch)["logits"]  # type: ignore[no-any-return]

    assert adapted(Whole(4), WORDS, 4)(WORDS.zeros(2)).shape == (2, 4)


def test_where_the_logits_are_may_be_said() -> None:
    class Scores(nn.Linear):
        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
            return x, {"scores": super().forward(x)}

    found = adapted(Scores(5, 4), FEATURES, 4, lambda outputs: outputs[1]["scores"])
    assert found(torch.zeros(3, 5)).shape == (3, 4)
    assert logits_in({"scores": torch.zeros(1)}, "scores").shape == (1,)
    with pytest.raises(ConfigError, match=r"found a tuple of 2; wrap it .* output= where"):
        adapted(Scores(5, 4), FEATURES, 4)
    with pytest.raises(ConfigError, match="found a dict of scores"):
        logits_in({"scores": torch.zeros(1)})


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (lambda x: x.sum(1), "a row of real numbers for each of 2 samples, found float32 of shape"),
        (lambda x: x.long(), "found int64 of shape"),
        (lambda x: x[:1], r"found float32 of shape \(1, 5\)"),
        (lambda _: None, "found a NoneType"),
        (lambda x: x @ torch.zeros(4, 4), "to take inputs 5, found RuntimeError: mat1"),
    ],
)
def test_what_is_no_logits_is_refused(output: Any, expected: str) -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            return output(x)

    with pytest.raises(ConfigError, match=expected):
        adapted(Odd(5, 5), FEATURES, 5)


def test_trying_a_model_leaves_it_as_it_is() -> None:
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 4))
    model[0].eval()
    state = torch.get_rng_state()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapted(model, FEATURES, 4)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_last_layer_counts_only_where_the_logits_are_its_own() -> None:
    def scaled(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, num_classes), nn.LogSoftmax(1))

    class Early(nn.Module):
        """Whose last layer in the order of its modules is not the last that is called."""

        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(6, num_classes), nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))  # type: ignore[no-any-return]

    def plain(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Linear(5, 6), nn.Linear(6, num_classes))

    heads = [head_of(bring("model", net), 4, FEATURES) for net in (scaled, Early, plain)]
    assert heads == [Head("0", False), Head("head", False), Head("1", True)]


def test_raydrops_own_models_say_what_they_take() -> None:
    assert build_model("linear", 4, FEATURES)(torch.zeros(2, 5)).shape == (2, 4)
    for name, spec in (("small_cnn", FEATURES), ("resnet34", WORDS), ("timm:resnet18", WORDS)):
        with pytest.raises(ConfigError, match=f"Expected images for {name}, found inputs"):
            head_of(name, 4, spec)
    with pytest.raises(ConfigError, match="one tensor of real numbers for linear, found inputs"):
        head_of("linear", 4, WORDS)


def test_torchvisions_own_form_goes_by_its_prefix() -> None:
    own = untried_model("resnet18", 4, IMAGES, data=False)
    theirs = untried_model("torchvision:resnet18", 4, IMAGES, data=False)
    assert own.conv1.kernel_size == (3, 3) != theirs.conv1.kernel_size  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "side"), [("vit_tiny_patch16_224", 32), ("resnet18", 32), ("convnext_atto", 64)]
)
def test_models_of_timm_fit_classes_channels_and_sizes(name: str, side: int) -> None:
    torch.manual_seed(3)
    model = build_model(f"timm:{name}", 4, (1, side, side))
    assert model.training
    assert model.eval()(torch.zeros(2, 1, side, side)).shape == (2, 4)
    torch.manual_seed(3)
    again = build_model(f"timm:{name}", 4, (1, side, side))
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    blank = untried_model(f"timm:{name}", 4, (1, side, side), data=False)
    assert {p.device.type for p in blank.parameters()} == {"meta"}
    assert {k: v.shape for k, v in blank.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize("name", ["timm:hf_hub:any/model", "timm:local-dir:/tmp", "timm:resnet19"])
def test_timm_fetches_nothing_that_others_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^Unknown model of timm"):
        head_of(name, 4, IMAGES)


def test_without_timm_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"pip install 'raydrop\[timm\]'"):
        untried_model("timm:resnet18", 4, IMAGES, data=True)
