"""Several processes on one model: started as torchrun starts them, or by torchrun, and what they found.

Test support. Run as a program under torchrun it searches each folder it is given, shared, and writes what it found.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


def found_in(folder: Path | str, tensor_parallel: bool = False) -> dict[str, Any]:
    """What a search of `folder` finds on the trigger's prompts, as JSON."""
    from trigger import prompts

    from superweights import Search, Source, find

    source = Source(str(folder), tensor_parallel=tensor_parallel)
    return find(source, Search(budget=3), token_ids=prompts()).to_json()


def by_torchrun(*arguments: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    """torchrun with so many processes of a program (`-m superweights ...`, or a file)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.run(
        [*command, *arguments], env=os.environ | _QUIET, capture_output=True, text=True, timeout=300
    )


def side_by_side(*commands: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Process r runs `commands[r]`, told of the others as torchrun tells it; all are waited for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    whole = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | _QUIET | whole | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    ended = []
    for process in started:
        said, complained = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, said, complained))
    return ended


def main() -> None:
    to, *folders = map(Path, sys.argv[1:])
    for folder in folders:
        found = found_in(folder, tensor_parallel=True)
        Path(to, f"{folder.name}.{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
