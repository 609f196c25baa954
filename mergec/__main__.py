"""`python -m mergec`."""

from mergec.cli.main import main

if __name__ == "__main__":
    main()
