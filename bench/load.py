"""What a request costs a program: wrk asks as fast as it can, and the program's CPU is counted."""

import re
import subprocess
import tempfile

from bench import peers


def spent(program: peers.Program, path: str = "/", connections: int = 32, seconds: int = 4, script: str = "") -> float:
    """CPU microseconds a request, threads of the program included; it is ended then. `script` is wrk's, in Lua.

    Raises: RuntimeError where answers were errors, or none came.
    """
    target = f"http://127.0.0.1:{program.port}{path}"
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        more = ["-s", file.name] if script else []
        command = ["taskset", "-c", str(peers.CORES[-1]), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", *more, target]
        try:
            before = program.cpu()
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            used = program.cpu() - before
        finally:
            program.end()
    if errors := re.search(r"Non-2xx or 3xx responses: (\d+)", said):
        raise RuntimeError(f"{errors[1]} answers were errors")
    found = re.search(r"(\d+) requests in", said)
    if found is None or not int(found[1]):
        raise RuntimeError(f"wrk said: {said}")
    return used / int(found[1]) * 1e6
