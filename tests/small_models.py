"""Models with random weights, made on the spot: 2 layers, 32 wide, a vocabulary of 64."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
BERT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 16,
}


def small(dropout=0.0, seed=0, loss_type="ForCausalLM", **changes):
    """A GPT-2 with a context of 32 and the loss of causal models; `changes` are to its shape."""
    torch.manual_seed(seed)
    shape = {"vocab_size": 64, "n_positions": 32, "n_layer": 2, "n_embd": 32, "n_head": 2}
    shape |= dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout) | changes
    model = GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, use_cache=False))
    model.loss_type = loss_type
    return model


def llama(tie):
    """A Llama, whose embedding is its output layer too with `tie`."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=tie, use_cache=False))


def word_level(size=3, **special):
    """A tokenizer of `size` words, `[UNK]`, `a` and `b` first."""
    words = {"[UNK]": 0, "a": 1, "b": 2} | {f"w{i}": i for i in range(3, size)}
    words = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special)
