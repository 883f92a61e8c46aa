"""Words in a plot, short enough to leave room for what it shows."""

# Letters of a name: with more of them matplotlib finds no room for the axes.
LONGEST = 48


def clip(text: str, length: int = LONGEST) -> str:
    """`text`, or its beginning and an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def shown_name(name: str) -> str:
    """A system's name as a plot shows it."""
    # A legend leaves out what starts with an underscore.
    return clip(f"\u200b{name}" if name.startswith("_") else name)
