"""Generate the Python stubs from the `.proto` file, or check that the committed ones are current.

Usage: python tools/generate.py [--check]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
PROTO_ROOT = PACKAGE / "proto"
OUTPUT_ROOT = PACKAGE / "src"
PROTO_FILE = "quorra_proto/v1/quorra.proto"


def generate(output_root: Path) -> None:
    """Write messages, services and both of their stub files below `output_root`."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--python_out={output_root}",
            f"--grpc_python_out={output_root}",
            f"--mypy_out={output_root}",
            f"--mypy_grpc_out={output_root}",
            PROTO_FILE,
        ],
        check=True,
    )


def stale_files(fresh_root: Path) -> list[str]:
    """Return the committed stubs that differ from the ones below `fresh_root`."""
    fresh = {path.relative_to(fresh_root): path.read_bytes() for path in fresh_root.rglob("*_pb2*")}
    return sorted(
        str(name)
        for name, content in fresh.items()
        if not (OUTPUT_ROOT / name).exists() or (OUTPUT_ROOT / name).read_bytes() != content
    )


def main() -> int:
    """Generate in place, or with `--check` elsewhere and compare."""
    if "--check" not in sys.argv[1:]:
        generate(OUTPUT_ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = stale_files(Path(scratch))
    for name in stale:
        print(f"stale: {name}; run `hatch run proto` and commit the result", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
