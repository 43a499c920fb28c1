"""The interactive parts of the notebooks; each has a still picture or text made by the same code.

None of them uses `ipywidgets.Output`: when a notebook is executed without a browser, nbclient
answers that widget on the channel on which it waits for the end of the cell, and may wait forever.
"""

import html
from typing import TYPE_CHECKING

from helpers.chunking import chunk
from helpers.engine.next_tokens import next_tokens
from helpers.engine.page import page
from helpers.engine.page_data import block_data, document_data
from helpers.engine.writing import Background, Column, knobs
from helpers.figures import heat_map, token_boxes, visible
from helpers.generation import check_prompt, continue_texts
from helpers.models import context_length, prefix_token
from helpers.perplexity import score_documents

if TYPE_CHECKING:
    from datasets import Dataset
    from IPython.display import HTML
    from ipywidgets import Widget
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def blocks_page(
    sample: "Dataset", tokenizer: "PreTrainedTokenizerBase", context: int, start: tuple[int, str]
) -> "HTML":
    """Blocks with their words and masks, for five sizes up to the context, and each strategy.

    Args:
        sample: Documents as token ids; all are cut, and the first blocks are shown.
        start: The block size and the strategy that are shown first.
    """
    from IPython.display import HTML

    data = block_data(chunk, sample, tokenizer, context, start)
    text = "".join(data["words"][place] for place in data["tokens"][:200])
    return HTML(page("blocks", data, f"End to end, the documents begin: {html.escape(text)} …"))


def documents_page(
    models: dict[str, "PreTrainedModel"], tokenizer: "PreTrainedTokenizerBase", texts: list[str]
) -> "HTML":
    """Texts in a list; each token of the chosen one is coloured by its nats under two models."""
    from IPython.display import HTML

    texts = [text for text in texts if text] or [""]  # which is refused in a sentence
    coded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    documents, prefix, still = coded.input_ids, prefix_token(tokenizer), ""
    scores = [score_documents(model, documents, texts, prefix) for model in models.values()]
    for number, offsets in enumerate(coded.offset_mapping[:2]):
        nats = {n: s.document(number)[:90] for n, s in zip(models, scores, strict=True)}
        still += heat_map(texts[number][: offsets[:90][-1][1]], offsets[:90], nats).data
    data = document_data(models, tokenizer, prefix, documents, scores)
    return HTML(page("documents", data, still))


def next_token(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, **settings: float
) -> "HTML":
    """The likeliest tokens after a prompt, as a page with a slider for each knob.

    The likeliest five go on from there when they are pressed, and so do those after them.

    Args:
        settings: Where the sliders start: `temperature`, `top_k`, `top_p` and `min_p`.
    """
    from IPython.display import HTML

    check_prompt(prompt, 0, tokenizer, context_length(model))
    ids = tokenizer(prompt).input_ids
    [tree] = next_tokens(model, tokenizer, [ids], min(2, context_length(model) - len(ids)))
    start = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | settings
    still = html.escape(", ".join(visible(token) for token in tree["tokens"]))
    data = {"prompt": prompt, "settings": start, "tree": tree}
    return HTML(page("next_token", data, f"The likeliest, in order: {still}."))


def playground(
    models: dict[str, "PreTrainedModel"],
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    **start: float,
) -> "Widget":
    """A prompt, the knobs, and a column for each model, which shows its text while it is written.

    The stronger the colour of a piece, the less likely the model found it.

    Args:
        start: Where the controls start: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `seed`.
    """
    import ipywidgets

    text = ipywidgets.Textarea(value=prompt, description="prompt", layout={"width": "95%"})
    controls = knobs(start)
    button = ipywidgets.Button(description="Continue", button_style="primary")
    said, layout = ipywidgets.HTML(), {"flex": "1 1 0", "margin": "0 1em 0 0"}
    columns = {name: ipywidgets.HTML(layout=layout) for name in models}
    background = Background(button, said)

    def press(_) -> None:
        given, settings = text.value, {name: control.value for name, control in controls.items()}

        def write() -> None:
            for column in columns.values():
                column.value = ""
            for name, model in models.items():
                if not background.stop.is_set():
                    column = Column(columns[name], name, tokenizer, background.stop)
                    continue_texts(model, tokenizer, [given], **settings, **column.options())

        background.start_or_stop(write)

    button.on_click(press)
    below = ipywidgets.HBox(list(columns.values()))
    return ipywidgets.VBox([text, *controls.values(), button, said, below])


def typed_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    sentence: str,
    second: "PreTrainedTokenizerBase | None" = None,
) -> "Widget":
    """A line to type in, and the tokens of what stands there, with their ids.

    Args:
        second: Another tokenizer, which is shown beside the first.
    """
    import ipywidgets

    line = ipywidgets.Text(value=sentence, description="sentence", layout={"width": "95%"})
    boxes = ipywidgets.HTML()

    def draw(_=None) -> None:
        columns = ""
        for one in filter(None, (tokenizer, second)):
            ids = one(line.value, add_special_tokens=False).input_ids
            row = token_boxes([one.decode([i]) for i in ids], labels=ids).data
            said = f"{len(ids)} tokens, from a vocabulary of {len(one):,}"
            columns += f'<div style="flex:1"><div role="status">{said}</div>{row}</div>'
        boxes.value = f'<div style="display:flex;gap:1.5em">{columns}</div>'

    line.observe(draw, "value")
    draw()
    return ipywidgets.VBox([line, boxes])
