"""`python -m chexseg_platform.cli`, where the command is not installed."""

from chexseg_platform.cli import main

main()
