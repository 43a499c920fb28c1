"""The game of notebook 6: which model wrote which text?"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipywidgets import Widget


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
