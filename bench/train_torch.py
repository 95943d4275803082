"""The training bench's child process for PyTorch: the same shape, adapter and rows with transformers and PEFT.

    PYTHON_WITH_TORCH bench/train_torch.py '{"shape": {...}, "dtype": "fp32", "rows": "full", "ctx": 512, ...}'

Prints one JSON line; the driver is bench/train.py. Nothing of the plugin is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
#: Nothing is fetched: the weights are drawn.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from train_measure import measure, megabytes, quiet_output, read_job, tell
from train_rows import Row

PROJECTIONS: Final = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE: Final = 1e-4
WEIGHT_DECAY: Final = 0.01
MAX_NORM: Final = 1.0
#: What cross_entropy leaves out.
IGNORED: Final = -100
#: What torch's build for a GPU is linked with, in an order in which each finds those before it.
GPU_LIBRARIES: Final = (
    "cudart", "cublasLt", "cublas", "nvJitLink", "nvrtc", "cusparse", "cusparseLt", "cufft", "cusolver", "cudnn",
    "cupti", "nccl", "nvshmem_host", "cufile",
)  # fmt: skip
#: Torch's own parts for it.
GPU_FILES: Final = re.compile(r"lib(torch_cuda|c10_cuda|triton)[^/]*$")


def gpu_needs() -> float:
    """Load a GPU's libraries before torch does, which needs all of them where it was built so; the MB they take."""
    before = megabytes("VmRSS")
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    for name in GPU_LIBRARIES:
        for path in sorted(found for folder in folders for found in folder.glob(f"*/lib/lib{name}.so.*")):
            with contextlib.suppress(OSError):
                ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    return megabytes("VmRSS") - before


def gpu_maps() -> float:
    """MB of the other files for a GPU that lie in this process's memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = bool(GPU_FILES.search(line))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total / 1024


def load_libraries() -> None:
    """All that a training needs, now: transformers and PEFT load most of their parts only when these are named."""
    import peft
    import transformers

    for name in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        getattr(transformers, name)
    peft.get_peft_model  # noqa: B018


def make_model(shape: dict[str, Any], vocabulary: int, rank: int) -> Any:
    """A model of that shape with an adapter of `rank` on all projections, ready to be trained."""
    import peft
    import transformers

    name = {"qwen3": "Qwen3", "qwen2": "Qwen2"}[shape["architecture"]]
    values: dict[str, Any] = {"head_dim": shape["width"] // shape["heads"]} if name == "Qwen3" else {}
    config = getattr(transformers, f"{name}Config")(
        vocab_size=vocabulary, hidden_size=shape["width"], intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=2048, tie_word_embeddings=True, use_cache=False, attn_implementation="sdpa", **values,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    adapter = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=PROJECTIONS, lora_dropout=0.0)
    model = peft.get_peft_model(model, adapter)
    model.train()
    return model


def padded(rows: list[Row]) -> tuple[Any, Any, Any]:
    """Tokens, labels and attention mask of a batch, as long as its longest row; no mask where none is padded."""
    import torch

    longest = max(row.length for row in rows)
    tokens = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for at, row in enumerate(rows):
        tokens[at, : row.length] = torch.from_numpy(row.tokens[:-1])
        wanted = torch.from_numpy(row.tokens[1:]).long()
        labels[at, : row.length] = wanted.masked_fill(~torch.from_numpy(row.trained[1:]), IGNORED)
        mask[at, : row.length] = 1
    return tokens, labels, None if bool(mask.all()) else mask


def main() -> None:
    """Measure what the driver wants."""
    job, channel = read_job(), quiet_output()
    gpu = gpu_needs()
    import torch

    load_libraries()
    gpu += gpu_maps()
    libraries = megabytes("VmRSS")
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    torch.set_default_dtype({"fp32": torch.float32, "bf16": torch.bfloat16}[job["dtype"]])
    model = make_model(job["shape"], job["vocab"], job["rank"])
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def step(rows: list[Row]) -> float:
        tokens, labels, mask = padded(rows)
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=tokens, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, job["vocab"]).float(), labels.view(-1))
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, MAX_NORM)
        optimizer.step()
        return float(loss.item())

    result = measure(step, job)
    tell(channel, {**result, "libraries_mb": libraries, "gpu_libraries_mb": gpu, "how": f"torch {torch.__version__}"})


if __name__ == "__main__":
    main()
