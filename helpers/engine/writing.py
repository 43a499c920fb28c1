"""The playground's parts: texts shown while models write them, in a thread, so that they stop."""

import html
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from helpers.errors import UserError

if TYPE_CHECKING:
    import torch
    from ipywidgets import HTML, Button, Widget
    from transformers import PreTrainedTokenizerBase


def knobs(start: dict[str, float]) -> dict[str, "Widget"]:
    """A control for each parameter of writing, by its name; `start` has values to begin with."""
    import ipywidgets

    ranges = {  # value, least, most, step
        "max_new_tokens": (60, 5, 200, 1),
        "temperature": (0.8, 0.1, 2.0, 0.1),
        "top_k": (50, 0, 200, 1),
        "top_p": (0.95, 0.05, 1.0, 0.05),
    }
    controls = {}
    for name, (usual, least, most, step) in ranges.items():
        value = start.get(name, usual)
        kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
        limits = {"min": min(least, value), "max": max(most, value), "step": step}
        controls[name] = kind(value=value, description=name, **limits)
        controls[name].style.description_width = "8em"
    seed = ipywidgets.IntText(value=start.get("seed", 0), description="seed")
    seed.style.description_width = "8em"
    return controls | {"seed": seed}


class Column:
    """A model's text, shown as it grows; `options` are what `generate` needs for that.

    The prompt is paler. The stronger the ground of a piece, the less likely the model found it.
    """

    def __init__(
        self,
        place: "HTML",
        name: str,
        tokenizer: "PreTrainedTokenizerBase",
        stop: threading.Event,
    ):
        self._place, self._tokenizer, self._stop = place, tokenizer, stop
        self._head, self._page, self._open = f"<b>{html.escape(name)}</b>", "", []

    def options(self) -> dict[str, list]:
        """What `generate` needs to show each token, and to end when `stop` is set."""
        return {"logits_processor": [self._before], "stopping_criteria": [self._after]}

    def _before(self, ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
        """Keep the model's own probabilities, which no knob has changed yet."""
        if not self._page:
            prompt = self._tokenizer.decode(ids[0], skip_special_tokens=True)
            self._page = f'<span style="opacity:.7">{html.escape(prompt)}</span>'
        self._chances = scores[0].float().softmax(-1)
        return scores

    def _after(self, ids: "torch.Tensor", scores: object) -> "torch.Tensor":
        """Show the token that was drawn, or wait for the rest of its character."""
        token = int(ids[0, -1])
        self._open.append((token, float(self._chances[token])))
        tokens = [token for token, _ in self._open]
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):
            self._page += shaded_by_chance(text, min(chance for _, chance in self._open))
            self._open = []
            text_style = "white-space:pre-wrap;line-height:1.6"
            self._place.value = f'{self._head}<p style="{text_style}">{self._page}</p>'
        return ids.new_full((len(ids),), self._stop.is_set()).bool()


def shaded_by_chance(text: str, chance: float) -> str:
    """HTML for a piece of text, on a stronger orange the less likely it was.

    >>> shaded_by_chance("a", 0.5)
    '<span style="background:rgba(230,130,0,0.12)" title="50.0%">a</span>'
    """
    ground = f"background:rgba(230,130,0,{(1 - chance) ** 2 / 2:.2f})"
    return f'<span style="{ground}" title="{chance:.1%}">{html.escape(text)}</span>'


class Background:
    """One piece of work at a time, in a thread; the button that starts it is *Stop* meanwhile."""

    def __init__(self, button: "Button", said: "HTML"):
        self.stop = threading.Event()
        self._button, self._said, self._name = button, said, button.description
        self._thread: threading.Thread | None = None

    def start_or_stop(self, work: Callable[[], None]) -> None:
        """Start the work, or stop what is going on."""
        if self._thread and self._thread.is_alive():
            self.stop.set()
            return
        self.stop.clear()
        self._button.description = "Stop"
        self._say("Writing …")
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the work has ended."""
        if self._thread:
            self._thread.join()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._say("Stopped." if self.stop.is_set() else "Done.")
        except UserError as error:
            self._say(str(error))
        except Exception as error:  # nobody sees a thread's traceback
            self._say(f"{type(error).__name__}: {error}")
        finally:
            self._button.description = self._name

    def _say(self, sentence: str) -> None:
        self._said.value = f'<span role="status">{html.escape(sentence)}</span>'
