"""The import contracts in pyproject.toml speak of every module there is, and of no other."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pushgate

PACKAGE = Path(pushgate.__file__).parent
CONTRACTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]
BOUND = {
    name for contract in CONTRACTS for key in ("source_modules", "modules", "layers") for name in contract.get(key, ())
}
"""Those that a contract restrains."""
NAMED = BOUND | {name for contract in CONTRACTS for name in contract.get("forbidden_modules", ())}


def there_are() -> set[str]:
    """The modules and packages right below `pushgate`, but for its entry point."""
    files = {path.stem for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")}
    return files | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}


def test_every_module_is_bound_by_a_contract() -> None:
    bound = {name.split(".")[1] for name in BOUND}
    top = {"cli", "commands", "demo"}  # nobody imports them, and they import everything
    assert there_are() - bound == top


def test_every_module_is_named_in_a_contract() -> None:
    assert there_are() - {name.split(".")[1] for name in NAMED if name.startswith("pushgate.")} == set()


def test_no_contract_names_a_module_that_is_gone() -> None:
    for name in NAMED:
        if name.startswith("pushgate."):
            path = PACKAGE.joinpath(*name.split(".")[1:])
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), name
