"""A Databricks workspace on loopback, which really executes what is submitted to it.

    with databricks(tmp_path) as workspace:                      # workspace.environment: DATABRICKS_HOST and _TOKEN
    with databricks(tmp_path, tracking=True) as workspace:       # with a tracking server behind it

Workspace files, the Files API, DBFS, secrets, jobs, and with `tracking` experiments, runs, LoggedModels and
their artifacts and the registry of Unity Catalog, in the shapes of the REST reference and of what the clients ask for.
The tracking store is MLflow's own server. What cannot be here are the paths of a cluster: /Workspace, /dbfs
and /databricks/mlflow in a task's words are rewritten to folders of the stand-in; nothing else is touched.
"""

from tests.databricks.service import TOKEN, USER, Workspace, databricks

__all__ = ["TOKEN", "USER", "Workspace", "databricks"]
