"""Every error that says what a host lacks, as the guide's table: ``python -m tests.support.host_errors``."""

from __future__ import annotations

import ast
import sys

from tests.support.guide import ROOT

_ERROR = "UnsupportedHostError"


def _text(node: ast.expr | None, constants: dict[str, ast.expr]) -> str:
    """What an expression says, with ``...`` for what is known only when it is raised."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) for part in node.values)
    if isinstance(node, ast.Name) and node.id in constants:
        return _text(constants[node.id], constants)
    return "..."


def _rows() -> set[tuple[str, ...]]:
    rows = set()
    for path in sorted((ROOT / "kmem_harness").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != _ERROR:
                continue
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            parts = (node.args[0] if node.args else None, named.get("missing"), named.get("remedy"))
            rows.add(tuple(_text(part, constants).replace("|", "\\|") for part in parts))
    return {row for row in rows if row[0].strip(". :")}


def markdown() -> str:
    """The table: what is said, what is missing, what to do."""
    lines = ["| error | what is missing | what to do |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in sorted(_rows())]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
