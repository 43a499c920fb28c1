"""The interactive pieces of the notebooks. Each has a still picture or text beside it, made by the same code.

None of them is made with `ipywidgets.Output`: where a notebook is executed without a browser, nbclient answers that widget on the channel
on which it waits for the end of the cell, and now and then waits for ever.
"""

import html
import os
import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from helpers.chunking import chunk
from helpers.engine.progress import FILE
from helpers.errors import UserError
from helpers.figures import draw_blocks, draw_losses, png
from helpers.generation import continue_text
from helpers.runs.parameters import RULES
from helpers.training import losses_of

if TYPE_CHECKING:
    from datasets import DatasetDict
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def block_size_slider(tokenized: "DatasetDict", eos_token_id: int, context: int) -> "Widget":
    """The first blocks in colour, for a block size and a strategy that the reader chooses."""
    import ipywidgets

    sizes = [size for size in (16, 32, 64, 128, 256, 512, 1024) if size <= context]
    size = ipywidgets.SelectionSlider(
        options=sizes, value=min(128, sizes[-1]), description="block_size", continuous_update=False
    )
    strategy = ipywidgets.Dropdown(
        options=RULES["chunk"]["strategy"].choices, description="strategy"
    )
    said, image = ipywidgets.HTML(), ipywidgets.Image(format="png", width=700)

    def draw(_=None) -> None:
        try:
            blocks, accounts = chunk(tokenized, size.value, eos_token_id, strategy.value)
        except UserError as error:
            said.value = html.escape(str(error))
            return
        account = accounts["train"]
        said.value = f"{account.blocks:,} blocks, {account.places_filled:.1%} of their places filled, {account.documents_cut:,} documents cut"
        image.value = png(draw_blocks(blocks["train"], size.value))

    for knob in (size, strategy):
        knob.observe(draw, "value")
    draw()
    return ipywidgets.VBox([size, strategy, said, image])


class LiveCurve(TrainerCallback):
    """The losses while a model is trained, drawn anew every two seconds; nothing in a batch run, where nobody looks."""

    def __init__(self, base_loss: float):
        self.base_loss, self._drawn, self._image = base_loss, 0.0, None

    def on_train_begin(self, args, state, control, **kwargs):
        """Put an empty picture there."""
        if FILE not in os.environ and state.is_world_process_zero:
            import ipywidgets
            from IPython.display import display

            self._image = ipywidgets.Image(format="png", width=700)
            display(self._image)

    def on_log(self, args, state, control, **kwargs):
        """Draw what is known by now."""
        history = losses_of(state)
        if (
            self._image is not None
            and time.monotonic() - self._drawn > 2
            and any("train_loss" in e for e in history)
        ):
            self._image.value = png(draw_losses(history, self.base_loss))
            self._drawn = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        """The last picture."""
        self._drawn = 0.0
        self.on_log(args, state, control)


def playground(
    models: dict[str, "PreTrainedModel"], tokenizer: "PreTrainedTokenizerBase", prompt: str
) -> "Widget":
    """A prompt and the knobs of sampling, and what each model makes of them when the button is pressed."""
    import ipywidgets

    text = ipywidgets.Textarea(value=prompt, description="prompt", layout={"width": "95%"})
    knobs = {
        "max_new_tokens": ipywidgets.IntSlider(value=60, min=5, max=200, description="new tokens"),
        "temperature": ipywidgets.FloatSlider(
            value=0.8, min=0.1, max=2.0, step=0.1, description="temperature"
        ),
        "top_k": ipywidgets.IntSlider(value=50, min=0, max=200, description="top_k"),
        "top_p": ipywidgets.FloatSlider(
            value=0.95, min=0.05, max=1.0, step=0.05, description="top_p"
        ),
        "seed": ipywidgets.IntText(value=0, description="seed"),
    }
    button, output = (
        ipywidgets.Button(description="Continue", button_style="primary"),
        ipywidgets.HTML(),
    )

    def press(_) -> None:
        output.value, settings = "", {name: knob.value for name, knob in knobs.items()}
        try:
            for name, model in models.items():
                written = html.escape(continue_text(model, tokenizer, text.value, **settings))
                output.value += (
                    f"<b>{html.escape(name)}</b><p style='white-space: pre-wrap'>{written}</p>"
                )
        except UserError as error:
            output.value = html.escape(str(error))

    button.on_click(press)
    return ipywidgets.VBox([text, *knobs.values(), button, output])
