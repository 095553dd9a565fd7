"""A list for tests that look on while a model runs."""


class Witness:
    """Remembers what runs did: copies of a model share it, and no run of ours puts it back."""

    __slots__ = ("seen",)

    def __init__(self):
        self.seen = []

    def __deepcopy__(self, memo):
        return self

    def note(self, what):
        """Remember one more."""
        self.seen.append(what)
