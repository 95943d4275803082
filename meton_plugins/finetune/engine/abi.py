"""The C side of qvac-fabric 0.15.0 as ctypes sees it: structs and signatures from llama.h, ggml.h, ggml-opt.h.

A test compares every struct with the package's own headers, field by field.
"""

from __future__ import annotations

import ctypes as C
from typing import Any, Final

__all__ = [
    "ABORT_CALLBACK",
    "EPOCH_CALLBACK",
    "EVAL_CALLBACK",
    "FUNCTIONS",
    "LOG_CALLBACK",
    "STRUCTS",
    "TO_FLOAT",
    "AdamwParams",
    "Batch",
    "ContextParams",
    "LoraParams",
    "ModelParams",
    "OptParams",
    "QuantizeParams",
    "Tensor",
    "TypeTraits",
]

_p, _i32, _u32, _i64, _f32, _bool, _enum, _size, _str = (
    C.c_void_p, C.c_int32, C.c_uint32, C.c_int64, C.c_float, C.c_bool, C.c_int, C.c_size_t, C.c_char_p,
)  # fmt: skip

#: bool callback(tensor, ask, user_data): asked before a node, called again after it where the answer was True.
EVAL_CALLBACK: Final = C.CFUNCTYPE(_bool, _p, _bool, _p)
#: void callback(train, context, dataset, result, batch, batches, start_us)
EPOCH_CALLBACK: Final = C.CFUNCTYPE(None, _bool, _p, _p, _p, _i64, _i64, _i64)
LOG_CALLBACK: Final = C.CFUNCTYPE(None, _enum, _str, _p)
#: void to_float(from, to, count), of TypeTraits.
TO_FLOAT: Final = C.CFUNCTYPE(None, _p, _p, _i64)
ABORT_CALLBACK: Final = C.CFUNCTYPE(None, _str)


class Tensor(C.Structure):
    """ggml_tensor. `ne` counts elements, `nb` is strides in bytes, both fastest dimension first."""

    _fields_ = (
        ("type", _enum),
        ("buffer", _p),
        ("ne", _i64 * 4),
        ("nb", _size * 4),
        ("op", _enum),
        ("op_params", _i32 * 16),
        ("flags", _i32),
        ("src", _p * 10),
        ("view_src", _p),
        ("view_offs", _size),
        ("data", _p),
        ("name", C.c_char * 64),
        ("extra", _p),
        ("padding", C.c_char * 8),
    )


class ModelParams(C.Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", _p), ("tensor_buft_overrides", _p), ("n_gpu_layers", _i32), ("split_mode", _enum),
        ("load_mode", _enum), ("tensor_read_lazy", _enum), ("main_gpu", _i32), ("tensor_split", _p),
        ("progress_callback", _p), ("progress_callback_user_data", _p), ("kv_overrides", _p), ("vocab_only", _bool),
        ("check_tensors", _bool), ("use_extra_bufts", _bool), ("no_host", _bool), ("no_alloc", _bool),
        ("load_mtp", _bool),
    )  # fmt: skip


class ContextParams(C.Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", _u32), ("n_batch", _u32), ("n_ubatch", _u32), ("n_seq_max", _u32), ("n_rs_seq", _u32),
        ("n_outputs_max", _u32), ("n_outputs_max_per_seq", _u32), ("n_threads", _i32), ("n_threads_batch", _i32),
        ("ctx_type", _enum), ("rope_scaling_type", _enum), ("pooling_type", _enum), ("attention_type", _enum),
        ("flash_attn_type", _enum), ("rope_freq_base", _f32), ("rope_freq_scale", _f32), ("yarn_ext_factor", _f32),
        ("yarn_attn_factor", _f32), ("yarn_beta_fast", _f32), ("yarn_beta_slow", _f32), ("yarn_orig_ctx", _u32),
        ("defrag_thold", _f32), ("cb_eval", _p), ("cb_eval_user_data", _p), ("type_k", _enum), ("type_v", _enum),
        ("moe_cache_size", _size), ("abort_callback", _p), ("abort_callback_data", _p), ("embeddings", _bool),
        ("offload_kqv", _bool), ("no_perf", _bool), ("op_offload", _bool), ("swa_full", _bool), ("kv_unified", _bool),
        ("prefetch_weights", _bool), ("moe_cache_auto", _bool), ("samplers", _p), ("n_samplers", _size),
        ("ctx_other", _p), ("ctx_other_share_compute", _bool), ("training", _bool),
    )  # fmt: skip


class QuantizeParams(C.Structure):
    """llama_model_quantize_params."""

    _fields_ = (
        ("nthread", _i32), ("ftype", _enum), ("output_tensor_type", _enum), ("token_embedding_type", _enum),
        ("allow_requantize", _bool), ("quantize_output_tensor", _bool), ("only_copy", _bool), ("pure", _bool),
        ("keep_split", _bool), ("dry_run", _bool), ("imatrix", _p), ("kv_overrides", _p), ("tt_overrides", _p),
        ("prune_layers", _p),
    )  # fmt: skip


class Batch(C.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", _i32), ("token", C.POINTER(_i32)), ("embd", C.POINTER(_f32)), ("pos", C.POINTER(_i32)),
        ("n_seq_id", C.POINTER(_i32)), ("seq_id", C.POINTER(C.POINTER(_i32))), ("logits", C.POINTER(C.c_int8)),
    )  # fmt: skip


class OptParams(C.Structure):
    """llama_opt_params."""

    _fields_ = (
        ("n_ctx_train", _u32), ("param_filter", _p), ("param_filter_ud", _p), ("get_opt_pars", _p),
        ("get_opt_pars_ud", _p), ("optimizer_type", _enum), ("checkpoint_path", _str), ("load_optimizer_state", _bool),
        ("assistant_loss_only", _bool),
    )  # fmt: skip


class LoraParams(C.Structure):
    """llama_lora_training_params."""

    _fields_ = (
        ("target_modules", _u32), ("rank", _i32), ("alpha", _f32), ("dropout", _f32), ("init_std", _f32),
        ("seed", _u32),
    )  # fmt: skip


class AdamwParams(C.Structure):
    """ggml_opt_optimizer_params, its two inner structs laid flat."""

    _fields_ = (
        ("alpha", _f32), ("beta1", _f32), ("beta2", _f32), ("eps", _f32), ("wd", _f32), ("sgd_alpha", _f32),
        ("sgd_wd", _f32),
    )  # fmt: skip


class TypeTraits(C.Structure):
    """ggml_type_traits. `to_float(from, to, count)` writes `count` numbers in F32."""

    _fields_ = (
        ("type_name", _str), ("blck_size", _i64), ("blck_size_interleave", _i64), ("type_size", _size),
        ("is_quantized", _bool), ("to_float", _p), ("from_float_ref", _p),
    )  # fmt: skip


STRUCTS: Final[dict[str, type[C.Structure]]] = {
    "ggml_tensor": Tensor,
    "llama_model_params": ModelParams,
    "llama_context_params": ContextParams,
    "llama_model_quantize_params": QuantizeParams,
    "llama_batch": Batch,
    "llama_opt_params": OptParams,
    "llama_lora_training_params": LoraParams,
    "ggml_opt_optimizer_params": AdamwParams,
    "ggml_type_traits": TypeTraits,
}

_tokens = C.POINTER(_i32)
_double = C.POINTER(C.c_double)

#: name: (result, arguments)
FUNCTIONS: Final[dict[str, tuple[Any, list[Any]]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LOG_CALLBACK, _p]),
    "ggml_set_abort_callback": (_p, [ABORT_CALLBACK]),
    "ggml_backend_load": (_p, [_str]),
    "ggml_backend_reg_dev_count": (_size, [_p]),
    "ggml_backend_reg_dev_get": (_p, [_p, _size]),
    "ggml_backend_dev_name": (_str, [_p]),
    "ggml_backend_dev_description": (_str, [_p]),
    "ggml_backend_dev_memory": (None, [_p, C.POINTER(_size), C.POINTER(_size)]),
    "ggml_backend_buffer_is_host": (_bool, [_p]),
    "ggml_backend_tensor_get": (None, [C.POINTER(Tensor), _p, _size, _size]),
    "ggml_backend_tensor_set": (None, [C.POINTER(Tensor), _p, _size, _size]),
    "ggml_get_type_traits": (C.POINTER(TypeTraits), [_enum]),
    "ggml_op_name": (_str, [_enum]),
    "ggml_get_data": (_p, [_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_model_load_from_file": (_p, [_str, ModelParams]),
    "llama_model_free": (None, [_p]),
    "llama_model_get_vocab": (_p, [_p]),
    "llama_model_n_embd": (_i32, [_p]),
    "llama_model_n_layer": (_i32, [_p]),
    "llama_model_n_params": (C.c_uint64, [_p]),
    "llama_vocab_n_tokens": (_i32, [_p]),
    "llama_vocab_bos": (_i32, [_p]),
    "llama_vocab_get_add_bos": (_bool, [_p]),
    "llama_vocab_is_eog": (_bool, [_p, _i32]),
    "llama_vocab_is_control": (_bool, [_p, _i32]),
    "llama_tokenize": (_i32, [_p, _str, _i32, _tokens, _i32, _bool, _bool]),
    "llama_token_to_piece": (_i32, [_p, _i32, _p, _i32, _i32, _bool]),
    "llama_context_default_params": (ContextParams, []),
    "llama_init_from_model": (_p, [_p, ContextParams]),
    "llama_free": (None, [_p]),
    "llama_n_ctx": (_u32, [_p]),
    "llama_get_memory": (_p, [_p]),
    "llama_memory_clear": (None, [_p, _bool]),
    "llama_memory_seq_rm": (_bool, [_p, _i32, _i32, _i32]),
    "llama_batch_init": (Batch, [_i32, _i32, _i32]),
    "llama_batch_free": (None, [Batch]),
    "llama_batch_get_one": (Batch, [_tokens, _i32]),
    "llama_decode": (_i32, [_p, Batch]),
    "llama_get_logits_ith": (C.POINTER(_f32), [_p, _i32]),
    "llama_lora_training_init": (_p, [_p, _p, C.POINTER(LoraParams)]),
    "llama_adapter_lora_init": (_p, [_p, _str]),
    "llama_set_adapters_lora": (_i32, [_p, C.POINTER(_p), _size, C.POINTER(_f32)]),
    "llama_lora_save_adapter": (_bool, [_p, _str, _p]),
    "llama_opt_default_params": (OptParams, []),
    "llama_opt_init": (None, [_p, _p, OptParams]),
    "llama_opt_cleanup": (None, [_p]),
    "llama_opt_epoch": (None, [_p, _p, _p, _p, _i64, EPOCH_CALLBACK, EPOCH_CALLBACK]),
    # Never called by us: only their addresses are handed back to the library.
    "llama_opt_param_filter_lora": (_bool, [_p, _p]),
    "ggml_opt_get_constant_optimizer_params": (AdamwParams, [_p]),
    "ggml_opt_get_default_optimizer_params": (AdamwParams, [_p]),
    "ggml_opt_dataset_init_with_masks": (_p, [_enum, _enum, _enum, _i64, _i64, _i64, _i64, _i64]),
    "ggml_opt_dataset_free": (None, [_p]),
    "ggml_opt_dataset_data": (_p, [_p]),
    "ggml_opt_dataset_labels": (_p, [_p]),
    "ggml_opt_dataset_masks": (_p, [_p]),
    "ggml_opt_result_init": (_p, []),
    "ggml_opt_result_free": (None, [_p]),
    "ggml_opt_result_reset": (None, [_p]),
    "ggml_opt_result_loss": (None, [_p, _double, _double]),
    "llama_model_quantize_default_params": (QuantizeParams, []),
    "llama_model_quantize": (_u32, [_str, _str, C.POINTER(QuantizeParams)]),
    "ggml_quantize_chunk": (_size, [_enum, _p, _p, _i64, _i64, _i64, _p]),
}
