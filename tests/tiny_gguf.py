"""A GGUF file of a Llama of two layers that knows a token for every byte, and the model that it was made from."""

from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.conftest import CHATML, byte_tokenizer, tiny_model

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
Q4_1 = GGMLQuantizationType.Q4_1


def write(path: Path, without: str = "", spoilt: str = "", architecture: str = "llama") -> PreTrainedModel:
    """Writes the file, with its feed-forward networks in Q4_1, and gives the model as it then is.

    without: a tensor that is left out. spoilt: one that holds something that is no number.
    """
    model = tiny_model("llama", AutoModelForCausalLM, num_hidden_layers=2, intermediate_size=64, vocab_size=300)
    tokenizer = byte_tokenizer("chatml")
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    tokens.append("ab")  # since a file without merges isn't read
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(300)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if "<|" in token else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_pad_token_id(tokens.index("<|im_end|>"))
    writer.add_chat_template(CHATML)
    for name, weight in model.state_dict().items():
        own, values = _named(name), weight.float().numpy()
        if own is None or own == without:
            continue
        if "ffn_" in own and values.ndim == 2:
            packed = quantize(values, Q4_1)
            weight.copy_(torch.from_numpy(dequantize(packed, Q4_1)))
            writer.add_tensor(own, packed, raw_dtype=Q4_1)
            continue
        heads = {"attn_q": 4, "attn_k": 2}.get(own.split(".")[-2])
        if heads:  # halves of a head's dimensions lie in turns
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        if own == spoilt:
            values = np.full_like(values, np.nan)
        writer.add_tensor(own, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _named(name: str) -> str | None:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem, _, kind = name.rpartition(".")
    if stem in whole:
        return f"{whole[stem]}.{kind}"
    parts = stem.split(".", 3)
    return f"blk.{parts[2]}.{NAMES[parts[3]]}.{kind}" if len(parts) == 4 else None
