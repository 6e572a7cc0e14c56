"""The bundled scenarios: YAML files that `fedsim run NAME` finds wherever fedsim is installed."""
