"""The real proof's child process for PEFT: the same GGUF through transformers, trained on the rows of a run of ours.

    PYTHON_WITH_TORCH bench/real_peft.py '{"base": PATH, "dtype": "fp32", "in": FOLDER, "steps": 20, ...}'

`in` holds rows.npz and start.gguf of bench/real_ours.py. Base and adapter, the order of the rows, what of them is
learned, the learning rates, AdamW and the clipping are those of the run. Prints one JSON line: the loss of every step,
of the validation rows before the first and, with `judge`, after the last, speed and peak. Nothing of the plugin is
imported.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
#: Nothing is fetched: the weights are those of the GGUF.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import numpy as np
from train_measure import megabytes, quiet_output, read_job, tell
from train_rows import Row
from train_torch import IGNORED, MAX_NORM, PROJECTIONS, WEIGHT_DECAY, gpu_maps, gpu_needs

#: The names of our projections in a GGUF, in the order of PROJECTIONS.
TENSORS: Final = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def read_rows(path: Path, side: str) -> list[Row]:
    """The rows of one side."""
    with np.load(path) as arrays:
        count = int(arrays[f"{side}_count"])
        return [Row(arrays[f"{side}_{n}_tokens"], arrays[f"{side}_{n}_trained"]) for n in range(count)]


def open_model(base: Path, start: Path, dtype: Any) -> Any:
    """The base's weights, unpacked, with the adapter `start` on all projections, ready to be trained."""
    import gguf
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(base.parent), gguf_file=base.name, dtype=dtype, attn_implementation="sdpa"
    )
    model.config.use_cache = False
    reader = gguf.GGUFReader(start)
    alpha = reader.get_field("adapter.lora.alpha")
    tensors = {tensor.name: np.array(tensor.data, np.float32) for tensor in reader.tensors}
    rank = next(values.shape[0] for name, values in tensors.items() if name.endswith("lora_a"))
    config = peft.LoraConfig(
        r=rank, lora_alpha=float(alpha.contents()), target_modules=PROJECTIONS, lora_dropout=0.0,  # type: ignore[union-attr]
    )  # fmt: skip
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    taken = 0
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            values = tensors[_tensor_of(name)]
            # A permuted q and k of Llama concern the rows of B alone, and B is 0 before the first step.
            if "lora_B" in name and values.any():
                raise SystemExit("Only an adapter that is not trained yet can be taken over.")
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(values))
            taken += 1
    if taken != len(tensors):
        raise SystemExit(f"PEFT has {taken} adapter tensors, the run {len(tensors)}.")
    model.train()
    return model


def _tensor_of(name: str) -> str:
    """The GGUF name of one of PEFT's adapter tensors."""
    parts = name.split(".")
    layer = parts[parts.index("layers") + 1]
    projection = next(ours for ours, theirs in zip(TENSORS, PROJECTIONS, strict=True) if theirs in parts)
    return f"blk.{layer}.{projection}.weight.{'lora_a' if 'lora_A' in parts else 'lora_b'}"


def main() -> None:
    """Measure what the driver wants."""
    job, channel = read_job(), quiet_output()
    gpu = gpu_needs()
    import torch

    gpu += gpu_maps()
    libraries = megabytes("VmRSS")
    torch.set_num_threads(job["threads"])
    folder = Path(job["in"])
    model = open_model(
        Path(job["base"]), folder / "start.gguf", {"fp32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]]
    )
    loaded = megabytes("VmHWM")
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=WEIGHT_DECAY)

    def loss_of(row: Row) -> Any:
        """Mean loss over the learned tokens."""
        tokens = torch.from_numpy(row.tokens[:-1]).long().unsqueeze(0)
        labels = torch.from_numpy(row.tokens[1:]).long().masked_fill(~torch.from_numpy(row.trained[1:]), IGNORED)
        logits = model(input_ids=tokens).logits
        return torch.nn.functional.cross_entropy(logits[0].float(), labels)

    def judged() -> float:
        """Mean loss over all learned tokens of the validation rows."""
        rows = read_rows(folder / "rows.npz", "validation")
        with torch.no_grad():
            return sum(float(loss_of(row)) * row.learned for row in rows) / sum(row.learned for row in rows)

    base_loss = judged() if job["judge"] else None
    with np.load(folder / "rows.npz") as arrays:
        rates = arrays["rates"].tolist()
    rows = read_rows(folder / "rows.npz", "train")[: job["steps"]]
    # The peak is to be that of training: loading unpacks the file once more, and we read no base's peak from that.
    _reset_peak()
    losses, seconds = [], []
    for row, rate in zip(rows, rates, strict=False):
        began = time.perf_counter()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(row)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        losses.append(float(loss.item()))
        seconds.append(time.perf_counter() - began)
    peak = megabytes("VmHWM")
    # The first step is a warm-up on both sides.
    tokens = sum(row.length for row in rows[1:])
    result = {
        "losses": losses, "base_loss": base_loss, "tuned_loss": judged() if job["judge"] else None,
        "tokens_per_s": tokens / max(1e-9, sum(seconds[1:])), "training_peak_mb": peak - gpu,
        "loading_peak_mb": loaded - gpu, "libraries_mb": libraries, "gpu_libraries_mb": gpu,
        "how": f"torch {torch.__version__}",
    }  # fmt: skip
    tell(channel, result)


def _reset_peak() -> None:
    """Let VmHWM begin anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


if __name__ == "__main__":
    main()
