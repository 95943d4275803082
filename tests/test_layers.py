"""What flows one way stays one way: who may import whom, and how long a module may grow."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "meton_plugins"
#: Low to high: a module imports only from those before it, or from its own package.
ORDER = (
    "errors", "paths", "settings", "recipes", "settings_file", "told", "units", "visible", "turn", "form", "formats",
    "gguf", "graph",
    "library", "collect", "curate", "engine", "train",
    "serve", "report", "commands", "tools", "plugin", "shell", "__main__",
)  # fmt: skip
#: What shows something to people, or hears them.
SHOWS = ("commands", "tools", "plugin", "shell", "__main__")
SCREEN = ("rich", "argparse", "prompt_toolkit")
#: What each part may take of the host: its types, and where errors are shown, its errors. The shell starts and installs
#: hosts, the doctor looks at one.
HOST = {
    "collect": ("host.api",), "serve": ("host.api",), "commands": ("host.api", "host.errors"), "tools": ("host.api",),
    "plugin": ("host.api", "host.errors"), "report": ("host.launch", "host.surface"),
    "shell": ("host.console", "host.environment", "host.errors", "host.install", "host.launch", "host.manifest"),
    "__main__": ("host", "host.console", "host.errors", "host.manifest"),
}  # fmt: skip
LONGEST = 600

MODULES = {path.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.rglob("*.py"))}
OURS = {name: path for name, path in MODULES.items() if name.startswith("finetune/")}


def part(name: str) -> str:
    """The entry of ORDER that a module of finetune/ belongs to; empty for finetune/__init__.py."""
    first = name.split("/")[1].removesuffix(".py")
    return "" if first == "__init__" else first


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> frozenset[str]:
    """Absolute dotted names of all that a module imports, also inside functions and for types."""
    package = ["meton_plugins", *path.relative_to(ROOT).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def inside(path: Path, package: str) -> set[str]:
    """The parts of meton_plugins.`package` that a module imports from, by the first word below it."""
    prefix = f"meton_plugins.{package}."
    return {name.removeprefix(prefix).split(".")[0] for name in imports(path) if name.startswith(prefix)}


def test_the_list_names_every_part() -> None:
    assert {part(name) for name in OURS} - {""} <= set(ORDER)


@pytest.mark.parametrize("name", OURS)
def test_a_module_imports_only_from_below(name: str) -> None:
    own = part(name)
    known = {"__init__", "__version__"}
    below = known if not own else known | set(ORDER[: ORDER.index(own) + 1])
    assert inside(OURS[name], "finetune") <= below


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("host/")])
def test_the_host_knows_nothing_of_fine_tuning(name: str) -> None:
    assert not [found for found in imports(MODULES[name]) if found.startswith("meton_plugins.finetune")]
    assert "finetune" not in MODULES[name].name


@pytest.mark.parametrize("name", OURS)
def test_only_some_know_the_host_and_then_its_types(name: str) -> None:
    allowed = {f"meton_plugins.{module}" for module in HOST.get(part(name), ())}
    found = {".".join(each.split(".")[:3]) for each in imports(OURS[name]) if each.startswith("meton_plugins.host")}
    assert found - {"meton_plugins.host"} <= allowed
    if part(name) == "serve" and found:
        assert name == "finetune/serve/slots.py"


@pytest.mark.parametrize("name", [name for name in OURS if part(name) not in SHOWS])
def test_services_know_no_screen(name: str) -> None:
    assert {found.split(".")[0] for found in imports(OURS[name])}.isdisjoint(SCREEN)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_short(name: str) -> None:
    """When a module wants sections, it wants to be two modules."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(tree(MODULES[name])), "a module begins with one sentence about itself"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_there(name: str) -> None:
    """`__all__` names what the module defines or imports."""
    listed: list[str] = []
    defined: set[str] = set()
    for node in tree(MODULES[name]).body:
        match node:
            case ast.FunctionDef(name=found) | ast.ClassDef(name=found):
                defined.add(found)
            case ast.Assign(targets=[ast.Name(id=found)]) | ast.AnnAssign(target=ast.Name(id=found)):
                defined.add(found)
                if found == "__all__" and isinstance(node.value, ast.List):
                    listed = [str(item.value) for item in node.value.elts if isinstance(item, ast.Constant)]
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                defined |= {alias.asname or alias.name for alias in names}
            case _:
                pass
    assert set(listed) <= defined


def test_the_probe_sees_what_it_should() -> None:
    """Each rule above can fail: the probe finds imports at the top, in functions and for types only."""
    found = imports(ROOT / "finetune" / "commands" / "starting.py")
    assert "meton_plugins.finetune.train.launch.begin" in found, "inside a function"
    assert "meton_plugins.host.api.Host" in found, "for types"
    assert "argparse" in found
    assert inside(ROOT / "finetune" / "train" / "worker.py", "finetune") == {"engine", "errors", "gguf", "train"}
