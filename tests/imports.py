"""What a module imports, read off its text."""

import ast


def imported_by(path):
    """The names of the modules, relative imports apart, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
