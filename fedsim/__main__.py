"""`python -m fedsim`, the same as the command `fedsim`."""

from fedsim.cli import main

main()
