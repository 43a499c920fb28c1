"""The interactive pieces of the notebooks. Each has a still picture or text beside it, made by the same code."""

from typing import TYPE_CHECKING

from helpers.chunking import chunk
from helpers.display import draw_blocks, picture
from helpers.errors import UserError
from helpers.generation import continue_text
from helpers.parameters import RULES

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
