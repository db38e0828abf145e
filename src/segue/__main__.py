"""`python -m segue`, the form that torchrun takes."""

from segue.cli.commands import main

main()
