"""Running a scenario: the run directory, the federation's cells, the attack jobs, and the table that comes of them."""
