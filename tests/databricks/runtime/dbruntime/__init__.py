"""The runtime's own package, as far as databricks.sdk.runtime asks for it."""

from dbruntime.sdk_credential_provider import init_runtime_native_auth


class Secrets:
    def get(self, scope, key):
        from databricks.sdk import core, dbutils

        host, headers = init_runtime_native_auth()
        token = headers()["Authorization"].removeprefix("Bearer ")
        return dbutils.RemoteDbUtils(core.Config(host=host, token=token)).secrets.get(scope, key)


class Utilities:
    secrets = Secrets()


class UserNamespaceInitializer:
    @classmethod
    def getOrCreate(cls):  # noqa: N802 the runtime's own name
        return cls()

    def get_namespace_globals(self):
        return {"dbutils": Utilities()}
