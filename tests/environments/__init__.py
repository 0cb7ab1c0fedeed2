"""Environments beside the main one."""


def without_network(monkeypatch):
    """No index answers and no cache has anything, as on a machine that is not connected."""
    nowhere = {
        "UV_OFFLINE": "1",
        "UV_NO_CACHE": "1",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_NO_CACHE_DIR": "1",
    }
    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
