"Write constraints.txt: the versions, in this environment, of all that the package and its extras need"

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from nbdev.config import get_config
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

AVOIDED = {  # package -> why it is not in the tested set, and the way out
    "rfc3987-syntax": "it compiles a grammar for over a second in every process that imports jsonschema, such as "
    "each worker of Ray: pip install 'jsonschema<4.25' && pip uninstall -y rfc3987-syntax lark",
}
UNPINNED = (
    "mlflow_requirements",
    "wandb_requirements",
)  # too large for the tested set: their tests run where they are installed


def declared(config):
    "Requirements of the package and of each of its extras"
    keys = [key for key in config.d if key == "requirements" or key.endswith("_requirements")]
    keys = [key for key in keys if key not in UNPINNED]
    return [Requirement(word) for key in keys for word in config.d[key].split()]


def needs(
    package,  # an installed distribution
    extras: set[str],  # those that were asked for
):
    "What an installed package requires here"
    for need in map(Requirement, package.requires or []):
        if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield need


def closure(
    wanted,  # requirements to begin with
) -> dict[str, str]:  # name -> version, without the label of a local build
    "Everything that is installed because of them"
    found, seen, waiting = {}, set(), list(wanted)
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if (name, *sorted(need.extras)) in seen:
            continue
        seen.add((name, *sorted(need.extras)))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is not installed: pip install -e '.[dev]' first.") from None
        if name in AVOIDED:
            raise SystemExit(f"{name} is not wanted: {AVOIDED[name]}.")
        found[name] = Version(package.version).public
        waiting += needs(package, need.extras)
    return found


if __name__ == "__main__":
    config = get_config()
    lines = [f"{name}=={version}" for name, version in sorted(closure(declared(config)).items())]
    text = "# The tested set of versions, by nbs/_tools/constraints.py: pip install -c constraints.txt ...\n"
    Path(config.config_path, "constraints.txt").write_text(text + "\n".join(lines) + "\n")
