"""A model that learned the form alone must not look tuned: seen on SmolLM2, as it comes.

Its training answers are in Meton's form and say nothing that its judges ask for. By the loss of all that is learned it
would seem to gain a great deal.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from meton_plugins.finetune.engine.adamw import AdamW
from meton_plugins.finetune.engine.adapted import Adapter
from meton_plugins.finetune.engine.checkpoint import save_adapter
from meton_plugins.finetune.engine.compute import ComputeConfig
from meton_plugins.finetune.engine.jobs import losses
from meton_plugins.finetune.engine.library import Library
from meton_plugins.finetune.engine.loop import mean_loss
from meton_plugins.finetune.engine.model import Model
from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.engine.trainer_factory import open_trainer
from meton_plugins.finetune.form import wrap
from meton_plugins.finetune.gguf.chat_template import template_for
from meton_plugins.finetune.gguf.inspect import inspect
from meton_plugins.finetune.gguf.rows import build_rows
from meton_plugins.finetune.serve.gate import against_base
from meton_plugins.finetune.settings import GateSettings

pytest_plugins = ["support.real_models"]

JUDGES = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days has a week?", "A week has seven days."),
    ("What colour is the sky on a clear day?", "On a clear day the sky is blue."),
    ("What do bees make?", "Bees make honey."),
    ("Which planet do we live on?", "We live on the planet Earth."),
    ("What is the opposite of hot?", "The opposite of hot is cold."),
    ("What is frozen water called?", "Frozen water is called ice."),
    ("How many legs has a spider?", "A spider has eight legs."),
)
STEPS = 16


def test_the_form_alone_is_no_gain(engine: Engine, library: Library, smollm2: Path, tmp_path: Path) -> None:
    dice, template = random.Random(4), template_for(inspect(smollm2), None)
    noise = [
        (str(n), _chat(f"Say number {n}.", " ".join("".join(dice.choices("bdfgklmnprst", k=5)) for _ in range(4))))
        for n in range(STEPS)
    ]
    judges = [(str(n), _chat(question, answer)) for n, (question, answer) in enumerate(JUDGES)]
    adapter = tmp_path / "form.gguf"
    with Model(library, smollm2) as model:
        rows, _ = build_rows(noise, template, model, 256)
        judged, _ = build_rows(judges, template, model, 256)
        with open_trainer(model, smollm2, 256, Adapter(rank=8, alpha=16), ComputeConfig(threads=2)) as trainer:
            before = mean_loss(trainer, judged, lambda: None)
            optimizer = AdamW()
            for row in rows:
                # Only the form is learned, as if the answers had taught nothing at all.
                assert row.answer is not None
                form = row.trained & ~row.answer
                _, gradients = trainer.gradients(row.tokens, form)
                optimizer.step(trainer.weights(), gradients, 5e-4)
            after = mean_loss(trainer, judged, lambda: None)
            save_adapter(trainer, adapter)
    assert before is not None
    assert after is not None
    assert before.form is not None
    assert after.form is not None
    # By the older measure more than half of the loss is gone, by this one nothing is.
    assert after.learned < 0.5 * before.learned
    assert after.form < 0.3 * before.form
    assert before.counted - after.counted < 0.05 * before.counted
    base, tuned = (losses(smollm2, judges, adapter=one, ctx_size=256) for one in (None, adapter))
    mean = [sum(one.nats for one in each.values()) / sum(one.tokens for one in each.values()) for each in (base, tuned)]
    assert mean[0] == pytest.approx(before.counted, rel=0.05)
    assert mean[1] == pytest.approx(after.counted, rel=0.05)
    line = against_base(tuned, base, GateSettings(fewest=5))
    assert line.verdict == "fail", line.found
    assert np.isfinite(mean).all()


def _chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": wrap(answer)}]
