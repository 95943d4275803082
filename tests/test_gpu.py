"""Training on a GPU: why there is none in plain words, and that numbers which lie on a device are trained the same.

No machine of ours has a GPU. The way to a device's memory is walked all the same: the library's own functions read and
write a buffer that the trainer is told not to touch. `test_a_device_trains_as_the_cpu_does` runs where there is one.
"""

from __future__ import annotations

import ctypes as C
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import BaseMaker
from support.engine import INSTALLED

from meton_plugins.finetune.engine import gpu
from meton_plugins.finetune.engine.abi import Tensor
from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.gradient import Adapter, RowTrainer
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.process import Child
from meton_plugins.finetune.errors import EngineError
from meton_plugins.finetune.report import health

Weights = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def without(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library of an engine that was set up without its GPU part."""
    monkeypatch.setattr(library, "engine", dataclasses.replace(library.engine, gpu=""))
    return library


@pytest.fixture
def broken(library: Library, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The library of an engine whose GPU part finds nothing: it is no backend at all."""
    monkeypatch.setattr(library, "engine", dataclasses.replace(library.engine, gpu="LICENSE"))
    return library


# Why there is none


def test_no_gpu_part(without: Library, base: BaseMaker) -> None:
    with pytest.raises(EngineError) as caught:
        Model(without, base(), gpu_layers=1)
    assert caught.value.sentence == (
        "The engine's GPU part (Vulkan) is not installed: run /finetune setup --gpu, or train with --gpu-layers 0."
    )


def test_no_loader(broken: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LOADER", "libno-such-loader.so.1")
    assert not gpu.has_loader()
    with pytest.raises(EngineError) as caught:
        Model(broken, base(), gpu_layers=1)
    assert caught.value.sentence == (
        "There is no Vulkan loader (libno-such-loader.so.1) on this machine: install your GPU's driver and libvulkan1, "
        "or train with --gpu-layers 0."
    )


def test_no_device(broken: Library, base: BaseMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "LOADER", "libc.so.6")
    assert gpu.has_loader()
    with pytest.raises(EngineError) as caught:
        Model(broken, base(), gpu_layers=1)
    assert caught.value.sentence == (
        "Vulkan finds no GPU on this machine (vulkaninfo --summary says more): install your GPU's driver, or train "
        "with --gpu-layers 0."
    )


def test_the_refusal_comes_out_of_the_child(engine: Engine) -> None:
    plain = dataclasses.replace(engine, gpu="")
    with Child({"kind": "gpu"}, engine=plain) as child, pytest.raises(EngineError, match=r"setup --gpu, or train with"):
        list(child)
    with (
        Child({"kind": "prove", "threads": 1, "gpu_layers": 1}, engine=plain) as child,
        pytest.raises(EngineError, match=r"setup --gpu, or train with"),
    ):
        list(child)


def test_layers_on_the_cpu_ask_for_no_gpu(without: Library, base: BaseMaker) -> None:
    with Model(without, base(), gpu_layers=0) as model:
        assert model.size


# Numbers that lie elsewhere


def trained(library: Library, path: Path, file: Path) -> tuple[list[float], Weights, int]:
    """Losses of some steps over two rows, and one of no training; the weights; how many tensors lie on a device."""
    with Model(library, path) as model, RowTrainer(model, 64, 1, Adapter(rank=4, alpha=8, seed=1)) as trainer:
        optimizer, losses = AdamW(), []
        for step in range(6):
            text = ("the answer is blue sky", "Paris, and 12 apples")[step % 2]
            tokens = np.asarray(model.encode(text, start=True), dtype=np.int32)
            loss, gradients = trainer.gradients(tokens, np.ones(len(tokens), dtype=np.bool_))
            optimizer.step(trainer.weights(), gradients, 1e-2)
            losses.append(loss)
        losses.append(trainer.loss(tokens, np.ones(len(tokens), dtype=np.bool_)))
        optimizer.step(trainer.weights(), gradients, 1e-2)  # what is saved is what was last written
        trainer.save(file)
        return losses, {name: values.copy() for name, values in trainer.weights().items()}, len(trainer._away)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_a_device_s_numbers_are_trained_as_the_host_s(
    library: Library, base: BaseMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = base("qwen2", "bpe", kind)
    here = trained(library, path, tmp_path / "here.gguf")
    assert here[2] == 0
    monkeypatch.setattr(library, "ggml_backend_buffer_is_host", lambda buffer: False)
    away = trained(library, path, tmp_path / "away.gguf")
    assert away[2] == len(away[1]) > 0
    assert away[0] == here[0]
    assert here[0][-1] < here[0][1]
    for name, values in here[1].items():
        np.testing.assert_array_equal(away[1][name], values)
    assert (tmp_path / "away.gguf").read_bytes() == (tmp_path / "here.gguf").read_bytes()


def test_a_gradient_is_read_where_it_is_added_up() -> None:
    # Where weight and gradient lie on two devices, the step sees a copy, whose memory is soon used for other things.
    # Seen on Mesa's software Vulkan: read there, most gradients were rubbish, and training went on without an error.
    name = b"grad for blk.10.attn_output.weight.lora_a"
    own, copy = Tensor(name=name), Tensor(name=b"Vulkan0#" + name + b"#0")
    trainer = RowTrainer.__new__(RowTrainer)
    trainer._sums = {name: C.addressof(own)}
    assert trainer._sum(C.addressof(own)) == C.addressof(own)
    assert trainer._sum(C.addressof(copy)) == C.addressof(own)
    trainer._sums = {}
    assert trainer._sum(C.addressof(own)) == C.addressof(own)
    with pytest.raises(EngineError, match="gpu-layers 0"):
        trainer._sum(C.addressof(copy))


def test_a_device_trains_as_the_cpu_does(engine: Engine) -> None:
    if INSTALLED is None or not INSTALLED.gpu:
        pytest.skip("The engine was set up without its GPU part: run `meton-finetune finetune setup --gpu`.")
    try:
        device = gpu.describe()
    except EngineError as error:
        pytest.skip(error.sentence)
    assert gpu.prove() == device


# The proof before a run


@pytest.mark.parametrize(("last", "good"), [(5.25, True), (5.26, True), (5.75, False), (float("nan"), False)])
def test_a_device_that_trains_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch, last: float, good: bool) -> None:
    asked: list[dict[str, Any]] = []

    def run_job(kind: str, **job: Any) -> dict[str, Any]:
        asked.append({"kind": kind, **job})
        return {"device": "Moon (Vulkan0, 8.0 GB)"} if kind == "gpu" else {"first_loss": 5.8, "last_loss": last}

    monkeypatch.setattr(gpu, "run_job", run_job)
    monkeypatch.setattr(
        gpu,
        "installed",
        lambda: Engine(Path(), "1", "x", "lib", "cpu.so", {"first_loss": 5.8, "last_loss": 5.25}, "gpu.so"),
    )
    if good:
        assert gpu.prove() == "Moon (Vulkan0, 8.0 GB)"
    else:
        with pytest.raises(EngineError, match=r"^Moon \(Vulkan0, 8\.0 GB\) trains wrongly \(loss 5\.8000 to .*gpu-lay"):
            gpu.prove()
    assert asked[-1]["gpu_layers"] == gpu.ALL_LAYERS


def test_what_a_device_is_called() -> None:
    assert gpu.Device(1, "Vulkan0", "GeForce", 6 * 2**30).text == "GeForce (Vulkan0, 6.0 GB)"


# The doctor


def doctor(monkeypatch: pytest.MonkeyPatch, *, loader: bool, part: str = "", device: str = "") -> health.Finding:
    """What it says of a machine."""

    def describe() -> str:
        if not device:
            raise EngineError("Vulkan finds no GPU on this machine.")
        return device

    monkeypatch.setattr(gpu, "has_loader", lambda: loader)
    monkeypatch.setattr(gpu, "describe", describe)
    monkeypatch.setattr(health, "find", lambda: Engine(Path(), "1", "x", "lib", "cpu.so", {}, part))
    return health._gpu()


def test_doctor_without_vulkan(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(monkeypatch, loader=False, part="gpu.so", device="Moon")
    assert found.verdict == "ok"
    assert "libvulkan.so.1" in found.found
    assert not found.advice


def test_doctor_without_the_gpu_part(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(monkeypatch, loader=True, device="Moon")
    assert (found.verdict, found.advice) == ("note", "/finetune setup --gpu")


def test_doctor_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(monkeypatch, loader=True, part="gpu.so")
    assert found.found == "none: the CPU trains"
    assert found.advice == "Vulkan finds no GPU on this machine."


def test_doctor_with_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(monkeypatch, loader=True, part="gpu.so", device="Moon (Vulkan0, 8.0 GB)")
    assert found.found == "Moon (Vulkan0, 8.0 GB) via Vulkan"
    assert "unproven" in found.advice
    assert "docs/gpu.md" in found.advice


@pytest.mark.parametrize("folder", ["llama.cpp/build/bin", "src/qvac-fabric-llm.cpp/build-vulkan/bin"])
def test_doctor_knows_the_trainer_that_the_user_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program = tmp_path / folder / "llama-finetune-lora"
    program.parent.mkdir(parents=True)
    program.touch()
    assert not list(health._foreign_trainer())  # not yet a program
    program.chmod(0o755)
    (found,) = health._foreign_trainer()
    assert (found.verdict, found.found) == ("note", str(program))
    assert "never zeroes its gradients" in found.advice
