"""A checkout that has just what the host relies on, written to disk: the contract with Meton, for every machine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILES = {
    "meton.py": """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from cli import main
if __name__ == "__main__":
    main()
""",
    "config.yaml": """# kept
models:
  primary: big:32b  # the best
  fallback: small:8b
  quick: tiny:1b
""",
    "core/__init__.py": "",
    "agents/__init__.py": "",
    "tools/__init__.py": "MINE = 'the host'\n",
    "core/config.py": """
from pathlib import Path
from types import SimpleNamespace
class ConfigLoader:
    def __init__(self, config_path="config.yaml"):
        self.config_path = Path(config_path)
        self.config = self._load()
    def _load(self):
        lines = [line.split("#")[0].split(":", 1) for line in self.config_path.read_text().splitlines()]
        models = {line[0].strip(): line[1].strip() for line in lines if len(line) == 2 and line[1].strip()}
        return SimpleNamespace(models=SimpleNamespace(**models))
    def reload(self):
        self.config = self._load()
    def save(self):
        lines = [f"  {name}: {model}" for name, model in vars(self.config.models).items()]
        self.config_path.write_text("models:\\n" + "\\n".join(lines) + "\\n")
""",
    "core/conversation.py": """
from datetime import datetime
class ConversationManager:
    def __init__(self, session_id):
        self.session_id, self.messages, self.save_path = session_id, [], "conversations"
    def add(self, role, content):
        self.messages.append({"role": role, "content": content, "timestamp": datetime.now().isoformat()})
    def get_messages(self, limit=None):
        return [dict(message) for message in (self.messages[-limit:] if limit else self.messages)]
""",
    "core/models.py": """
class Llm:
    def __init__(self, model):
        self.model = model
    def invoke(self, prompt):
        question = prompt.rpartition("Q: ")[2]
        if "fail" in question:
            raise RuntimeError("boom")
        return f"{self.model} says {question}"
class ModelManager:
    def __init__(self, config):
        self.config = config
        self.current_model = config.config.models.primary
        self._llm_cache = {}
    def get_llm(self, model_name=None):
        name = model_name or self.current_model
        return self._llm_cache.setdefault(name, Llm(name))
""",
    "core/agent.py": """
class MetonAgent:
    def __init__(self, config, model_manager, conversation):
        self.config, self.model_manager, self.conversation = config, model_manager, conversation
        self.tools, self.tool_map = [], {}
    def add_tool(self, tool):
        self.tools.append(tool)
        self.tool_map[tool.name] = tool
    def run(self, user_input):
        self.conversation.add("user", user_input)
        calls = []
        if user_input == "crash":
            raise RuntimeError("crashed")
        if user_input.startswith("use "):
            name, _, text = user_input[4:].partition(" ")
            calls.append({"tool_name": name, "input": text, "output": self.tool_map[name]._run(text)})
        if user_input.startswith("delegate "):
            inner = type(self)(self.config, self.model_manager, type(self.conversation)("inner"))
            calls.append({"tool_name": "spawn", "input": "", "output": inner.run(user_input[9:])["output"]})
        try:
            output = "" if user_input == "silence" else self.model_manager.get_llm().invoke("Q: " + user_input)
        except Exception as error:
            output = f"I encountered an error while reasoning: {error}"
        output = output or "Task completed."
        self.conversation.add("assistant", output)
        return {"output": output, "tool_calls": calls, "success": True}
    def later(self, text):
        return json.loads(text)
""",
    "agents/subagent_spawner.py": """
from types import SimpleNamespace
class SubAgentManager:
    def __init__(self, config):
        self.spawner = SimpleNamespace(config=config)
""",
    "cli.py": """
import logging
from rich.console import Console
from rich.prompt import Prompt
from agents.subagent_spawner import SubAgentManager
from core.agent import MetonAgent
from core.config import ConfigLoader
from core.conversation import ConversationManager
from core.models import ModelManager
class MetonCLI:
    def __init__(self):
        self.console, self.config, self.running = Console(width=100), ConfigLoader(), True
        self.logger = logging.getLogger("meton_cli")
        self.model_manager = self.conversation = self.agent = self.subagent_manager = None
    def initialize(self):
        self.model_manager, self.conversation = ModelManager(self.config), ConversationManager("session-1")
        self.agent = MetonAgent(self.config, self.model_manager, self.conversation)
        self.subagent_manager = SubAgentManager(self.config)
        return True
    def display_help(self):
        self.console.print("the host's help")
    def handle_command(self, command):
        if command == "/help":
            self.display_help()
        elif command == "/save":
            self.config.save()
        elif command == "/reload":
            self.config = self.model_manager.config = self.agent.config = ConfigLoader()
        elif command == "/sure":
            self.console.print("sure " + Prompt.ask("Sure?"))
        elif command in ("/exit", "/q"):
            self.running = False
            self.shutdown()
        else:
            self.console.print(f"host got {command}", markup=False)
        return True
    def process_query(self, query):
        try:
            with self.console.status("Thinking..."):
                result = self.agent.run(query)
            self.console.print(result["output"], markup=False)
        except Exception as error:
            self.console.print(f"Error: {error}", markup=False)
    def shutdown(self):
        self.console.print("Goodbye!")
    def run(self):
        while self.running:
            try:
                line = Prompt.ask("You").strip()
                if line:
                    (self.handle_command if line.startswith("/") else self.process_query)(line)
            except EOFError:
                self.shutdown()
                break
def main():
    cli = MetonCLI()
    if cli.initialize():
        cli.run()
""",
}


def write_checkout(folder: Path, **changed: str) -> Path:
    """The double in `folder`; `changed` files (`core_models` for core/models.py) have another text."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(changed.get(name.removesuffix(".py").replace("/", "_"), text), encoding="utf-8")
    return folder


@contextmanager
def imported(checkout: Path) -> Iterator[Any]:
    """The double's `cli`, imported in this process, and forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(checkout))
    try:
        importlib.invalidate_caches()
        yield importlib.import_module("cli")
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("cli", "core", "agents", "tools", "meton"):
                del sys.modules[name]
