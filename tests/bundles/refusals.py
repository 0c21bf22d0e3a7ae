"""What tests of refused input look at."""


def leftovers(folder):
    """Files under temporary names."""
    return [path for path in folder.rglob("*") if path.name.startswith((".", "tmp"))]


def kinds(error):
    return {kind.__name__ for kind in type(error).__mro__}
