"""`python -m quorra_server` is `quorra-server`."""

from quorra_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
