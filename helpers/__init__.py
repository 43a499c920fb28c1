"""Causal language modelling, step by step: the code that the notebooks import.

The names below are loaded when they are first used, so that importing the package costs no import of torch.
"""

import importlib
import os

# How long a thread of PyTorch's spins at the end of a piece of work, before it sleeps: by default so long that programs
# beside each other starve one another, kernels and sweeps among them. Read when torch is loaded, by GNU's OpenMP (Linux;
# in turns of a loop), or by LLVM's and Intel's (macOS and Windows; in milliseconds).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2500")
    os.environ.setdefault("KMP_BLOCKTIME", "1")

_HOME = {
    "begin": "runs.folder",
    "drop_empty": "data",
    "load": "data",
    "left_out": "data",
    "load_examples": "data",
    "near_duplicates": "data",
    "shared_ngrams": "data",
    "save": "data",
    "split_fairly": "data",
    "texts": "columns",
    "tokenize": "tokenization",
    "context_length": "models",
    "load_config": "models",
    "load_model": "models",
    "load_tokenizer": "models",
    "prefix_token": "models",
    "chunk": "chunking",
    "totals": "chunking",
    "check_block_size": "collation",
    "collate": "collation",
    "BlockTrainer": "trainer",
    "Samples": "engine.watch",
    "add_lora": "training",
    "check_separable": "training",
    "housekeeping": "training",
    "peak_share": "training",
    "save_model": "training",
    "check_tokenizers_agree": "training",
    "choose_dtype": "training",
    "losses_of": "training",
    "compare": "perplexity",
    "definitions": "perplexity",
    "flat": "perplexity",
    "score_blocks": "perplexity",
    "score_documents": "perplexity",
    "score_stride": "perplexity",
    "interval": "perplexity",
    "check_prompt": "generation",
    "continue_text": "generation",
    "login_state": "hub.download",
    "check_publishing": "hub.publishing",
    "model_card": "hub.publishing",
    "publish": "hub.publishing",
    "axes": "figures",
    "draw_lines": "figures",
    "heat_map": "figures",
    "draw_bars": "figures",
    "draw_blocks": "figures",
    "draw_losses": "figures",
    "picture": "figures",
    "block_size_slider": "widgets",
    "LiveCurve": "widgets",
    "playground": "widgets",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'helpers' has no attribute {name!r}")
    return getattr(importlib.import_module(f"helpers.{_HOME[name]}"), name)
