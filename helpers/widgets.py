"""The interactive parts of the notebooks; each has a still picture or text made by the same code.

None of them uses `ipywidgets.Output`: when a notebook is executed without a browser, nbclient
answers that widget on the channel on which it waits for the end of the cell, and may wait forever.
"""

import html
from typing import TYPE_CHECKING

from helpers.chunking import chunk
from helpers.engine.blocks import STRATEGIES
from helpers.engine.page import few_numbers, page
from helpers.errors import UserError
from helpers.figures import block_boxes, visible
from helpers.generation import check_prompt, continue_text
from helpers.models import context_length

if TYPE_CHECKING:
    from datasets import Dataset
    from IPython.display import HTML
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def block_size_slider(
    tokenized: "Dataset", tokenizer: "PreTrainedTokenizerBase", context: int
) -> "Widget":
    """The first blocks in colour, for the block size and strategy that the reader chooses."""
    import ipywidgets

    sizes = [size for size in (16, 32, 64, 128, 256, 512, 1024) if size <= context]
    size = ipywidgets.SelectionSlider(
        options=sizes, value=min(128, sizes[-1]), description="block_size", continuous_update=False
    )
    strategy = ipywidgets.Dropdown(options=STRATEGIES, description="strategy")
    caption, picture = ipywidgets.HTML(), ipywidgets.HTML()

    def draw(_=None) -> None:
        try:
            blocks, account = chunk(tokenized, size.value, tokenizer.eos_token_id, strategy.value)
        except UserError as error:
            caption.value = html.escape(str(error))
            return
        caption.value = (
            f"{account.blocks:,} blocks, {account.places_filled:.1%} of their places filled, "
            f"{account.documents_cut:,} documents cut"
        )
        picture.value = block_boxes(blocks, tokenizer).data

    for control in (size, strategy):
        control.observe(draw, "value")
    draw()
    return ipywidgets.VBox([size, strategy, caption, picture])


def next_token(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, **settings: float
) -> "HTML":
    """The likeliest tokens after a prompt, as a page with a slider for each knob.

    Args:
        settings: Where the sliders start: `temperature`, `top_k`, `top_p` and `min_p`.
    """
    import torch
    from IPython.display import HTML

    check_prompt(prompt, 0, tokenizer, context_length(model))
    with torch.inference_mode():
        seen = torch.tensor([tokenizer(prompt).input_ids], device=model.device)
        logits = model(input_ids=seen, use_cache=False).logits[0, -1].float().cpu()
    order = logits.argsort(descending=True)[:20].tolist()
    start = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
    tokens = [tokenizer.decode([token]) for token in order]
    data = {"prompt": prompt, "settings": start, "tokens": tokens, **few_numbers(logits.numpy())}
    chances = zip(tokens, logits.softmax(-1)[order].tolist(), strict=True)
    still = ", ".join(f"{visible(token)} {chance:.1%}" for token, chance in chances)
    return HTML(page("next_token", data, f"The likeliest: {html.escape(still)}."))


def playground(
    models: dict[str, "PreTrainedModel"], tokenizer: "PreTrainedTokenizerBase", prompt: str
) -> "Widget":
    """A prompt, the settings of sampling, and each model's text when the button is pressed."""
    import ipywidgets

    def slider(kind: type, value: float, low: float, high: float, step: float, name: str):
        return kind(value=value, min=low, max=high, step=step, description=name)

    text = ipywidgets.Textarea(value=prompt, description="prompt", layout={"width": "95%"})
    controls = {
        "max_new_tokens": slider(ipywidgets.IntSlider, 60, 5, 200, 1, "new tokens"),
        "temperature": slider(ipywidgets.FloatSlider, 0.8, 0.1, 2.0, 0.1, "temperature"),
        "top_k": slider(ipywidgets.IntSlider, 50, 0, 200, 1, "top_k"),
        "top_p": slider(ipywidgets.FloatSlider, 0.95, 0.05, 1.0, 0.05, "top_p"),
        "seed": ipywidgets.IntText(value=0, description="seed"),
    }
    button = ipywidgets.Button(description="Continue", button_style="primary")
    output = ipywidgets.HTML()

    def press(_) -> None:
        output.value, settings = "", {name: control.value for name, control in controls.items()}
        try:
            for name, model in models.items():
                new = html.escape(continue_text(model, tokenizer, text.value, **settings))
                style = "white-space: pre-wrap"
                output.value += f"<b>{html.escape(name)}</b><p style='{style}'>{new}</p>"
        except UserError as error:
            output.value = html.escape(str(error))

    button.on_click(press)
    return ipywidgets.VBox([text, *controls.values(), button, output])


def quiz(key: list[str]) -> "Widget":
    """Buttons A and B for each pair of texts, and how many of the guesses are those of `key`."""
    import ipywidgets

    guesses = [
        ipywidgets.ToggleButtons(options=["A", "B"], value=None, description=f"pair {number}")
        for number in range(1, len(key) + 1)
    ]
    button = ipywidgets.Button(description="Score", button_style="primary")
    output = ipywidgets.HTML()

    def press(_) -> None:
        chosen = [guess.value for guess in guesses]
        right = sum(one == other for one, other in zip(chosen, key, strict=True))
        left = chosen.count(None)
        output.value = f"{left} to go" if left else f"{right} of {len(key)} right"

    button.on_click(press)
    return ipywidgets.VBox([*guesses, button, output])
