"""What a person reads when something fails."""


def lines(error: Exception) -> list[str]:
    """The message, line by line; for anything but bad input, with what it was."""
    text = str(error) or "no message"
    if not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text}; a fault of ours or of a tool, --debug shows where"
    return [line for line in text.strip().splitlines() if line.strip()]
