"""The error of a user's input: one line, no traceback."""


class ParameterError(ValueError):
    """A bad parameter or input; the message is one line and names the accepted values."""

    def _render_traceback_(self) -> list[str]:
        # Jupyter prints this instead of a traceback: the reader needs the line, not our call stack.
        return [f"ParameterError: {self}"]
