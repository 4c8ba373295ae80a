"""The forms in which publishers, and transformers 5, write the `config.json` of each family."""

import pytest

from mlx_diffucoder.catalogue import CATALOGUE
from mlx_diffucoder.models import family_of

SHAPES = {one.family.name: one.config for one in CATALOGUE[::-1]}  # of each family the first model
QWEN = {"attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu", "initializer_range": 0.02}
QWEN |= {"rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False}
QWEN |= {"torch_dtype": "bfloat16", "use_cache": False}
SDAR = QWEN | {
    "architectures": ["SDARForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_sdar.SDARConfig",
        "AutoModel": "modeling_sdar.SDARModel",
        "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM",
    },
    **{"attention_bias": False, "debug": False, "ep_size": 1, "fuse_cross_entropy": True, "head_dim": 128},
    **{"hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 32768, "max_window_layers": 36},
    **{"micro_forward": False, "model_type": "sdar", "num_attention_heads": 32, "num_hidden_layers": 36},
    **{"num_key_value_heads": 8, "skip_checkpoint": False, "tie_word_embeddings": False, "use_deepep": False},
    "vocab_size": 151936,
}
DIFFCODER = {
    "architectures": ["StableDiffcoderForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_stable_diffcoder.StableDiffcoderForCausalLM"},
    **{"attention_bias": False, "attention_dropout": 0.1, "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "silu"},
    **{"hidden_size": 4096, "initializer_range": 0.009882118, "intermediate_size": 14336, "layer_norm_eps": None},
    **{"max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32},
    **{"num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "resid_pdrop": 0.1, "rms_norm_eps": 1e-6},
    **{"rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": 155136},
}
OPEN = QWEN | {
    **{"architectures": ["Qwen2ForCausalLM"], "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768},
    **{"max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24},
    **{"num_key_value_heads": 2, "sliding_window": 32768, "tie_word_embeddings": True, "vocab_size": 151936},
}
CODA = QWEN | {
    "architectures": ["CoDALanguageModel"],
    "auto_map": {"AutoConfig": "model_config.CoDAConfig", "AutoModel": "modeling_coda.CoDALanguageModel"},
    **{"attention_bias": False, "attention_kernel": "flash_attention", "block_masking_probability": [0.25, 0.5]},
    **{"head_dim": 128, "hidden_size": 2048, "intermediate_size": 6144, "mask_block_sizes": [4, 8], "mask_token_id": 151669},
    **{"max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "CoDA", "num_attention_heads": 16},
    **{"num_hidden_layers": 28, "num_key_value_heads": 8, "pad_token_id": 151643, "prefix_probability": 0},
    **{"sampling_eps": [0.001, 0.25], "truncate_probability": 0, "vocab_size": 151936},
}
LLADA = {
    **{"activation_type": "silu", "alibi": False, "alibi_bias_max": 8.0, "architectures": ["LLaDAModelLM"]},
    **{"attention_layer_norm": False, "attention_layer_norm_with_affine": True, "bias_for_layer_norm": False},
    "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
    **{"block_group_size": 1, "block_type": "llama", "d_model": 4096, "embedding_size": 126464, "eos_token_id": 126081},
    **{"flash_attention": True, "include_bias": False, "include_qkv_bias": False, "init_fn": "mitchell"},
    **{"input_emb_norm": False, "layer_norm_type": "rms", "layer_norm_with_affine": True, "mask_token_id": 126336},
    **{"max_sequence_length": 4096, "mlp_hidden_size": 12288, "mlp_ratio": 4, "model_type": "llada"},
    **{"multi_query_attention": None, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "pad_token_id": 126081},
    **{"precision": "amp_bf16", "rms_norm_eps": 1e-05, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0},
    **{"scale_logits": False, "use_cache": False, "vocab_size": 126464, "weight_tying": False},
}
FORMS = {
    "SDAR": [(SDAR, {"<|MASK|>": 151669}), (SDAR | {"block_size": 4, "mask_token_id": 151669}, {})],
    "Stable-DiffCoder": [
        (DIFFCODER, {}),
        (
            # An older revision.
            DIFFCODER
            | {
                "architectures": ["LlamaForCausalLM"],
                "auto_map": {"AutoModelForCausalLM": "modeling_seed_diffcoder.SeedDiffcoderForCausalLM"},
            },
            {},
        ),
    ],
    "Open-dCoder": [(OPEN, {"<M>": 151665, "<|im_end|>": 151645})],
    "CoDA": [(CODA, {})],
    "LLaDA": [(LLADA, {})],
}


def saved_by_transformers_5(raw):
    """The same as transformers 5 writes it."""
    rope = {"rope_theta": raw["rope_theta"], "rope_type": "default"}
    layers = ["full_attention"] * raw.get("num_hidden_layers", 1)
    new = {"rope_parameters": rope, "layer_types": layers, "dtype": raw.get("torch_dtype"), "transformers_version": "5.3.0"}
    return {key: value for key, value in raw.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")} | new


@pytest.mark.parametrize(("name", "raw", "added"), [(name, *form) for name, forms in FORMS.items() for form in forms])
def test_a_released_configuration_is_read_as_its_family_and_shape(name, raw, added):
    for one in (raw, raw if name == "LLaDA" else saved_by_transformers_5(raw)):
        family = family_of(one, added)
        assert family.name == name
        assert family.read_config(one, added) == SHAPES[name]
