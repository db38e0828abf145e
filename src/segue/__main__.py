"""`python -m segue`, the form that torchrun takes."""

from segue.cli import main

main()
