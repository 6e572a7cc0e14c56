"""fedsim as a Flower app: `flwr run .` in this repository runs a scenario (`[tool.flwr.app]` in pyproject.toml)."""
