"""What hostile files are made of."""


class Evil:
    """An object whose pickle calls a function of its choice."""

    def __reduce__(self):
        return (eval, ("1 + 1",))
