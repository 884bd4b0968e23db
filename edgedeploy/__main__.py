"""``python -m edgedeploy``: the command line, for those who start it with an interpreter of their choice."""

from edgedeploy.cli.app import main

if __name__ == "__main__":
    main()
