"""Saved networks come back as they were, exported ones compute the same, and damage is said."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_cases import SHORT
from torch import Tensor, nn

from raydrop.data.batches import PreparedData, make_batches
from raydrop.errors import ConfigError, NetworkError, RaydropError
from raydrop.models import build_model
from raydrop.network import METHODS, network_rule, saving
from raydrop.network.base import PruningTask, Step, parse_target
from raydrop.network.measure import network_size
from raydrop.network.saving import (
    NetworkSpec,
    export_network,
    load_network,
    network_entry,
    network_of,
    save_network,
    skeleton,
)
from raydrop.store import Store

SHAPE = (3, 32, 32)


def spec_of(model: str, classes: int = 10, shape: tuple[int, int, int] = SHAPE) -> NetworkSpec:
    names = tuple(f"class {k}" for k in range(classes))
    mean, std = (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.3, 0.1)[: shape[0]]
    return NetworkSpec(model, classes, shape, names, mean, std, facts={"seed": 3})


def network(spec: NetworkSpec, seed: int = 0) -> nn.Module:
    """A network in eval mode whose BatchNorm statistics are those of some images."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(spec.model, spec.num_classes, spec.image_shape)
        settled(model, spec.image_shape)
    return model.eval()


@torch.no_grad()
def settled(model: nn.Module, shape: tuple[int, int, int]) -> None:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.randn(8, *shape))
    for norm in norms:
        norm.momentum = 0.1


def images(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model: nn.Module, batch: Tensor) -> Tensor:
    result: Tensor = model(batch)
    return result


def masked(spec: NetworkSpec) -> nn.Module:
    """Nine in ten weights of every convolution and linear layer are zero."""
    return pruned(spec, "unstructured_magnitude", "0.9")[0]


def pruned(
    spec: NetworkSpec, method: str = "random", target: str = "0.5"
) -> tuple[nn.Module, NetworkSpec]:
    """A network with about half of its size gone, and the specification that says so."""
    model = network(spec)
    rule = network_rule(SHORT.get(method, method)).make()
    task = PruningTask(
        model=model,
        image_shape=spec.image_shape,
        target=parse_target(target, structured=rule.structured),
        dense=network_size(model, spec.image_shape),
        steps=lambda count: (step(seed, spec) for seed in range(count)),
        loss=lambda logits, step: nn.functional.cross_entropy(logits, step.labels),
        seed=0,
    )
    result = rule.prune(task)
    spec = dataclasses.replace(spec, channels=result.channels, network_method=method)
    return result.model.eval(), spec


def step(seed: int, spec: NetworkSpec) -> Step:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(spec.num_classes, (8,), generator=generator)
    return Step(torch.randn(8, *spec.image_shape, generator=generator), labels, labels)


# Files.


def test_a_saved_network_comes_back_as_it_was(tmp_path: Path) -> None:
    spec = spec_of("resnet56")
    model = network(spec)
    save_network(tmp_path / "net.raydrop", spec, model)
    before = torch.random.get_rng_state()
    loaded, found = load_network(tmp_path / "net.raydrop")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found == spec
    assert not loaded.training
    for (key, value), (other, expected) in zip(
        loaded.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert key == other
        assert value.dtype == expected.dtype
        assert torch.equal(value, expected)
    assert torch.equal(logits(loaded, images(3)), logits(model, images(3)))


def test_a_pruned_network_comes_back_with_its_channels(tmp_path: Path) -> None:
    model, spec = pruned(spec_of("resnet56"))
    save_network(tmp_path / "pruned", spec, model)
    loaded, found = load_network(tmp_path / "pruned")
    assert found == spec
    assert network_size(loaded, SHAPE) == network_size(model, SHAPE)
    assert network_size(loaded, SHAPE).macs < 0.6 * network_size(network(spec), SHAPE).macs
    assert torch.equal(logits(loaded, images(3)), logits(model, images(3)))


def test_what_every_method_leaves_can_be_saved_and_kept(tmp_path: Path) -> None:
    batch = images(3, (1, 8, 8))
    for method in METHODS:
        model, spec = pruned(spec_of("small_cnn", shape=(1, 8, 8)), method)
        assert bool(spec.channels) == network_rule(method).make().structured
        save_network(tmp_path / "net", spec, model)
        info, arrays = network_entry(spec, model)
        for loaded, found in (
            load_network(tmp_path / "net"),
            network_of(Store(tmp_path).write("network", {"by": method}, info, arrays)),
        ):
            assert found == spec
            assert torch.equal(logits(loaded, batch), logits(model, batch))
            assert network_size(loaded, (1, 8, 8)) == network_size(model, (1, 8, 8))


def test_channels_of_another_network_are_refused(tmp_path: Path) -> None:
    model, spec = pruned(spec_of("small_cnn"))
    with pytest.raises(NetworkError, match=r"features.0.0.weight in .* the shape 16x3x3x3, found"):
        save_network(tmp_path / "net", dataclasses.replace(spec, channels={}), model)
    wider = {"layers": {"head": {"in": {"of": 64, "kept": [0, 1]}}}}
    with pytest.raises(NetworkError, match="use the channel map that belongs to this network"):
        save_network(tmp_path / "net", dataclasses.replace(spec, channels=wider), model)


def test_the_same_network_is_the_same_file(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_network(tmp_path / name, spec, network(spec, seed))
    contents = [(tmp_path / name).read_bytes() for name in "abc"]
    assert contents[0] == contents[1] != contents[2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_a_file_holds_json_and_arrays_alone(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    save_network(tmp_path / "net", spec, network(spec))
    with zipfile.ZipFile(tmp_path / "net") as archive:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".npy"):
                np.load(io.BytesIO(content), allow_pickle=False)
            else:
                assert json.loads(content)["network"]["class_names"] == list(spec.class_names)


def test_masked_weights_are_saved_as_zeros_that_take_no_room(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    model = masked(spec)
    save_network(tmp_path / "masked", spec, model)
    save_network(tmp_path / "dense", spec, network(spec))
    loaded, _ = load_network(tmp_path / "masked")
    assert torch.equal(logits(loaded, images(3)), logits(model, images(3)))
    assert network_size(loaded, SHAPE) == network_size(model, SHAPE)
    assert (tmp_path / "masked").stat().st_size < (tmp_path / "dense").stat().st_size / 2


def test_images_are_normalised_as_in_training(digits: PreparedData) -> None:
    spec = NetworkSpec.of_data(digits, "small_cnn")
    assert (spec.num_classes, spec.image_shape) == (10, (1, 8, 8))
    positions = torch.arange(40)
    (batch,) = make_batches(digits, digits.dataset.test, torch.device("cpu"))([positions])
    pixels = torch.from_numpy(digits.dataset.test.inputs.pixels[:40])  # type: ignore[union-attr]
    assert torch.equal(spec.normalised(pixels), batch.inputs)


def test_trained_weights_are_not_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refused)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    # Trained weights go into the form for large images, whose stem is a 7x7 convolution.
    for name, side in (("resnet18:imagenet", 7), ("resnet18", 3)):
        assert skeleton(spec_of(name), data=False).conv1.weight.shape == (64, 3, side, side)
    assert skeleton(spec_of("googlenet:imagenet"), data=False).transform_input is True
    spec = spec_of("squeezenet1_1:imagenet")
    model = build_model("squeezenet1_1", 10, SHAPE).eval()
    save_network(tmp_path / "net", spec, model)
    loaded, _ = load_network(tmp_path / "net")
    assert torch.equal(logits(loaded, images(2)), logits(model, images(2)))


# Entries of the store.


def test_a_network_travels_through_the_store(tmp_path: Path) -> None:
    spec = dataclasses.replace(
        spec_of("small_cnn"), network_method="x", network_target="flops(0.5)"
    )
    for model in (network(spec), masked(spec)):
        info, arrays = network_entry(spec, model)
        entry = Store(tmp_path).write(
            "network", {"weights": network_size(model, SHAPE).weights}, info, arrays
        )
        loaded, found = network_of(entry)
        assert found == spec
        assert not loaded.training
        assert torch.equal(logits(loaded, images(3)), logits(model, images(3)))


def test_an_entry_of_another_architecture_is_refused(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    info, arrays = network_entry(spec, network(spec))
    wider = [[name, [2 * n for n in shape]] for name, shape in info["state"]]
    entry = Store(tmp_path).write("network", {}, info | {"state": wider}, arrays)
    with pytest.raises(NetworkError, match="in the stored network to have the shape 16x3x3x3, fou"):
        network_of(entry)


# What does not fit.


def test_a_network_of_another_architecture_is_not_saved(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    for model, message in (
        (network(spec_of("small_cnn", 7)), "head.weight in .* the shape 10x32, found 7x32; use"),
        (network(spec_of("linear")), "Expected features.0.0.weight in .* found none; use"),
        (nn.Sequential(), "Expected features.0.0.weight in the network to be saved, found none"),
    ):
        with pytest.raises(NetworkError, match=message):
            save_network(tmp_path / "net", spec, model)
    assert not list(tmp_path.iterdir())


def rewritten(path: Path, changes: dict[str, bytes | None]) -> None:
    """Replace members of an archive, or remove those for which there is None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, **changes}.items():
            if content is not None:
                archive.writestr(name, content)


def array_bytes(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(path: Path, **changes: object) -> bytes:
    with zipfile.ZipFile(path) as archive:
        values = json.loads(archive.read("model.json"))
    for name, value in changes.items():
        (values if name in values else values["network"])[name] = value
    return json.dumps(values).encode()


HEAD = "state/head.weight.npy"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "Expected version 1 of a saved network in .*, found 2; use the version"),
        ({"format": "other"}, "found ValueError: model.json of something else; save it anew"),
        ({"network": []}, "found ValueError: model.json of something else; save it anew"),
        ({"model": "resnet57"}, "problem with 'resnet57' .*did you mean resnet56.*; use the v"),
        ({"model": "vgg16"}, "Expected features.1.0.weight in .* found none; use the model"),
        ({"model": "linear"}, "have the shape 10x3072, found 10x32|Expected only what .* found fe"),
        ({"num_classes": 9}, "class_names of a network to be 9, found 10"),
        ({"num_classes": "10"}, "num_classes '10' where count is right"),
        ({"mean": [0.5]}, "mean of a network to be 3, found 1"),
        ({"std": [0.5, 0.1, 0]}, "std of a network to be 3 positive numbers, found"),
        (
            {"channels": {"layers": {"head": {}, "neck": {}}}},
            "a module neck, found none; use the ch",
        ),
        ({"channels": {"layers": {"head": {"out": []}}}}, "a problem with 'small_cnn' .TypeError"),
        ({"channels": []}, "channels .* where object is right"),
        ({"image_shape": None}, "the description of a network, found a problem"),
    ],
)
def test_a_header_that_does_not_fit_is_one_sentence(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path, spec = tmp_path / "net", spec_of("small_cnn")
    save_network(path, spec, network(spec))
    rewritten(path, {"model.json": header(path, **changes)})
    with pytest.raises(NetworkError, match=message) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.json": None}, "found KeyError: .*model.json.*; save it anew"),
        ({"model.json": b"{"}, "found JSONDecodeError: "),
        ({HEAD: None}, "Expected head.weight in .*net, found none; use the model and channels"),
        ({"state/extra.npy": array_bytes(np.zeros(2))}, "the architecture has in .* found extra"),
        ({HEAD: array_bytes(np.zeros((10, 31)))}, "the shape 10x32, found 10x31; use the model"),
        ({HEAD: array_bytes(np.array([{}]))}, "found ValueError: no array of numbers that NumPy"),
        ({HEAD: array_bytes(np.array(["a"]))}, "head.weight.npy is no array of numbers"),
        ({HEAD: array_bytes(np.zeros((10, 32)))[:-1]}, "found ValueError: "),
        ({HEAD: array_bytes(np.zeros((10, 32))) + b"x"}, "head.weight.npy is no array of numbers"),
        ({HEAD: b"no array"}, "found ValueError: "),
    ],
)
def test_members_that_do_not_fit_are_one_sentence(
    changes: dict[str, bytes | None], message: str, tmp_path: Path
) -> None:
    path, spec = tmp_path / "net", spec_of("small_cnn")
    save_network(path, spec, network(spec))
    rewritten(path, changes)
    with pytest.raises(NetworkError, match=message) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


def test_no_byte_can_change_unnoticed_and_no_end_can_be_missing(tmp_path: Path) -> None:
    path, spec = tmp_path / "net", spec_of("linear", 2, (1, 2, 2))
    model = network(spec)
    save_network(path, spec, model)
    whole = path.read_bytes()
    refused = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            loaded, found = load_network(path)
        except NetworkError:
            refused += 1
        else:  # dates and such things of the archive
            assert found == spec
            assert torch.equal(
                logits(loaded, images(2, (1, 2, 2))), logits(model, images(2, (1, 2, 2)))
            )
    assert refused > len(whole) / 2
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(NetworkError, match="Expected a network that raydrop saved in"):
            load_network(path)


def test_files_that_are_no_networks_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"saved network at .*none, found no such file; check"):
        load_network(tmp_path / "none")
    torch.save({"a": 1}, tmp_path / "pickle")
    with pytest.raises(NetworkError, match=r"There is no item named 'model.json'"):
        load_network(tmp_path / "pickle")
    with pytest.raises(NetworkError, match=r"found a folder instead of a file; save it"):
        load_network(tmp_path)


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    with pytest.raises(NetworkError, match=r"Expected to write .*, found: No such file or dir"):
        save_network(tmp_path / "absent" / "net", spec, network(spec))
    (tmp_path / "folder").mkdir()
    with pytest.raises(
        NetworkError, match=r"Expected to write .*folder, found: a folder instead of"
    ):
        export_network(tmp_path / "folder", network(spec_of("linear")), SHAPE, "pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def bomb(path: Path, size: int, kind: int = zipfile.ZIP_DEFLATED) -> None:
    """Put zeros of a size in the place of a network's first array."""
    spec = spec_of("small_cnn")
    save_network(path, spec, network(spec))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)}
    )
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            with archive.open(name, "w") as member:
                if name != HEAD:
                    member.write(content)
                    continue
                member.write(head.getvalue())
                for _ in range(size // 2**20):
                    member.write(bytes(2**20))


def peak(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(path: Path, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        load_network(path)


def test_a_small_file_that_stands_for_a_large_one_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "net"
    bomb(path, 64 * 2**20)
    assert path.stat().st_size < 2**20
    assert peak(lambda: refused(path, "have the shape 10x32, found 16777216; use the")) < 20 * 2**20


def test_a_file_whose_list_says_less_than_it_stands_for_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "net"
    bomb(path, 64 * 2**20)
    content = path.read_bytes()
    size = (64 * 2**20 + 128).to_bytes(4, "little")
    assert content.count(size) >= 2
    path.write_bytes(content.replace(size, (1408).to_bytes(4, "little")))
    assert peak(lambda: refused(path, "found BadZipFile: Bad CRC-32 for")) < 20 * 2**20


def test_a_description_that_stands_for_a_large_one_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "net"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b" " * 2**27)
    assert peak(lambda: refused(path, "found JSONDecodeError")) < 100 * 2**20


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_only_our_own_way_of_compressing_is_undone(kind: int, tmp_path: Path) -> None:
    path = tmp_path / "net"
    bomb(path, 2**20, kind)
    refused(path, "compressed in another way than ours")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("linear", {"image_shape": [3, 10**6, 10**6]}, "head.weight .* the shape 10x30000000000"),
        ("small_cnn", {"num_classes": 10**5, "class_names": ["a"] * 10**5}, "head.* 100000"),
        ("small_cnn", {"num_classes": 10**12}, "class_names of a network to be 1000000000000"),
        (
            "small_cnn",
            {"image_shape": [10**9, 32, 32]},
            "mean of a network to be 1000000000, f",
        ),
        ("small_cnn", {"model": "vit_h_14"}, "class_token in .*found none"),
        ("linear", {"image_shape": [3, -32, 32]}, "image_shape .* where count by side is right"),
        ("linear", {"image_shape": [3, 32.5, 32]}, "image_shape .* where count by side is right"),
        ("linear", {"model": ["linear"]}, "model .* where text is right"),
        ("linear", {"mean": ["a", "b", "c"]}, "mean .* where number by channel is right"),
    ],
)
def test_an_architecture_that_is_described_takes_no_memory_before_it_fits(
    model: str, changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path, spec = tmp_path / "net", spec_of(model)
    save_network(path, spec, network(spec))
    rewritten(path, {"model.json": header(path, **changes)})
    assert peak(lambda: refused(path, message)) < 300 * 2**20


def test_a_network_of_a_store_is_no_larger_than_its_array(tmp_path: Path) -> None:
    spec = spec_of("linear")
    info, arrays = network_entry(spec, network(spec))
    store = Store(tmp_path)
    store.write("network", {"a": 1}, info, arrays)
    large = dict(info, image_shape=[3, 10**5, 10**5], state=[["head.weight", [10, 3 * 10**10]]])
    for k, changed in enumerate((large, info | {"state": 3}, info | {"state": [["head.weight"]]})):
        entry = store.write("network", {"b": k}, changed, arrays)
        with pytest.raises(NetworkError):
            network_of(entry)
    short = store.write("network", {"c": 1}, info, {"state": arrays["state"][:-1]})
    with pytest.raises(RaydropError, match="Expected an array at"):
        network_of(short)
    whole = store.find("network", {"a": 1})
    assert whole is not None
    weight = network_of(whole)[0].get_parameter("head.weight")
    assert np.array_equal(weight.detach().flatten(), arrays["state"][:30720])


# Programs.


def check_program(path: Path, model: nn.Module, spec: NetworkSpec, kind: str) -> None:
    run = pt2_program(path, spec) if kind == "pt2" else onnx_program(path, spec)
    for count in (1, 5):
        batch = images(count, spec.image_shape)
        expected = logits(model, batch)
        difference = (run(batch) - expected).abs().max()
        assert difference <= 1e-5 * expected.abs().max()


def pt2_program(path: Path, spec: NetworkSpec) -> Any:
    extra = {saving.EXTRA: ""}
    module = torch.export.load(path, extra_files=extra).module()
    assert NetworkSpec.from_dict(json.loads(extra[saving.EXTRA])) == spec
    return lambda batch: logits(module, batch)


def onnx_program(path: Path, spec: NetworkSpec) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map["raydrop"]
    assert NetworkSpec.from_dict(json.loads(facts)) == spec
    return lambda batch: torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])


def test_an_exported_program_computes_the_same(tmp_path: Path) -> None:
    spec = spec_of("small_cnn")
    model = network(spec).train()
    export_network(tmp_path / "net.pt2", model, SHAPE, "pt2", spec)
    assert model.training
    check_program(tmp_path / "net.pt2", model.eval(), spec, "pt2")


@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_pruned_program_computes_the_same(kind: str, tmp_path: Path) -> None:
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    model, spec = pruned(spec_of("resnet56", shape=(3, 8, 8)))
    export_network(tmp_path / "net", model.train(), (3, 8, 8), kind, spec)
    assert model.training
    check_program(tmp_path / "net", model.eval(), spec, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_onnx_without_its_packages_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(
        NetworkError, match=r"packages onnx and onnxscript for onnx, found.*pip ins"
    ):
        export_network(tmp_path / "net", network(spec_of("linear")), SHAPE, "onnx")


class Undecided(nn.Module):
    """Computes by what it sees, which no exporter can write down."""

    def forward(self, batch: Tensor) -> Tensor:
        return batch if batch.sum() > 0 else -batch


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="Expected a network that pt2 can express") as caught:
        export_network(tmp_path / "net", Undecided(), SHAPE, "pt2")
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="Unknown format 'pt3': did you mean pt2"):
        export_network(tmp_path / "net", Undecided(), SHAPE, "pt3")
    assert not list(tmp_path.iterdir())
