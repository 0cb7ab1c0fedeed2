"""How the runtime's own process reaches its workspace."""

import os


def init_runtime_native_auth():
    """Nothing in a process that the runtime did not start itself, such as that process's children."""
    if os.environ.get("STAND_IN_TASK") != str(os.getpid()):
        return None, None
    token = os.environ["STAND_IN_TOKEN"]
    return os.environ["STAND_IN_HOST"], lambda: {"Authorization": f"Bearer {token}"}
