"""The interactive pieces of the notebooks. Each has a still picture or text beside it, made by the same code."""

import os
import time
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from helpers.chunking import chunk
from helpers.display import draw_blocks, draw_losses, picture, png
from helpers.errors import UserError
from helpers.generation import continue_text
from helpers.parameters import RULES
from helpers.progress import FILE
from helpers.training import losses_of

if TYPE_CHECKING:
    from datasets import DatasetDict
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def block_size_slider(tokenized: "DatasetDict", eos_token_id: int, context: int) -> "Widget":
    """The first blocks in colour, for a block size and a strategy that the reader chooses."""
    import ipywidgets
    from IPython.display import display

    def draw(block_size: int, strategy: str) -> None:
        try:
            blocks, accounts = chunk(tokenized, block_size, eos_token_id, strategy)
        except UserError as error:
            print(error)
            return
        account = accounts["train"]
        print(
            f"{account.blocks:,} blocks, {account.places_filled:.1%} of their places filled, {account.documents_cut:,} documents cut"
        )
        display(
            picture(
                draw_blocks(blocks["train"], block_size),
                f"The first blocks of {block_size} tokens, coloured by document.",
            )
        )

    sizes = [size for size in (16, 32, 64, 128, 256, 512, 1024) if size <= context]
    return ipywidgets.interactive(
        draw,
        block_size=ipywidgets.SelectionSlider(
            options=sizes, value=min(128, sizes[-1]), description="block_size", continuous_update=False
        ),
        strategy=ipywidgets.Dropdown(options=RULES["chunk"]["strategy"].choices, description="strategy"),
    )


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
        if self._image is not None and time.monotonic() - self._drawn > 2 and any("train_loss" in e for e in history):
            self._image.value = png(draw_losses(history, self.base_loss))
            self._drawn = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        """The last picture."""
        self._drawn = 0.0
        self.on_log(args, state, control)


def playground(models: dict[str, "PreTrainedModel"], tokenizer: "PreTrainedTokenizerBase", prompt: str) -> "Widget":
    """A prompt and the knobs of sampling, and what each model makes of them when the button is pressed."""
    import ipywidgets

    text = ipywidgets.Textarea(value=prompt, description="prompt", layout={"width": "95%"})
    knobs = {
        "max_new_tokens": ipywidgets.IntSlider(value=60, min=5, max=200, description="new tokens"),
        "temperature": ipywidgets.FloatSlider(value=0.8, min=0.1, max=2.0, step=0.1, description="temperature"),
        "top_k": ipywidgets.IntSlider(value=50, min=0, max=200, description="top_k"),
        "top_p": ipywidgets.FloatSlider(value=0.95, min=0.05, max=1.0, step=0.05, description="top_p"),
        "seed": ipywidgets.IntText(value=0, description="seed"),
    }
    button, output = ipywidgets.Button(description="Continue", button_style="primary"), ipywidgets.Output()

    def press(_) -> None:
        output.clear_output()
        with output:
            for name, model in models.items():
                try:
                    print(
                        f"{name}\n{continue_text(model, tokenizer, text.value, **{k: w.value for k, w in knobs.items()})}\n"
                    )
                except UserError as error:
                    print(error)
                    break

    button.on_click(press)
    return ipywidgets.VBox([text, *knobs.values(), button, output])
